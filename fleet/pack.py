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
from collections.abc import Collection, Container, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from hashlib import sha256
from io import RawIOBase
from pathlib import Path

from fleet.agent_unpack import BLOCK_HEAD, GOES_ON, PACK, RECORD_HEAD
from images.durable import write_all
from images.forks import Feeding, can_fork
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
# Parts of the plain stream that end where an object or a block ends.
Parts = list[bytes]
# A pack in pieces of any size; closed, it ends what makes them.
Stream = Generator[bytes, None, None]

END = bytes(BLOCK_HEAD)
BLOCK = 1 << 20  # plain bytes of a block
LEVEL = 1  # a line is seldom so slow that more would pay
ZSTD_LEVEL = 2
AHEAD = 32 << 20  # bytes of a pack for one host that are built before it takes them
PIECE = 1 << 18  # bytes in one piece of the stream


class Pack:
    """One missing set's pack, complete or growing. Safe to read from many threads.

    Without a ``path`` it can be read only once, and little of it is held in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
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
        for piece in self._spooled(self.path) if self.path else self._handed_on():
            sent += len(piece)
            yield piece
            if limit:
                time.sleep(max(0.0, began + sent / limit - time.monotonic()))

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
        with self._grown:
            self._stopped = True
            self._grown.notify_all()

    @property
    def size(self) -> int:
        """Bytes of the complete pack; waits for it. Without a path, only of one up to AHEAD."""
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
        self._building: list[tuple[Pack, threading.Thread]] = []
        self._foreseen: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Packs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the spool; what is still being built has nobody left to wait for it."""
        for pack, _ in self._building:
            pack.stop()
        for _, thread in self._building:
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
            if pack is None or (self._once and pack.begun):
                pack = self._begin(name, _packed(self._store, manifest, set(wanted), zstd))
        return pack

    def foresee(self, manifest: Manifest) -> None:
        """Begin the pack of a whole image, which hosts will want that nobody has seen yet.

        At most once for an image. See :meth:`settle`.
        """
        zstd = zstandard is not None
        # First of all: there is a core that has nothing else to do.
        source = _all_packed(self._store, manifest, zstd)
        name = _name(manifest, manifest.objects(), zstd)
        with self._lock:
            self._foreseen.add(name)
            self._begin(name, source)

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
            path = Path(self._folder.name) / f"{len(self._building)}-{name}"
            path.touch()
        pack = self._packs[name] = Pack(path)
        thread = threading.Thread(target=pack.build, args=(source,), daemon=True, name="pack")
        self._building.append((pack, thread))
        thread.start()
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


def _all_packed(store: Store, manifest: Manifest, zstd: bool) -> Stream:
    """All of an image, if possible by a process of its own, which begins at once.

    While hosts are asked there is one core with nothing to do, but not for a thread: imports
    hold Python's lock.
    """
    source = _packed(store, manifest, None, zstd)

    def work(sink: int) -> None:
        os.nice(10)
        for data in source:
            write_all(sink, data)

    if can_fork():
        with suppress(OSError):  # no more processes for this user
            return Feeding(work).pieces()
    return source


def _packed(store: Store, manifest: Manifest, wanted: Container[Key] | None, zstd: bool) -> Stream:
    """A pack of these objects of an image, or of all."""
    pack = _zstd if zstd else _deflated
    # Neighbours in the tree resemble each other; neighbours in hash do not.
    every = dict.fromkeys(entry.key for entry in manifest.entries)
    keys = every if wanted is None else [key for key in every if key in wanted]
    with ThreadPoolExecutor(_cores()) as pool:
        ahead: list[Future[bytes]] = []
        yield PACK
        for block, goes_on in _blocks(_records(store, keys)):
            ahead.append(pool.submit(pack, block, goes_on))
            if len(ahead) > 2 * _cores():
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()
        yield END


def _records(store: Store, keys: Iterable[Key]) -> Iterator[bytes]:
    for key in keys:
        # read() checks the bytes against the key: what is sent is what was asked for.
        data = store.read(*key)
        yield bytes.fromhex(key[0]) + bytes([key[1]]) + len(data).to_bytes(8, "big") + data


def _blocks(records: Iterable[bytes]) -> Iterator[tuple[Parts, bool]]:
    """The parts of each block, and whether it goes on with the record before."""
    waiting: Parts = []
    size = 0
    for record in records:
        if waiting and size + len(record) > BLOCK:
            yield waiting, False
            waiting, size = [], 0
        if len(record) <= BLOCK:
            waiting.append(record)
            size += len(record)
            continue
        for at in range(0, len(record), BLOCK):
            yield [record[at : at + BLOCK]], at > 0
    if waiting:
        yield waiting, False


def _deflated(parts: Parts, goes_on: bool = False) -> bytes:
    plain = b"".join(parts)
    # Bare: the host checks every object by its sha256, so another checksum would be for nothing.
    return _block(1, [compress(plain, LEVEL, -15)], [plain], goes_on)


def _zstd(parts: Parts, goes_on: bool = False) -> bytes:
    compressor = zstandard.ZstdCompressor(
        level=ZSTD_LEVEL, write_content_size=False, write_checksum=False
    ).compressobj()
    packed: list[bytes] = []
    for part in parts:
        packed.append(compressor.compress(part))
        packed.append(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    packed.append(compressor.flush())
    return _block(2, packed, parts, goes_on)


def _block(method: int, packed: Parts, plain: Parts, goes_on: bool) -> bytes:
    size, length = sum(map(len, plain)), sum(map(len, packed))
    if length >= size:
        method, packed, length = 0, plain, size
    method |= GOES_ON * goes_on
    return b"".join([bytes([method]), length.to_bytes(4, "big"), size.to_bytes(4, "big"), *packed])


def _cores() -> int:
    return len(os.sched_getaffinity(0))
