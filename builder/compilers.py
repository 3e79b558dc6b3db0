"""Interpreters that compile: processes of the target's Python, fed over pipes.

They live as long as an image is built, so starting them costs a few milliseconds once. What
they run is bytecode_worker.py, which also says what goes over the pipes.
"""

from __future__ import annotations

import fcntl
import heapq
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

# Sources on their way to one worker: it never waits for the next, and little memory is held.
_IN_FLIGHT = 8
# Bytes of sources waiting for any worker, before whoever submits has to wait.
_WAITING = 32 << 20
# Bytes; a worker need not wait for a thread here to read what it has done, or feed it.
_PIPE = 1 << 20
# How Linux is asked for that much; other systems have no such call.
_SET_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", None)
# From this release on each source is compiled in a fork of its own (see bytecode_worker.py).
_FORKED_FROM = (3, 14)

# A source, and what is called with its .pyc (None: does not compile) in a thread.
_Job = tuple[bytes, Callable[[bytes | None], None]]


class CompileError(WainError):
    """The interpreter could not be used to compile (not: a source with an error in it)."""


def cache_tag(python: str) -> str:
    """What stands in the name of a .pyc: ``cpython-313`` for ``3.13`` and for ``3.13t``."""
    return f"cpython-{python.replace('.', '').removesuffix('t')}"


class _Waiting:
    """Sources that wait for a worker, the largest first, so that none is left alone with one."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, _Job]] = []
        self._bytes = 0
        self._count = 0
        self._ended = False
        changed = threading.Lock()
        self._more = threading.Condition(changed)
        self._fewer = threading.Condition(changed)

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, job: _Job, timeout: float) -> bool:
        """Add one; False when there was no room for it in all this time."""
        size = len(job[0])
        with self._more:
            if not self._fewer.wait_for(lambda: self._bytes < _WAITING, timeout):
                return False
            self._bytes += size
            self._count += 1
            heapq.heappush(self._heap, (-size, self._count, job))
            self._more.notify()
            return True

    def get(self) -> _Job | None:
        """The next one; None when there will be none any more."""
        with self._more:
            while not self._heap and not self._ended:
                self._more.wait()
            if not self._heap:
                return None
            _, _, job = heapq.heappop(self._heap)
            self._bytes -= len(job[0])
            self._fewer.notify_all()
            return job

    def end(self, *, at_once: bool = False) -> None:
        """No more will come; ``at_once``: forget those that wait."""
        with self._more:
            self._ended = True
            if at_once:
                self._heap.clear()
                self._bytes = 0
            self._more.notify_all()
            self._fewer.notify_all()


class CompilePool:
    """Workers of the target's interpreter, each fed by one thread and read by another."""

    def __init__(self, interpreter: Interpreter, jobs: int) -> None:
        self._interpreter = interpreter
        self._waiting = _Waiting()
        self._error: BaseException | None = None
        self._jobs = jobs
        self._workers: list[_Worker] = []
        self._starting = threading.Lock()

    def submit(self, source: bytes, done: Callable[[bytes | None], None]) -> None:
        """Queue a source; waits while many are queued. ``done`` gets the .pyc in a thread.

        A worker more is started while there is more to do than there are workers.
        """
        job = (source, done)
        with self._starting:
            count = len(self._workers)
            if count < self._jobs and (not count or len(self._waiting) >= _IN_FLIGHT * count):
                self._check()
                self._workers.append(_Worker(self._interpreter, self._waiting, self._fail))
        self._check()
        while not self._waiting.put(job, 0.5):
            self._check()

    def finish(self, tick: Callable[[], None]) -> None:
        """Wait until all is compiled, calling ``tick`` now and then. Raises the first error."""
        self._waiting.end()
        for worker in self._workers:
            while worker.busy() and not self._error:
                tick()
                worker.wait(0.2)
        self._check()

    def stop(self) -> None:
        """End all workers, whatever they are doing."""
        self._fail(None)
        # Whoever still waits for a job finds the end instead.
        self._waiting.end(at_once=True)
        with self._starting:
            for worker in self._workers:
                worker.stop()

    def _fail(self, error: BaseException | None) -> None:
        self._error = self._error or error or CompileError("bytecode", "stopped")

    def _check(self) -> None:
        if self._error:
            raise self._error


class _Worker:
    def __init__(
        self,
        interpreter: Interpreter,
        jobs: _Waiting,
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
        process = subprocess.Popen(
            [*command, text, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=variables,
            cwd="/",
        )
    except OSError as error:
        raise CompileError(interpreter.executable, error.strerror or "cannot be run") from None
    if _SET_PIPE_SIZE is not None:
        for pipe in (process.stdin, process.stdout):
            # A user may have only so many bytes in pipes: then they stay small.
            with suppress(OSError):
                assert pipe is not None
                fcntl.fcntl(pipe, _SET_PIPE_SIZE, _PIPE)
    return process
