"""One piece of work on all cores, in processes. Travels to hosts.

For thousands of calls too short for threads: making a link takes the kernel a few
microseconds, and handing Python's lock from thread to thread takes longer than that.
"""

from __future__ import annotations

import errno
import marshal
import os
import sys

from images.errors import WainError
from images.parallel import cores

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn, TypeVar

    # What marshal can carry: texts, numbers, and tuples, lists and tables of them.
    Value = TypeVar("Value")

_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ, which fcntl names from Python 3.10 on
_PIPE = 1 << 20  # bytes
_SMALLEST_PIPE = 4096
_TOKEN = 4  # bytes of a piece's number in the pipe that hands them out
MOST_PIECES = 8192  # so that all numbers fit into a pipe at once


def can_fork() -> bool:
    """Whether a copy of this process may go on by itself: not with other threads in it."""
    threading = sys.modules.get("threading")
    return threading is None or threading.active_count() == 1


def in_processes(
    work: Callable[[Iterator[int]], Value],
    pieces: int,
    on_take: Callable[[int], None] | None = None,
) -> list[Value]:
    """``work(numbers)`` in this process and in a copy of it for each further core.

    ``numbers`` yields those below ``pieces`` (at most MOST_PIECES), each one to one process
    only, in order. Returns what each process made of its own. ``on_take`` is told, in this
    process, every number that it takes. The first OSError or WainError of ``work`` is raised;
    so is a WainError when a process dies. When this returns or raises, no process is left.
    """
    copies = Copies(work, pieces, min(cores(), pieces) - 1)
    try:
        return [work(_numbers(copies.source, on_take)), *copies.results()]
    finally:
        copies.stop()


class Copies:
    """``work(numbers)`` in ``count`` copies of this process, which goes on meanwhile.

    As with :func:`in_processes`; whoever made it calls :meth:`stop` in the end.
    """

    def __init__(self, work: Callable[[Iterator[int]], Value], pieces: int, count: int) -> None:
        if pieces > MOST_PIECES:
            raise ValueError(f"{pieces} pieces, at most {MOST_PIECES} expected")
        self.source, sink = os.pipe()
        self._running: list[tuple[int, int]] = []  # process id, where its result comes from
        try:
            numbers = [number.to_bytes(_TOKEN, "little") for number in range(pieces)]
            os.write(sink, b"".join(numbers))
        finally:
            os.close(sink)
        try:
            parent = os.getpid()
            for _ in range(count):
                self._running.append(start(lambda: work(_numbers(self.source, None, parent))))
        except BaseException:
            self.stop()
            raise

    def results(self) -> list[Any]:
        """What each of them made, when all are done. Raises their errors."""
        return results(self._running)

    def stop(self) -> None:
        """End those that still work. Whoever gave up may now remove what they were writing."""
        kill(self._running)
        if self.source >= 0:
            os.close(self.source)
            self.source = -1


class Fed:
    """``work(descriptor)`` in ``count`` copies of this process, each with a pipe to read from.

    The end of its pipe is the order to come to an end. Otherwise as with :class:`Copies`.
    """

    def __init__(self, work: Callable[[int], Value], count: int) -> None:
        self._running: list[tuple[int, int]] = []
        self._sinks: list[int] = []
        try:
            for _ in range(count):
                source, sink = os.pipe()
                self._sinks.append(sink)
                widen(sink)
                try:
                    self._running.append(start(self._task(work, source)))
                finally:
                    os.close(source)
        except BaseException:
            self.stop()
            raise

    def _task(self, work: Callable[[int], Value], source: int) -> Callable[[], Value]:
        def task() -> Value:
            # Held open here, no pipe would ever end.
            for sink in self._sinks:
                os.close(sink)
            return work(source)

        return task

    def idlest(self) -> int:
        """The pipe with the least in it that was not read yet."""
        return min(self._sinks, key=_unread)

    def results(self) -> list[Any]:
        """End the pipes; what each of them made, when all are done. Raises their errors."""
        self._close()
        return results(self._running)

    def stop(self) -> None:
        """End those that still work."""
        self._close()
        kill(self._running)

    def _close(self) -> None:
        while self._sinks:
            os.close(self._sinks.pop())


def widen(pipe: int) -> int:
    """Let a pipe hold a MiB, where that is allowed; how many bytes it surely holds."""
    import fcntl

    try:
        room = fcntl.fcntl(pipe, _SET_PIPE_SIZE, _PIPE)
    except OSError:
        # Other systems have no such call; a user may have only so many bytes in pipes.
        room = _SMALLEST_PIPE
    # It is counted in pages, of which the first and the last may hold a byte only.
    return room // 2


def _unread(pipe: int) -> int:
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def results(running: list[tuple[int, int]]) -> list[Any]:
    """What each of them made, when all are done; none is left in the list. Raises their errors."""
    found = []
    while running:
        process, descriptor = running[-1]
        with open(os.dup(descriptor), "rb") as stream:
            data = stream.read()
        _end(*running.pop(), kill=False)
        found.append(_result(process, data))
    return found


def kill(running: list[tuple[int, int]]) -> None:
    """End those that still work; none is left in the list."""
    while running:
        _end(*running.pop(), kill=True)


def start(task: Callable[[], Any]) -> tuple[int, int]:
    """A copy of this process that does this: its id, and where its result comes from."""
    receiver, sender = os.pipe()
    try:
        process = os.fork()
    except OSError:
        os.close(receiver)
        os.close(sender)
        raise
    if process:
        os.close(sender)
        return process, receiver
    return _helper(task, sender)


def _helper(task: Callable[[], Any], sender: int) -> NoReturn:
    """The life of a copy: nothing of what the original would do at its end happens here."""
    try:
        import signal

        # A terminal interrupts all of its processes; the original ends this one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        answer: Any
        try:
            answer = ("done", task())
        except OSError as error:
            answer = ("system", (error.errno, error.filename, error.filename2))
        except WainError as error:
            answer = ("error", (error.where, error.what, error.hint))
        with open(sender, "wb") as stream:
            stream.write(marshal.dumps(answer))
    finally:
        os._exit(0)


def _numbers(source: int, on_take: Callable[[int], None] | None, parent: int = 0) -> Iterator[int]:
    while True:
        if parent and os.getppid() != parent:
            return  # the original is gone, and nobody waits for the rest
        token = os.read(source, _TOKEN)
        if not token:
            return
        number = int.from_bytes(token, "little")
        if on_take:
            on_take(number)
        yield number


def _end(process: int, descriptor: int, kill: bool) -> None:
    if kill:
        import signal

        # It cannot be gone, only dead: nobody else waits for it.
        os.kill(process, signal.SIGKILL)
    os.close(descriptor)
    os.waitpid(process, 0)


def _result(process: int, data: bytes) -> Any:
    try:
        kind, value = marshal.loads(data)
    except (EOFError, ValueError, TypeError):
        raise WainError(f"process {process}", "a helper of this command died") from None
    if kind == "system":
        number, name, other = value
        raise OSError(number, os.strerror(number or errno.EIO), name, None, other)
    if kind == "error":
        raise WainError(*value)
    return value
