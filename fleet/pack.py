"""Packs: the objects some host lacks, as one compressed stream.

A pack is built once for each missing set, while the first host already receives it, and
spooled on disk; every other host with the same missing set reads the same file. Where there is
only one host, it is handed on as it is built. Format::

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
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Container, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from hashlib import sha256
from io import RawIOBase
from pathlib import Path

from fleet.agent_unpack import BLOCK_HEAD, GOES_ON, PACK, RECORD_HEAD
from fleet.feeding import Feeding, Writer
from fleet.frames import HEAD
from images.forks import can_fork
from images.layout import CHANGED, ObjectError, is_sound
from images.manifest import Manifest
from images.store import Store

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

END = bytes(BLOCK_HEAD)
BLOCK = 1 << 20  # plain bytes of a block
LEVEL = 1  # a line is seldom so slow that more would pay
ZSTD_LEVEL = 2
ZSTD_HURRIED = 0  # for one host whose line takes all there is: a twelfth more bytes, less work
ZSTD_PATIENT = 6  # for one host whose line is what is waited for
SLOW = 15e6  # bytes a second: of a line that gains by that
AHEAD = 32 << 20  # bytes of a pack for one host that are built before it takes them
# Bytes in one piece of the stream: as a frame it fills eight packets of a connection (see ssh.py).
PIECE = 8 * ((32 << 10) - 64) - HEAD
# Packs of so many plain bytes are there at once: no process of its own, and a size to wait for.
SOON = 4 << 20


class Pack:
    """One missing set's pack, complete or growing. Safe to read from many threads.

    Without a ``path`` it can be read only once, and little of it is held in memory; with a
    ``feeding`` it is taken from there.
    """

    def __init__(self, path: Path | None, feeding: Feeding | None = None) -> None:
        self.path = path
        self._feeding = feeding
        self.begun = False  # to be read
        self._held: deque[bytes] = deque()
        self._waiting = 0  # bytes of them
        self._size = 0
        self._done = self._stopped = False
        self._error: BaseException | None = None
        self._grown = threading.Condition()

    def pieces(self, limit: float = 0.0) -> Iterator[bytes]:
        """The stream, waiting where it is still being built; at most ``limit`` bytes a second.

        Raises what building it raised.
        """
        began, sent = time.monotonic(), 0
        self.begun = True
        for piece in self._pieces():
            sent += len(piece)
            yield piece
            if limit:
                time.sleep(max(0.0, began + sent / limit - time.monotonic()))

    def _pieces(self) -> Iterator[bytes]:
        if self._feeding:
            return self._feeding.pieces(PIECE)
        return self._spooled(self.path) if self.path else self._handed_on()

    def _spooled(self, path: Path) -> Iterator[bytes]:
        sent = 0
        # Unbuffered: what a buffer held before the file grew would be missing from the stream.
        with path.open("rb", buffering=0) as file:
            while True:
                with self._grown:
                    while self._size <= sent and not self._done and not self._error:
                        self._grown.wait()
                    size, done, error = self._size, self._done, self._error
                if error:
                    raise error
                while sent < size:
                    piece = file.read(min(PIECE, size - sent))
                    sent += len(piece)
                    yield piece
                if done and sent >= self._size:
                    return

    def _handed_on(self) -> Iterator[bytes]:
        while True:
            with self._grown:
                while not self._held and not self._done and not self._error:
                    self._grown.wait()
                if self._error:
                    raise self._error
                if not self._held:
                    return
                block = self._held.popleft()
                self._waiting -= len(block)
                self._grown.notify_all()
            for at in range(0, len(block), PIECE):
                yield block[at : at + PIECE]

    def stop(self) -> None:
        """End the building: nobody waits for it."""
        if self._feeding:
            self._feeding.stop()
        with self._grown:
            self._stopped = True
            self._grown.notify_all()

    @property
    def size(self) -> int:
        """Bytes of the complete pack; waits for it.

        Without a path, only of one up to AHEAD; with a feeding, of none.
        """
        if self._feeding:
            raise ValueError("nobody counts what is handed on by another process")
        with self._grown:
            while not self._done and not self._error:
                self._grown.wait()
        if self._error:
            raise self._error
        return self._size

    def build(self, source: Stream) -> None:
        """Fill it; for the one thread that made it."""
        try:
            file = self.path.open("wb", buffering=0) if self.path else nullcontext()
            with file as spool, closing(source):
                for data in source:
                    self._append(spool, data)
        except BaseException as error:
            with self._grown:
                self._error = error
                self._grown.notify_all()
            return
        with self._grown:
            self._done = True
            self._grown.notify_all()

    def _append(self, spool: RawIOBase | None, data: bytes) -> None:
        view = memoryview(data)
        while spool and view:
            view = view[spool.write(view) or 0 :]
        with self._grown:
            if not spool:
                while self._waiting > AHEAD and not self._stopped:
                    self._grown.wait()
                self._held.append(data)
                self._waiting += len(data)
            if self._stopped:
                raise InterruptedError("nobody waits for this pack")
            self._size += len(data)
            self._grown.notify_all()


class Packs:
    """The packs of one roll-out, by missing set, in a spool folder of its own.

    ``once``: only one host will read them.
    """

    def __init__(self, store: Store, folder: str | None = None, *, once: bool = False) -> None:
        self._store = store
        self._once = once
        self._folder = tempfile.TemporaryDirectory(prefix="wain-packs-", dir=folder)
        self._packs: dict[str, Pack] = {}
        self._begun: list[Pack] = []
        self._threads: list[threading.Thread] = []
        self._foreseen: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Packs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the spool; what is still being built has nobody left to wait for it."""
        for pack in self._begun:
            pack.stop()
        for thread in self._threads:
            thread.join()
        self._folder.cleanup()

    def get(self, manifest: Manifest, missing: Iterable[Key], zstd: bool = False) -> Pack:
        """The pack of these objects of an image; building starts with the first call.

        ``zstd``: the host can read it.
        """
        wanted, zstd = list(missing), zstd and zstandard is not None
        name = _name(manifest, wanted, zstd)
        with self._lock:
            self._foreseen.discard(name)
            pack = self._packs.get(name)
            if pack and self._once and pack.begun:
                pack.stop()  # its line broke
                pack = None
            if pack is None:
                source = _packed(self._store, manifest, set(wanted), zstd, hashed=not self._once)
                pack = self._begin(name, source)
        return pack

    def foresee(self, manifest: Manifest) -> None:
        """Begin the pack of a whole image, which hosts will want that nobody has seen yet.

        At most once for an image. See :meth:`settle`.
        """
        zstd, once = zstandard is not None, self._once

        def source(level: Callable[[], int]) -> Stream:
            return _packed(self._store, manifest, None, zstd, hashed=not once, level=level)

        # First of all: there is a core that has nothing else to do.
        feeding = _apart(source, once) if sum(manifest.sizes().values()) > SOON else None
        name = _name(manifest, manifest.objects(), zstd)
        with self._lock:
            self._foreseen.add(name)
            if feeding and once:
                self._add(name, Pack(None, feeding))
            else:
                self._begin(name, feeding.pieces(BLOCK) if feeding else source(_usual))

    def settle(self) -> None:
        """The hosts have been asked: end the building of what was foreseen and nobody wants."""
        with self._lock:
            for name in self._foreseen:
                self._packs.pop(name).stop()
            self._foreseen.clear()

    def _begin(self, name: str, source: Stream) -> Pack:
        path = None
        if not self._once:
            # Never the file of a building that was ended, which may write once more.
            path = Path(self._folder.name) / f"{len(self._begun)}-{name}"
            path.touch()
        pack = self._add(name, Pack(path))
        thread = threading.Thread(target=pack.build, args=(source,), daemon=True, name="pack")
        self._threads.append(thread)
        thread.start()
        return pack

    def _add(self, name: str, pack: Pack) -> Pack:
        self._packs[name] = pack
        self._begun.append(pack)
        return pack


def _name(manifest: Manifest, wanted: Collection[Key], zstd: bool) -> str:
    """What tells one pack from another; ``wanted`` are objects of the image, each once."""
    if len(wanted) == len(manifest.objects()):
        return f"{zstd:d}{manifest.image_id}"
    keys = "".join([f"{digest}{executable:d}" for digest, executable in sorted(wanted)])
    return f"{zstd:d}{sha256(keys.encode()).hexdigest()}"


def most(sizes: Iterable[int]) -> int:
    """How many bytes the pack of objects of these sizes has, should nothing of it shrink."""
    plain = blocks = 0
    for size in sizes:
        plain += RECORD_HEAD + size
        blocks += 1 + size // BLOCK
    # Two blocks that follow each other hold more than one block's bytes, or parts of one object.
    return len(PACK) + plain + len(END) * (1 + min(blocks, 2 + 2 * plain // BLOCK))


@functools.lru_cache(maxsize=4)
def packed_manifest(manifest: Manifest) -> bytes:
    """A manifest as it is sent whole (zlib): packed once for all hosts."""
    return compress(manifest.to_bytes(), LEVEL)


def _apart(source: Callable[[Callable[[], int]], Stream], once: bool) -> Feeding | None:
    """The stream made by a process of its own, which begins at once; None where there is none.

    While hosts are asked there is one core with nothing to do, but not for a thread: imports
    hold Python's lock.
    """

    def work(writer: Writer) -> None:
        os.nice(10)

        def level() -> int:
            if not once:
                return ZSTD_LEVEL
            return ZSTD_PATIENT if writer.speed < SLOW else ZSTD_HURRIED

        for data in source(level):
            writer.write(data)

    if can_fork():
        with suppress(OSError):  # no more processes for this user
            return Feeding(work, AHEAD)
    return None


def _usual() -> int:
    return ZSTD_LEVEL


def _packed(
    store: Store,
    manifest: Manifest,
    wanted: Container[Key] | None,
    zstd: bool,
    *,
    hashed: bool,
    level: Callable[[], int] = _usual,
) -> Stream:
    """A pack of these objects of an image, or of all; ``hashed`` as in `_blocks`.

    ``level`` is asked for each block.
    """
    pack = _zstd if zstd else _deflated
    # Neighbours in the tree resemble each other; neighbours in hash do not.
    keys = [one for one in manifest.sizes().items() if wanted is None or one[0] in wanted]
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
    # As level 1, but for smaller tables, which a core's own cache can hold, and shorter matches.
    return zstandard.ZstdCompressionParameters.from_level(
        1, hash_log=13, min_match=6, write_content_size=False
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
