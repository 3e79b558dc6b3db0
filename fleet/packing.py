"""Making a pack: the objects some host lacks, as one compressed stream. Format::

    "wain-pack 1\\n"
    blocks: method (1 byte: 0 stored, 1 deflate, 2 zstd), packed length, plain length (4 bytes
        each), bytes
    a block of packed length 0 ends the pack

The plain bytes of all blocks are records, one after another: sha256 (32 bytes), executable (1),
size (8), the object. Numbers are big endian. The host keeps each object as soon as it has arrived
whole: so zstd, where host and controller have it, is flushed behind each object. A block begins
with an object, so that processes of the host can share the work; one that goes on with the object
of the block before has 0x80 added to its method.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

from fleet.agent_unpack import BLOCK_HEAD, GOES_ON, PACK, RECORD_HEAD
from images.layout import CHANGED, ObjectError, is_sound
from images.store import Store

if TYPE_CHECKING:
    from concurrent.futures import Future

try:
    from isal.isal_zlib import compress
except ImportError:
    from zlib import compress

try:
    import zstandard
except ImportError:
    zstandard = None  # type: ignore[assignment]

Key = tuple[str, bool]
# A pack in pieces of any size; closed, it ends what makes them.
Stream = Generator[bytes, None, None]

HAS_ZSTD = zstandard is not None
END = bytes(BLOCK_HEAD)
BLOCK = 1 << 20  # plain bytes of a block
LEVEL = 1  # a line is seldom so slow that more would pay
ZSTD_LEVEL = 2
ZSTD_HURRIED = 0  # for one host whose line takes all there is: a fifth more bytes, less work
ZSTD_PATIENT = 6  # for one host whose line is what is waited for


def deflate(data: bytes) -> bytes:
    """As zlib, fast; what is sent whole."""
    return compress(data, LEVEL)


def most(sizes: Iterable[int]) -> int:
    """How many bytes the pack of objects of these sizes has, should nothing of it shrink."""
    plain = blocks = 0
    for size in sizes:
        plain += RECORD_HEAD + size
        blocks += 1 + size // BLOCK
    # Two blocks that follow each other hold more than one block's bytes, or parts of one object.
    return len(PACK) + plain + len(END) * (1 + min(blocks, 2 + 2 * plain // BLOCK))


def usual() -> int:
    """The level for a pack that is made once for many."""
    return ZSTD_LEVEL


def packed(
    store: Store,
    keys: Iterable[tuple[Key, int]],
    zstd: bool,
    *,
    hashed: bool,
    level: Callable[[], int] = usual,
) -> Stream:
    """A pack of these objects, by key and size, in this order; ``hashed`` as in `_blocks`.

    Best in the order of a tree: neighbours there resemble each other, neighbours in hash do not.
    ``level`` is asked for each block.
    """
    # Not before the first pack: whoever sends none has no use for it.
    from concurrent.futures import ThreadPoolExecutor

    pack = _zstd if zstd else _deflated
    unused: list[bytearray] = []
    with ThreadPoolExecutor(_cores()) as pool:
        ahead: deque[tuple[_Block, Future[bytes]]] = deque()
        yield PACK
        for block in _blocks(store, keys, unused, hashed=hashed):
            ahead.append((block, pool.submit(pack, block, level())))
            if len(ahead) > 2 * _cores():
                first, future = ahead.popleft()
                yield future.result()
                unused.append(first.plain)
        for _, future in ahead:
            yield future.result()
        yield END


class _Block:
    """Plain bytes of a block, and where each object or the block ends."""

    __slots__ = ("ends", "goes_on", "plain", "size")

    def __init__(self, plain: bytearray, goes_on: bool = False) -> None:
        self.plain = plain
        self.size = 0
        self.ends: list[int] = []
        self.goes_on = goes_on

    def parts(self) -> Iterator[memoryview]:
        """What ends with each object."""
        view, begin = memoryview(self.plain), 0
        for end in self.ends:
            yield view[begin:end]
            begin = end


def _blocks(
    store: Store, keys: Iterable[tuple[Key, int]], unused: list[bytearray], *, hashed: bool
) -> Iterator[_Block]:
    """The blocks of objects, by key and size, in buffers that are used again.

    ``hashed``: each is checked against its key, so what is sent is what was asked for. Else only
    one whose stat is not as it was written: whoever gets it hashes it anyway, and whose fault a
    wrong one is, is asked when there is one. Raises ObjectError.
    """

    def fresh(goes_on: bool = False) -> _Block:
        return _Block(unused.pop() if unused else bytearray(BLOCK), goes_on)

    block = fresh()
    for key, size in keys:
        if block.size and block.size + RECORD_HEAD + size > BLOCK:
            yield block
            block = fresh()
        with _Object(store, key, size, hashed) as source:
            head = bytes.fromhex(key[0]) + bytes([key[1]]) + size.to_bytes(8, "big")
            block.plain[block.size : block.size + RECORD_HEAD] = head
            block.size += RECORD_HEAD
            while left := source.left:
                if block.size == BLOCK:
                    block.ends.append(BLOCK)
                    yield block
                    block = fresh(goes_on=True)
                end = min(BLOCK, block.size + left)
                source.read(memoryview(block.plain)[block.size : end])
                block.size = end
        block.ends.append(block.size)
        if block.goes_on:
            yield block
            block = fresh()
    if block.size:
        yield block


class _Object:
    """One object of the store, to be read in order. Raises ObjectError."""

    def __init__(self, store: Store, key: Key, size: int, hashed: bool) -> None:
        self._key = key
        self._path = store.object_path(*key)
        self.left = size
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._bad(error.strerror or "cannot be read") from None
        status = os.fstat(self._descriptor)
        self._hash = sha256() if hashed or not is_sound(status, key[1]) else None
        self._changed = status.st_size != size

    def __enter__(self) -> _Object:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.close(self._descriptor)
        if self._hash and self._hash.hexdigest() != self._key[0]:
            self._changed = True
        if self._changed and not kind:
            raise self._bad(CHANGED)

    def read(self, into: memoryview) -> None:
        """Fill this."""
        while into:
            try:
                count = os.readv(self._descriptor, [into])
            except OSError as error:
                raise self._bad(error.strerror or "cannot be read") from None
            if not count:
                raise self._bad(CHANGED)
            if self._hash:
                self._hash.update(into[:count])
            self.left -= count
            into = into[count:]

    def _bad(self, what: str) -> ObjectError:
        return ObjectError(self._key, self._path, what)


def _deflated(block: _Block, _: int = 0) -> bytes:
    # Bare: the host checks every object by its sha256, so another checksum would be for nothing.
    plain = memoryview(block.plain)[: block.size]
    return _framed(1, [compress(plain, LEVEL, -15)], block)


def _zstd(block: _Block, level: int = ZSTD_LEVEL) -> bytes:
    compressor = zstandard.ZstdCompressor(compression_params=_parameters(level)).compressobj()
    packed: list[bytes] = []
    for part in block.parts():
        packed.append(compressor.compress(part))
        packed.append(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    packed.append(compressor.flush())
    return _framed(2, packed, block)


@functools.cache
def _parameters(level: int) -> zstandard.ZstdCompressionParameters:
    if level != ZSTD_HURRIED:
        return zstandard.ZstdCompressionParameters.from_level(level, write_content_size=False)
    # As level 1, but for smaller tables, which a core's own cache can hold, and what matches
    # nothing left as it is (that is what a target length means for this strategy).
    return zstandard.ZstdCompressionParameters.from_level(
        1, hash_log=13, min_match=6, target_length=1, write_content_size=False
    )


def _framed(method: int, packed: list[bytes], block: _Block) -> bytes:
    length = sum(map(len, packed))
    parts: list[bytes | memoryview] = [*packed]
    if length >= block.size:
        method, length = 0, block.size
        parts = [memoryview(block.plain)[:length]]
    method |= GOES_ON * block.goes_on
    head = bytes([method]) + length.to_bytes(4, "big") + block.size.to_bytes(4, "big")
    return b"".join([head, *parts])


def _cores() -> int:
    return len(os.sched_getaffinity(0))
