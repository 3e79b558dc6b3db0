"""Bytes that a copy of this process makes, handed over in memory that both share.

Of that memory as much is filled as was not read yet. Two pipes carry counts, of all bytes that
are there and of all that were taken; they also tell each side that the other is gone. A pipe
for the bytes themselves would have them copied twice, by a kernel that makes room for them each
time.
"""

from __future__ import annotations

import math
import mmap
import os
import select
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress

from images import forks

_COUNT = 8  # bytes of a count in a pipe


class Feeding:
    """``work(writer)`` in a copy of this process: what it writes there is read here, once.

    At most ``room`` bytes are made that nobody has read. Raises OSError where there are no more
    processes, or no memory.
    """

    def __init__(self, work: Callable[[Writer], None], room: int) -> None:
        self._memory = mmap.mmap(-1, room)
        self._stopped = self._read = False
        self._ending = threading.Lock()
        theirs: list[int] = []
        ours: list[int] = []
        try:
            for one, other in ((ours, theirs), (theirs, ours)):
                source, sink = os.pipe()
                one.append(source)
                other.append(sink)

            def task() -> None:
                # Held open here, nobody would tell it that the original is gone.
                for descriptor in ours:
                    os.close(descriptor)
                work(Writer(self._memory, *theirs))

            self._running = [forks.start(task)]
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._there = os.fdopen(ours[0], "rb", buffering=0)
        self._taken = os.fdopen(ours[1], "wb", buffering=0)

    def pieces(self, most: int) -> Generator[bytes, None, None]:
        """The bytes as they come, at most ``most`` in a piece.

        Raises what ``work`` raised, as `images.forks.Copies` does, and InterruptedError when
        :meth:`stop` was called meanwhile. The process ends with this, also when it is closed.
        """
        with self._ending:
            if self._stopped:
                raise InterruptedError("nobody waits for this")
            self._read = True
        room, taken, told = len(self._memory), 0, 0
        try:
            while counts := self._there.read(512 * _COUNT):
                there = int.from_bytes(counts[-_COUNT:], "big")
                while taken < there:
                    at = taken % room
                    piece = self._memory[at : min(at + most, at + there - taken, room)]
                    taken += len(piece)
                    # Seldom enough that the pipe never fills.
                    if taken - told >= room // 8:
                        told = taken
                        with suppress(BrokenPipeError):  # it has made all there is
                            self._taken.write(taken.to_bytes(_COUNT, "big"))
                    yield piece
            with self._ending:
                if self._stopped:
                    raise InterruptedError("nobody waits for this")
                forks.results(self._running)
        finally:
            self.stop()
            self._close()

    def stop(self) -> None:
        """End the process, from whatever thread."""
        with self._ending:
            self._stopped = True
            forks.kill(self._running)
            if not self._read:
                self._close()

    def _close(self) -> None:
        self._there.close()
        self._taken.close()
        self._memory.close()


class Writer:
    """The end of the one who makes the bytes.

    ``speed``: bytes a second that are taken, as long as those made have to wait for that; else
    infinite.
    """

    def __init__(self, memory: mmap.mmap, there: int, taken: int) -> None:
        self._memory = memory
        self._there = there
        self._source = taken
        self._written = self._taken = 0
        self._told = 0.0  # when that was known
        self.speed = math.inf

    def write(self, data: bytes) -> None:
        """All of it, waiting for room. Raises BrokenPipeError when nobody reads any more."""
        room, rest = len(self._memory), memoryview(data)
        while rest:
            at = self._written % room
            free = room - (self._written - self._taken)
            part = rest[: min(free, room - at)]
            if not part:
                self._wait()
                continue
            self._memory[at : at + len(part)] = part
            self._written += len(part)
            rest = rest[len(part) :]
            os.write(self._there, self._written.to_bytes(_COUNT, "big"))

    def _wait(self) -> None:
        at_once = select.select([self._source], [], [], 0)[0]
        counts = os.read(self._source, 512 * _COUNT)
        if not counts:
            raise BrokenPipeError("nobody reads this any more")
        taken, now = int.from_bytes(counts[-_COUNT:], "big"), time.monotonic()
        if at_once:
            self.speed = math.inf
        elif self._told:
            self.speed = (taken - self._taken) / (now - self._told)
        self._taken, self._told = taken, now
