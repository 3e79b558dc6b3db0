"""A pack's bytes into objects: blocks, plain bytes, records. Travels to hosts.

The format is described in fleet/packing.py. A block that begins with an object can be read by
whoever gets it, so several processes share a pack; one that goes on with the object of the block
before goes to the same one.
"""

from __future__ import annotations

import zlib

from fleet.agent_errors import AgentError
from fleet.frames import Closed
from images.errors import WainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from images.batch import Batch
    from images.durable import Data

    Key = tuple[str, bool]

PACK = b"wain-pack 1\n"
BLOCK_HEAD = 9  # method, packed length, plain length
GOES_ON = 0x80  # in the method: the block begins within the object of the one before
RECORD_HEAD = 41  # sha256, executable, size
MAX_BLOCK = 8 << 20  # bytes, unpacked
SMALL = 1 << 20  # bytes: up to here an object is held in memory


class Blocks:
    """The blocks of a pack as they arrive; ``plain`` counts their bytes, unpacked."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._buffer = b""
        self._next = b""  # the head of a block that was not given yet
        self._begun = False
        self.plain = 0
        self.ended = False

    def upto(self, limit: int) -> Iterator[tuple[bool, bytes]]:
        """Pieces of blocks, and whether a piece begins one that begins with an object.

        Stops at such a beginning when ``plain`` has passed ``limit``; call it again for more
        until ``ended``. Raises AgentError `object`, and what the stream raises.
        """
        if not self._begun:
            self._begun = True
            if self._exactly(len(PACK)) != PACK:
                raise AgentError("object", "this is no pack, or one of another format")
        while True:
            head, self._next = self._next or self._exactly(BLOCK_HEAD), b""
            goes_on, _, left, size = _block(head)
            if not left:
                break
            if not goes_on and self.plain >= limit:
                self._next = head
                return
            self.plain += size
            yield not goes_on, head
            while left:
                if not self._buffer:
                    self._more()
                piece, self._buffer = self._buffer[:left], self._buffer[left:]
                left -= len(piece)
                yield False, piece
        self.ended = True
        if self._buffer or any(self._stream):
            raise AgentError("object", "bytes behind the end of the pack")

    def _more(self) -> None:
        try:
            self._buffer += next(self._stream)
        except StopIteration:
            raise AgentError("object", "the pack ends too early") from None

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        head, self._buffer = self._buffer[:size], self._buffer[size:]
        return head


def _block(head: bytes) -> tuple[bool, int, int, int]:
    """Whether it goes on with an object; method, packed length, plain length."""
    method, left = head[0] & ~GOES_ON, int.from_bytes(head[1:5], "big")
    size = int.from_bytes(head[5:9], "big")
    if method > 2 or size > MAX_BLOCK or left > MAX_BLOCK + 65536:
        raise AgentError("object", "a block of the pack is damaged")
    return head[0] >= GOES_ON, method, left, size


def inflate(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The plain bytes of blocks, from pieces of them cut anywhere. Raises AgentError `object`."""
    packed = bytearray()
    while True:
        while len(packed) < BLOCK_HEAD:
            piece = next(blocks, None)
            if piece is None:
                if packed:
                    raise AgentError("object", "the pack ends too early")
                return
            packed += piece
        _, method, left, size = _block(bytes(packed[:BLOCK_HEAD]))
        del packed[:BLOCK_HEAD]
        unpacker = _unpacker(method)
        while left:
            piece, rest = bytes(packed[:left]), packed[left:]
            if not piece:
                piece = next(blocks, b"")
                if not piece:
                    raise AgentError("object", "the pack ends too early")
                piece, rest = piece[:left], bytearray(piece[left:])
            packed = rest
            left -= len(piece)
            try:
                for part in unpacker(piece, size + 1):
                    size -= len(part)
                    if size < 0:
                        break
                    yield part
            except (zlib.error, ValueError):
                raise AgentError("object", "a block of the pack is damaged") from None
            if size < 0:
                break
        if size:
            raise AgentError("object", "a block of the pack has another length")


def _unpacker(method: int) -> Callable[[bytes, int], Iterable[bytes]]:
    """What turns a block's bytes into plain ones, cut off soon after so many."""
    if method == 0:
        return lambda data, _: [data]
    if method == 1:
        inflater = zlib.decompressobj(-15)
        return lambda data, limit: [inflater.decompress(data, limit)]
    from fleet import agent_zstd

    library = agent_zstd.library()
    if library is None:
        raise AgentError("object", "the pack is zstd, and this host has no libzstd")
    return agent_zstd.Zstd(library).decompress


class PlainReader:
    """Reads by size from pieces, which are not copied as long as an object is within one."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def read(self, size: int, /) -> Data:
        """Up to size bytes; none at the end."""
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece = memoryview(piece)
        data = self._piece[:size]
        self._piece = self._piece[size:]
        return data

    def exactly(self, size: int) -> Data:
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


def take(
    batch: Batch, wanted: dict[Key, int], blocks: Iterable[bytes]
) -> tuple[list[Key], Exception | None]:
    """Objects out of blocks into a batch, each once it has arrived whole; and what ended it.

    Only those that are wanted, of that size and sha256; they are taken from ``wanted``.
    """
    reader = PlainReader(inflate(iter(blocks)))
    taken: list[Key] = []
    try:
        while True:
            head = reader.exactly(RECORD_HEAD)
            if not head:
                return taken, None
            key, length = _record(head, wanted)
            if length <= SMALL:
                batch.put_known(key, reader.exactly(length) if length else b"")
            else:
                batch.put_file(reader, key[1], key[0], length)
            del wanted[key]
            taken.append(key)
    except (Closed, WainError) as error:
        return taken, error


def _record(head: Data, wanted: dict[Key, int]) -> tuple[Key, int]:
    key, size = (head[:32].hex(), bool(head[32])), int.from_bytes(head[33:41], "big")
    if wanted.get(key) != size:
        raise AgentError("object", f"object {key[0][:16]} of {size} bytes was not asked for")
    return key, size
