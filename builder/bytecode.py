"""Bytecode whose bytes depend on the source and the interpreter's release, nothing else.

The target's own interpreter compiles, in workers that live as long as an image is built; what
makes the bytes the same is told in bytecode_worker.py. Results are objects of the store; which
source gave which is kept in ``<store>/bytecode/<tag>-<release>.txt``, so that a second image
compiles only what is new:

    wain-bytecode 1 <release> <tag>
    <sha256 of the source> <sha256 of the .pyc> <its size>
    <sha256 of the source> - 0            this source does not compile

Lines are appended after the objects they name were published. A line whose object is gone, or
that was cut short, counts as absent.
"""

from __future__ import annotations

import os
import queue
import re
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from images.errors import WainError
from images.render import Interpreter
from images.store import Batch, Store

# Raised when the recipe changes the bytes: older results are then not looked at.
RECIPE = 1
# Sources on their way to one worker: it never waits for the next, and little memory is held.
_IN_FLIGHT = 4
# Sources waiting for any worker, before whoever submits has to wait.
_WAITING = 256
_FORKED_FROM = (3, 14)
_LINE = re.compile(r"([0-9a-f]{64}) (?:([0-9a-f]{64}) ([1-9][0-9]*)|- 0)\n")

Result = tuple[str, int] | None  # sha256 and size of the .pyc; None: does not compile


class CompileError(WainError):
    """The interpreter could not be used to compile (not: a source with an error in it)."""


def cache_tag(python: str) -> str:
    """What stands in the name of a .pyc: ``cpython-313`` for ``3.13`` and for ``3.13t``."""
    return f"cpython-{python.replace('.', '').removesuffix('t')}"


def pyc_path(source: str, python: str) -> str:
    """Where the bytecode of a source file stands, both relative to the image."""
    folder, slash, name = source.rpartition("/")
    return f"{folder}{slash}__pycache__/{name.removesuffix('.py')}.{cache_tag(python)}.pyc"


class Bytecode:
    """What the sources of one image compile to.

    Call `want` for each source, from any thread, then `finish` once, then `result`. After the
    batch was published, `keep` remembers the new results. `stop` in any case.
    """

    def __init__(self, store: Store, batch: Batch, interpreter: Interpreter, jobs: int) -> None:
        self._store = store
        self._batch = batch
        self._interpreter = interpreter
        self._jobs = jobs
        self._tag = cache_tag(".".join(interpreter.version.split(".")[:2]))
        self._record = Path(store.root) / "bytecode" / f"{self._tag}-{interpreter.version}.txt"
        self._header = f"wain-bytecode {RECIPE} {interpreter.version} {self._tag}\n"
        self._known = self._load()
        self._results: dict[str, Result] = {}
        self._new: list[str] = []
        self._lock = threading.Lock()
        self._pool: _Pool | None = None
        self._asked = 0
        self._stopped = False

    @property
    def compiled(self) -> int:
        """How many sources were compiled, not found in the store."""
        return len(self._new)

    def want(self, sha256: str, source: Callable[[], bytes]) -> None:
        """Ask for the bytecode of a source; ``source`` is called only when it is not known."""
        with self._lock:
            if sha256 in self._results:
                return
            self._results[sha256] = None
            if sha256 in self._known:
                known = self._known[sha256]
                if known is None or self._store.is_present((known[0], False), known[1]):
                    self._results[sha256] = known
                    return
            if self._stopped:
                raise CompileError("bytecode", "stopped")
            if self._pool is None:
                self._pool = _Pool(self._interpreter, self._jobs)
            self._asked += 1
            pool = self._pool
        pool.submit(source(), lambda data: self._done(sha256, data))

    def _done(self, sha256: str, data: bytes | None) -> None:
        result = None if data is None else self._batch.put(data)
        self._results[sha256] = result
        self._new.append(sha256)

    def finish(self, on_progress: Callable[[str, int, int], None]) -> None:
        """Wait for all that was asked for. Raises CompileError."""
        if self._pool is not None:
            total = self._asked
            self._pool.finish(lambda: on_progress("Compiling", len(self._new), total))
            on_progress("Compiling", total, total)

    def stop(self) -> None:
        """End the workers, whatever they are doing; does no harm twice."""
        with self._lock:
            self._stopped = True
            pool = self._pool
        if pool is not None:
            pool.stop()

    def result(self, sha256: str) -> Result:
        """The object of a source's .pyc, None when the source does not compile."""
        return self._results[sha256]

    def keep(self) -> None:
        """Remember the new results for the next image. Raises WainError."""
        if not self._new:
            return
        lines = []
        for sha256 in sorted(self._new):
            result = self._results[sha256]
            lines.append(f"{sha256} {result[0]} {result[1]}\n" if result else f"{sha256} - 0\n")
        try:
            self._record.parent.mkdir(exist_ok=True)
            head = "" if self._known or self._begins_right() else self._header
            if head:
                self._record.unlink(missing_ok=True)
            with self._record.open("ab") as file:
                # A line that was cut short by a crash must not swallow the next one.
                file.write((head or "\n").encode() + "".join(lines).encode())
        except OSError as error:
            raise WainError(str(self._record), error.strerror or "cannot be written") from None

    def _begins_right(self) -> bool:
        try:
            with self._record.open("rb") as file:
                return file.readline(200) == self._header.encode()
        except OSError:
            return False

    def _load(self) -> dict[str, Result]:
        try:
            text = self._record.read_text("ascii", "replace")
        except OSError:
            return {}
        head, newline, body = text.partition("\n")
        if head + newline != self._header:
            return {}
        return {
            match[1]: (match[2], int(match[3])) if match[2] else None
            for match in _LINE.finditer(body)
        }


class _Pool:
    """Workers of the target's interpreter, each fed by one thread and read by another."""

    def __init__(self, interpreter: Interpreter, jobs: int) -> None:
        self._interpreter = interpreter
        self._queue: queue.Queue[_Job | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._workers = [_Worker(interpreter, self._queue, self._fail) for _ in range(jobs)]

    def submit(self, source: bytes, done: Callable[[bytes | None], None]) -> None:
        """Queue a source; waits while many are queued. ``done`` gets the .pyc in a thread."""
        job = (source, done)
        while True:
            self._check()
            try:
                self._queue.put(job, timeout=0.5)
            except queue.Full:
                continue
            return

    def finish(self, tick: Callable[[], None]) -> None:
        """Wait until all is compiled, calling ``tick`` now and then. Raises the first error."""
        for _ in self._workers:
            while not self._error:
                try:
                    self._queue.put(None, timeout=0.5)
                except queue.Full:
                    continue
                break
        for worker in self._workers:
            while worker.busy() and not self._error:
                tick()
                worker.wait(0.2)
        self._check()

    def stop(self) -> None:
        """End all workers, whatever they are doing."""
        self._fail(None)
        # Whoever still waits for a job finds the end instead.
        while not self._queue.empty():
            with suppress(queue.Empty):
                self._queue.get_nowait()
        for _ in self._workers:
            with suppress(queue.Full):
                self._queue.put_nowait(None)
        for worker in self._workers:
            worker.stop()

    def _fail(self, error: BaseException | None) -> None:
        self._error = self._error or error or CompileError("bytecode", "stopped")

    def _check(self) -> None:
        if self._error:
            raise self._error


_Job = tuple[bytes, Callable[[bytes | None], None]]


class _Worker:
    def __init__(
        self,
        interpreter: Interpreter,
        jobs: queue.Queue[_Job | None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._interpreter = interpreter
        self._jobs = jobs
        self._fail = fail
        self._free = threading.Semaphore(_IN_FLIGHT)
        self._sent: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._process = _start(interpreter)
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), daemon=True)
            for work in (self._feed, self._read)
        ]
        for thread in self._threads:
            thread.start()

    def busy(self) -> bool:
        return self._threads[1].is_alive()

    def wait(self, seconds: float) -> None:
        self._threads[1].join(seconds)

    def stop(self) -> None:
        """End the process and whoever waits for it."""
        self._process.kill()
        self._process.wait()
        self._sent.put(None)
        self._free.release()
        for thread in self._threads:
            thread.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            # What is still in the buffer has nowhere to go.
            with suppress(OSError):
                assert pipe is not None
                pipe.close()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            if isinstance(error, OSError | EOFError | ValueError):
                status = self._process.poll()
                error = CompileError(
                    self._interpreter.executable,
                    f"the compiling interpreter ended early (status {status})",
                    "set bytecode = false in [image] to build without",
                )
            self._fail(error)

    def _feed(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        while (job := self._jobs.get()) is not None:
            self._free.acquire()
            self._sent.put(job)
            pipe.write(len(job[0]).to_bytes(4, "big") + job[0])
            pipe.flush()
        self._sent.put(None)
        pipe.close()

    def _read(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        with pipe:
            self._greeting(pipe.readline(200))
            while (job := self._sent.get()) is not None:
                head = _exactly(pipe.read, 5)
                data = _exactly(pipe.read, int.from_bytes(head[1:], "big"))
                self._free.release()
                job[1](data if head[0] == 0 else None)

    def _greeting(self, line: bytes) -> None:
        python = ".".join(self._interpreter.version.split(".")[:2])
        words = line.decode("ascii", "replace").split()
        if not line:
            raise EOFError
        if words[:2] != ["wain-bytecode", "1"] or words[2:] != [
            _plain(self._interpreter.version),
            cache_tag(python),
        ]:
            raise CompileError(
                self._interpreter.executable,
                f"expected CPython {self._interpreter.version}, found {' '.join(words[2:])[:80]!a}",
            )


def _plain(version: str) -> str:
    match = re.match(r"\d+\.\d+\.\d+", version)
    return match[0] if match else version


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) < size:
        raise EOFError
    return data


def _start(interpreter: Interpreter) -> subprocess.Popen[bytes]:
    """A worker in an environment where nothing of this user's changes what it does."""
    text = Path(__file__).with_name("bytecode_worker.py").read_text(encoding="utf-8")
    minor = tuple(int(part) for part in _plain(interpreter.version).split(".")[:2])
    mode = "forked" if minor >= _FORKED_FROM else "shared"
    variables = {name: value for name, value in os.environ.items() if name[:6] != "PYTHON"}
    variables["PYTHONHASHSEED"] = "0"
    command = [interpreter.executable, "-S", "-s", "-B", "-W", "ignore", "-X", "utf8", "-c"]
    try:
        return subprocess.Popen(
            [*command, text, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=variables,
            cwd="/",
        )
    except OSError as error:
        raise CompileError(interpreter.executable, error.strerror or "cannot be run") from None
