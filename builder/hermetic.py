"""Run somebody else's code in isolation: build hooks, and the tools that read what they made.

The environment is cleared, HOME and the temporary folder are the build's own, a deadline
ends every process that was started, and the log is capped. What the kernel allows on top is
found out once by trying (:func:`isolation`) and is reported, never assumed; the order of
preference is in :mod:`builder.hermetic_init`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from images.errors import WainError

LEVELS = ("namespaces", "landlock", "none")
# What the build folder is called inside, so that no wheel holds a path of this machine.
INSIDE = "/build"
LOG_HEAD = LOG_TAIL = 512 << 10
NOBODY = 65534
_PREFIX = "wain-build-"
_GRACE = 10.0
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from builder.hermetic_init import main; main()"
)


class SandboxError(WainError):
    """The sandbox itself could not be made."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What keeps a build from the rest of this machine.

    ``level`` is "namespaces", "landlock" or "none"; ``uid`` and ``gid`` are the user the
    build runs as.
    """

    level: str
    uid: int
    gid: int

    @property
    def neutral_path(self) -> bool:
        """Whether the build folder has the same name inside on every machine."""
        return self.level == "namespaces"

    @property
    def other_user(self) -> bool:
        """Whether the build runs as another user than wain."""
        return self.uid != os.getuid()

    def describe(self) -> str:
        """One line for people and logs."""
        user = "as another user" if self.other_user else "as this user"
        if self.level == "namespaces":
            return f"own file system, processes and network (none), {user}"
        if self.level == "landlock":
            return f"file rules and no sockets (no namespaces on this machine), {user}"
        return (
            f"NOT isolated from this machine's files and network, {user}: "
            "neither namespaces nor Landlock are allowed here"
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


class Workspace:
    """A folder for one build; ``build`` in it is all that the build can write to.

    A context manager: the folder is gone afterwards, and folders of builds that were killed
    are swept by the next one.
    """

    def __init__(self, isolation: Isolation) -> None:
        self.isolation = isolation
        _sweep()
        self._base = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        # Held before it has the name that others look for: they remove what nobody holds.
        unseen = self._base / "lock.new"
        self._lock = os.open(unseen, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unseen.rename(self._base / "lock")
        # Others may pass through, so that the build's user reaches its folder, not look.
        self._base.chmod(0o711)
        self.folder = self._base / "build"
        self.root = self._base / "root"
        self.kept = self._base / "kept"
        for folder in (self.folder, self.root, self.kept):
            folder.mkdir(mode=0o755)
        for name in ("home", "tmp", "out"):
            (self.folder / name).mkdir()

    def inside(self, *parts: str) -> str:
        """The path of something in the build folder as the build sees it."""
        base = INSIDE if self.isolation.neutral_path else str(self.folder)
        return "/".join((base, *parts))

    def hand_over(self) -> None:
        """Give the build folder to the build's user."""
        uid, gid = self.isolation.uid, self.isolation.gid
        if not self.isolation.other_user:
            return
        for base, folders, files in os.walk(self.folder):
            for name in (*folders, *files):
                os.chown(os.path.join(base, name), uid, gid, follow_symlinks=False)  # noqa: PTH118
        os.chown(self.folder, uid, gid)

    def fresh_folder(self) -> str:
        """A new empty folder for the build's user: for a /tmp that no earlier run prepared."""
        folder = tempfile.mkdtemp(dir=self._base, prefix="tmp-")
        os.chown(folder, self.isolation.uid, self.isolation.gid)
        return folder

    def take(self, folder: str, name: str, limit: int, place: Path | None = None) -> Path:
        """Copy a regular file the build left in ``build/<folder>`` to where it cannot reach.

        Links are not followed: what the build left may be aimed at this machine's files.
        Raises :class:`SandboxError`.
        """
        target = (place or self.kept) / name
        try:
            base = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=base)
            finally:
                os.close(base)
            try:
                handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inner)
            finally:
                os.close(inner)
        except OSError as error:
            raise SandboxError(ascii(name), f"cannot be taken: {error.strerror}") from None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
                raise SandboxError(
                    ascii(name), f"is no regular file of at most {limit} bytes ({status.st_size})"
                )
            with os.fdopen(handle, "rb", closefd=False) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        finally:
            os.close(handle)
        return target

    def listed(self, folder: str) -> list[str]:
        """The names in ``build/<folder>``, sorted; links are not followed."""
        try:
            base = os.open(self.folder / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return []
        try:
            return sorted(os.listdir(base))  # noqa: PTH208
        finally:
            os.close(base)

    def close(self) -> None:
        """Remove everything."""
        _remove(self._base)
        os.close(self._lock)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _remove(folder: Path) -> None:
    """Remove a workspace, also one that somebody else is removing or a build made unreadable.

    Only folders inside it get another mode: never what a link leads to, never its parent.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if folder.is_dir() and not folder.is_symlink():
        with contextlib.suppress(OSError):
            _open_up(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _open_up(folder: Path) -> None:
    folder.chmod(0o700)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _open_up(Path(entry.path))


def _sweep() -> None:
    """Remove the folders of builds whose process is gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            status = folder.lstat()
            if status.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
                continue
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            _remove(folder)
        finally:
            os.close(handle)


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
