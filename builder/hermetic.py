"""Run somebody else's code in isolation: build hooks, and the tools that read what they made.

The environment is cleared, HOME and the temporary folder are the build's own, a deadline
ends every process that was started, and the log is capped. What the kernel allows on top is
found out once by trying (:func:`isolation`) and is reported, never assumed; the order of
preference is in :mod:`builder.hermetic_init`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from builder.workspace import INSIDE, Isolation, SandboxError, Workspace
from images.errors import WainError

LEVELS = ("namespaces", "landlock", "none")
LOG_HEAD = LOG_TAIL = 512 << 10
NOBODY = 65534
_GRACE = 10.0
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from builder.hermetic_init import main; main()"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: exit status (128 + signal), whether the deadline killed it,
    seconds, bytes it printed, and the end of what it printed."""

    status: int
    timed_out: bool
    seconds: float
    printed: int
    tail: bytes


def run(
    workspace: Workspace,
    command: list[str],
    *,
    folder: str,
    environment: Mapping[str, str],
    readable: tuple[str, ...],
    deadline: float,
    log: Path,
) -> Outcome:
    """Run ``command`` (paths as inside) in ``folder`` of the build folder, at most ``deadline``
    seconds. Output goes to ``log`` (appended), beginning and end of it when it is long.

    ``readable`` are files and folders of this machine the command may read, by their real
    paths. Whatever the command started is dead when this returns. Raises
    :class:`SandboxError` when the sandbox cannot be made.
    """
    kept = workspace.isolation
    order = {
        "level": kept.level,
        "uid": kept.uid,
        "gid": kept.gid,
        "owner": os.getuid(),
        "root": str(workspace.root),
        "readable": list(readable),
        "writable": [
            [INSIDE, str(workspace.folder)],
            ["/tmp", workspace.fresh_folder()],  # noqa: S108
        ],
        "folder": workspace.inside(folder) if folder else workspace.inside(),
        "command": command,
        "environment": dict(environment),
        "deadline": deadline,
    }
    return _order(order, deadline, log)


_running: set[subprocess.Popen[bytes]] = set()


def stop_running() -> None:
    """End every command this process runs in a sandbox, from whichever thread it was started.

    For an interrupted wain: each :func:`run` then raises :class:`SandboxError`.
    """
    for process in tuple(_running):
        with contextlib.suppress(ProcessLookupError):
            process.terminate()


def _order(order: dict[str, Any], deadline: float, log: Path) -> Outcome:
    answer_in, answer_out = os.pipe()
    order["answer"] = answer_out
    source = str(Path(__file__).resolve().parent.parent)
    started = time.monotonic()
    process = subprocess.Popen(
        [_own_python(), "-I", "-S", "-c", _START, source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(answer_out,),
        start_new_session=True,
        env={"LC_ALL": "C.UTF-8"},
        cwd="/",
    )
    _running.add(process)
    os.close(answer_out)
    if process.stdin is None or process.stdout is None:
        raise AssertionError
    reader = _Log(process.stdout, log)
    reader.start()
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin as stream:
            stream.write(json.dumps(order).encode())
        with os.fdopen(answer_in, "rb") as stream:
            answered = stream.read() if _readable_within(stream, deadline + _GRACE) else b""
        if answered:
            process.wait()
    finally:
        _end(process)
        _running.discard(process)
        reader.join(timeout=_GRACE)
    answer = json.loads(answered) if answered else {"stopped": True}
    if "stopped" in answer:
        raise SandboxError("build sandbox", "was stopped from outside")
    if "setup" in answer:
        raise SandboxError("build sandbox", f"cannot be made: {answer['setup']}")
    status = int(answer["status"])
    return Outcome(
        status=status if status >= 0 else 128 - status,
        timed_out=bool(answer["timed_out"]),
        seconds=time.monotonic() - started,
        printed=reader.count,
        tail=bytes(reader.tail[-LOG_TAIL:]) if reader.tail else reader.head_end,
    )


def _readable_within(stream: BinaryIO, seconds: float) -> bool:
    import select

    ready, _, _ = select.select([stream], [], [], seconds)
    return bool(ready)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM first: without namespaces the first process has descendants to end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Log(threading.Thread):
    """Reads everything, keeps the beginning and the end."""

    def __init__(self, stream: Any, path: Path) -> None:
        super().__init__(daemon=True)
        self._stream, self._path = stream, path
        self.count = 0
        self.tail = bytearray()
        self.head_end = b""

    def run(self) -> None:
        with self._path.open("ab") as log:
            while data := self._stream.read1(1 << 16):
                room = max(0, LOG_HEAD - self.count)
                if room:
                    log.write(data[:room])
                    log.flush()
                    self.head_end = (self.head_end + data[:room])[-8192:]
                self.count += len(data)
                self.tail += data[room:]
                if len(self.tail) > 4 * LOG_TAIL:
                    del self.tail[:-LOG_TAIL]
            left_out = self.count - LOG_HEAD - LOG_TAIL
            if left_out > 0:
                log.write(b"\n[%d bytes left out]\n" % left_out)
            log.write(self.tail[-LOG_TAIL:])
        self._stream.close()


def _own_python() -> str:
    """The interpreter wain runs on, without its virtual environment."""
    return str(Path(getattr(sys, "_base_executable", None) or sys.executable).resolve())


def own_python() -> tuple[str, str]:
    """(executable, prefix) of the interpreter that runs wain's own parts in the sandbox."""
    return _own_python(), str(Path(sys.base_prefix).resolve())


@functools.cache
def isolation(interpreter: str, prefix: str, level: str = "") -> Isolation:
    """The best isolation this machine allows, tried with ``interpreter`` (its prefix readable).

    ``level`` asks for exactly this level (for tests, and for those who want to know).
    Raises :class:`SandboxError` when even starting the interpreter fails.
    """
    failure: WainError = SandboxError("build sandbox", "no level could be tried")
    for candidate in _candidates(level):
        try:
            _probe(candidate, interpreter, prefix)
        except SandboxError as error:
            failure = error
        else:
            return candidate
    raise failure


def _candidates(level: str) -> Iterator[Isolation]:
    uid, gid = os.getuid(), os.getgid()
    for name in (level,) if level else LEVELS:
        if not sys.platform.startswith("linux") and name != "none":
            continue
        if uid == 0:
            yield Isolation(name, NOBODY, NOBODY)
        yield Isolation(name, uid, gid)


def _probe(candidate: Isolation, interpreter: str, prefix: str) -> None:
    with Workspace(candidate) as workspace:
        workspace.hand_over()
        outcome = run(
            workspace,
            [interpreter, "-I", "-S", "-c", "import os; open('home/probe', 'w').close()"],
            folder="",
            environment={},
            readable=(prefix, *([interpreter] if not interpreter.startswith(prefix) else ())),
            deadline=30,
            log=workspace.kept / "log",
        )
    if outcome.status:
        said = outcome.tail.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise SandboxError(
            "build sandbox", f"{interpreter} does not start in it: {ascii(''.join(said))[1:-1]}"
        )
