"""Interpreters that compile: processes of the target's Python, fed over pipes.

They live as long as an image is built, so starting them costs a few milliseconds once. What
they run is bytecode_worker.py, which also says what goes over the pipes.
"""

from __future__ import annotations

import heapq
import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from images.errors import WainError
from images.forks import widen
from images.render import Interpreter

# Sources that wait for each worker before another one is started.
_WORTH_STARTING = 8
# Bytes of sources that go to a worker together, so that nobody is woken for each small one.
_GROUP = 64 << 10
# A worker compiles one group while the next one waits in its pipe.
_IN_FLIGHT = 2
# Bytes before each source and each reply.
_HEADER = 5
# No group is more than this part of what waits: at the end all workers stop together.
_SHARE = 8
# Bytes of sources waiting for any worker, before whoever submits has to wait.
_WAITING = 32 << 20
# Seconds between two looks at what else there is to do while sources compile.
_TICK = 0.05
# Bytes that are read from one at once.
_BUFFER = 256 << 10
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
        size = len(job[0]) + _HEADER
        with self._more:
            if not self._fewer.wait_for(lambda: self._bytes < _WAITING, timeout):
                return False
            self._bytes += size
            self._count += 1
            heapq.heappush(self._heap, (-size, self._count, job))
            self._more.notify()
            return True

    def get(self, *, wait: bool, most: int) -> list[_Job]:
        """The next ones, up to ``most`` bytes together (or one that is larger alone).

        None of them when there will be none any more, or now and ``wait`` is not asked for.
        """
        with self._more:
            while wait and not self._heap and not self._ended:
                self._more.wait()
            group: list[_Job] = []
            left = min(_GROUP, self._bytes // _SHARE)
            while self._heap and (not group or -self._heap[0][0] <= left):
                if -self._heap[0][0] > most:
                    break
                size, _, job = heapq.heappop(self._heap)
                self._bytes += size
                left += size
                group.append(job)
            if group:
                self._fewer.notify_all()
            return group

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
    """Workers of the target's interpreter, each fed and read by one thread."""

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
            if count < self._jobs and (not count or len(self._waiting) >= _WORTH_STARTING * count):
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
                worker.wait(_TICK)
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
        self._process, self._room = _start(interpreter)
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._thread.start()

    def busy(self) -> bool:
        return self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)

    def stop(self) -> None:
        """End the process and whoever waits for it."""
        self._process.kill()
        self._process.wait()
        self._thread.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            # What is still in the buffer has nowhere to go.
            with suppress(OSError):
                assert pipe is not None
                pipe.close()

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:
            if isinstance(error, OSError | EOFError | ValueError):
                status = self._process.poll()
                error = CompileError(
                    self._interpreter.executable,
                    f"the compiling interpreter ended early (status {status})",
                    "set bytecode = false in [image] to build without",
                )
            self._fail(error)

    def _work(self) -> None:
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None
        assert replies is not None
        with requests, replies:
            self._greeting(replies.readline(200))
            sent: deque[list[_Job]] = deque()
            while True:
                self._send(requests, sent)
                if not sent:
                    return
                group = sent.popleft()
                compiled = [_reply(replies) for _ in group]
                # The worker goes on while its results are looked at.
                self._send(requests, sent)
                for (_, done), data in zip(group, compiled, strict=True):
                    done(data)

    def _send(self, pipe: IO[bytes], sent: deque[list[_Job]]) -> None:
        """Groups for the worker to go on with; waits for one when it has none.

        While it still has one to reply to, nothing is sent that its pipe might not hold: each
        could wait for the other to read.
        """
        while len(sent) < _IN_FLIGHT:
            group = self._jobs.get(wait=not sent, most=self._room if sent else sys.maxsize)
            if not group:
                return
            sent.append(group)
            for job in group:
                source = job[0]
                pipe.write(bytes([job is group[-1]]) + len(source).to_bytes(4, "big"))
                pipe.write(source)
            pipe.flush()

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


def _reply(pipe: IO[bytes]) -> bytes | None:
    """The .pyc of one source; None when it does not compile."""
    head = _exactly(pipe.read, _HEADER)
    data = _exactly(pipe.read, int.from_bytes(head[1:], "big"))
    return None if head[0] else data


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) < size:
        raise EOFError
    return data


def _start(interpreter: Interpreter) -> tuple[subprocess.Popen[bytes], int]:
    """A worker, and how many bytes of a group its pipe surely holds.

    It runs in an environment where nothing of this user's changes what it does.
    """
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
            bufsize=_BUFFER,
            env=variables,
            cwd="/",
        )
    except OSError as error:
        raise CompileError(interpreter.executable, error.strerror or "cannot be run") from None
    assert process.stdin is not None
    assert process.stdout is not None
    # A worker need not wait for the thread here to read what it has done.
    widen(process.stdout.fileno())
    return process, widen(process.stdin.fileno())
