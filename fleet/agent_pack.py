"""Taking a pack: objects out of a compressed stream, into the store. Travels to hosts.

The format is described in fleet/pack.py. Inflating runs ahead in a thread while files are
written; only that thread reads from the line until the pack has ended, or its bytes, when they
are refused, have been read to their end.

Only objects that were asked for, with the size the manifest says and the bytes their name says,
are taken. What has arrived whole when the line ends is published.
"""

from __future__ import annotations

import time
import zlib

from fleet.agent_errors import AgentError
from fleet.frames import Closed
from images.errors import WainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Thread
    from typing import Any

    from fleet.agent import Agent
    from images.batch import Batch

    Key = tuple[str, bool]
    Request = dict[str, Any]
    Answer = dict[str, Any]

PACK = b"wain-pack 1\n"
BLOCK_HEAD = 9  # method, packed length, plain length
RECORD_HEAD = 41  # sha256, executable, size
MAX_BLOCK = 8 << 20  # bytes, unpacked
BATCH_BYTES = 64 << 20  # after so many bytes, or so many objects, what arrived is published
BATCH_OBJECTS = 20000
FLUSH_BYTES = 16 << 20  # after so many, the disk begins to take them while more arrive
SMALL = 1 << 20  # bytes: up to here an object is held in memory
AHEAD = 24  # pieces (of at most 256 KiB packed) the thread may be ahead


def pack(agent: Agent, request: Request) -> Answer:
    """Take the objects that are missing; each is kept once it has arrived whole."""
    wanted, total = agent.wanted, len(agent.wanted)
    ahead = _Ahead(agent)
    agent.finish = ahead.finish
    reader = PlainReader(_signs_of_life(agent, ahead.pieces(), total))
    taken = [0, 0]
    problem: Exception | None = None
    ended = False
    while not ended:
        count = size = flushed = 0
        with agent.store.batch() as batch, _Flushing(batch) as flushing:
            while count < BATCH_OBJECTS and size < BATCH_BYTES:
                try:
                    head = reader.exactly(RECORD_HEAD)
                    if not head:
                        ended = True
                        break
                    key, length = _record(head, wanted)
                    if length <= SMALL:
                        batch.put_known(key, reader.exactly(length) if length else b"")
                    else:
                        batch.put_file(reader, key[1], key[0], length)
                except (Closed, WainError) as error:
                    problem, ended = error, True
                    break
                del wanted[key]
                count, size = count + 1, size + length
                if size >= flushed + FLUSH_BYTES:
                    flushed = size
                    flushing.begin()
        taken = [taken[0] + count, taken[1] + size]
    if problem:
        raise problem
    return {"objects": taken[0], "size": taken[1], "missing": len(wanted)}


class _Flushing:
    """Has a batch written to the disk in a thread, so that its barrier finds little left to do."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._thread: Thread | None = None

    def __enter__(self) -> _Flushing:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread:
            self._thread.join()

    def begin(self) -> None:
        """Once more, unless the last time is not over."""
        import threading

        if not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._batch.flush, daemon=True)
            self._thread.start()


def _signs_of_life(agent: Agent, pieces: Iterator[bytes], total: int) -> Iterator[bytes]:
    """The pieces; the controller hears from time to time that they still arrive."""
    shown = time.monotonic()
    for piece in pieces:
        now = time.monotonic()
        if now > shown + 0.5:
            shown = now
            agent.progress("Receiving", total - len(agent.wanted), total)
        yield piece


def _record(head: bytes, wanted: dict[Key, int]) -> tuple[Key, int]:
    key, size = (head[:32].hex(), bool(head[32])), int.from_bytes(head[33:41], "big")
    if wanted.get(key) != size:
        raise AgentError("object", f"object {key[0][:16]} of {size} bytes was not asked for")
    return key, size


def inflate(stream: Iterator[bytes]) -> Iterator[bytes]:
    """A pack's plain bytes as they arrive. Raises AgentError `object`."""
    packed = bytearray()

    def wait(size: int) -> None:
        while len(packed) < size:
            try:
                packed.extend(next(stream))
            except StopIteration:
                raise AgentError("object", "the pack ends too early") from None

    def some(size: int) -> bytes:
        wait(size)
        head = bytes(packed[:size])
        del packed[:size]
        return head

    if some(len(PACK)) != PACK:
        raise AgentError("object", "this is no pack, or one of another format")
    while True:
        head = some(BLOCK_HEAD)
        method, left = head[0], int.from_bytes(head[1:5], "big")
        size = int.from_bytes(head[5:9], "big")
        if not left:
            break
        if method > 2 or size > MAX_BLOCK or left > MAX_BLOCK + 65536:
            raise AgentError("object", "a block of the pack is damaged")
        unpacker = _unpacker(method)
        while left:
            wait(1)
            piece = bytes(packed[:left])
            del packed[: len(piece)]
            left -= len(piece)
            if unpacker:
                try:
                    piece = unpacker.decompress(piece, size + 1)
                except (zlib.error, ValueError):
                    raise AgentError("object", "a block of the pack is damaged") from None
            size -= len(piece)
            if size < 0:
                break
            yield piece
        if size:
            raise AgentError("object", "a block of the pack has another length")
    if packed or any(stream):
        raise AgentError("object", "bytes behind the end of the pack")


def _unpacker(method: int) -> Any:
    """What turns a block's bytes into plain ones; None for stored ones."""
    if method == 0:
        return None
    if method == 1:
        return zlib.decompressobj(-15)
    from fleet import agent_zstd

    library = agent_zstd.library()
    if library is None:
        raise AgentError("object", "the pack is zstd, and this host has no libzstd")
    return agent_zstd.Zstd(library)


class PlainReader:
    """Reads by size from pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """Up to size bytes; none at the end."""
        while self._at >= len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece, self._at = piece, 0
        data = self._piece[self._at : self._at + size]
        self._at += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        """So many bytes, or none at the end of the pack."""
        data = self.read(size)
        if len(data) == size or not data:
            return data
        parts = [data]
        left = size - len(data)
        while left:
            data = self.read(left)
            if not data:
                raise AgentError("object", "the pack ends within an object")
            parts.append(data)
            left -= len(data)
        return b"".join(parts)


class _Ahead:
    """A thread that reads and inflates ahead of the one that writes."""

    def __init__(self, agent: Agent) -> None:
        import queue
        import threading

        self._agent = agent
        self._queue: queue.Queue[bytes | Exception | None] = queue.Queue(AHEAD)
        self._stopped = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        """Everything, then the end or what went wrong. When stopped, only reads on."""
        stream = self._agent.stream()
        end: Exception | None = None
        try:
            for piece in inflate(stream):
                if self._stopped:
                    break
                self._queue.put(piece)
        except Exception as error:
            end = error
        try:
            self._queue.put(end)
            for _ in stream:
                continue
        except Exception:
            return  # the line is gone; whoever reads from it next sees that

    def pieces(self) -> Iterator[bytes]:
        """What the thread has made, in order. Raises what stopped it."""
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def finish(self) -> None:
        """Wait until the thread has read the request to its end."""
        self._stopped = True
        while not self._queue.empty():
            self._queue.get()
        self._thread.join()
        self._agent.finish = None
