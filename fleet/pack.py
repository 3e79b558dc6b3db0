"""Packs: which are there, who reads them, how far each one is. packing.py makes their bytes.

A pack is built once for each missing set, while the first host already receives it, and
spooled on disk; every other host with the same missing set reads the same file, and so does a
later roll-out (kept.py). Where there is only one host and none is kept, it is handed on as it is
built.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, closing, nullcontext, suppress
from hashlib import sha256
from io import RawIOBase
from pathlib import Path

from fleet import kept
from fleet.feeding import Feeding, Writer
from fleet.frames import HEAD
from fleet.packing import (
    BLOCK,
    HAS_ZSTD,
    ZSTD_HURRIED,
    ZSTD_LEVEL,
    ZSTD_PATIENT,
    Key,
    Stream,
    deflate,
    most,
    packed,
    usual,
)
from images.errors import WainError
from images.forks import can_fork
from images.layout import failed
from images.manifest import Manifest, sizes_in
from images.staging import staging
from images.store import Store

SLOW = 25e6  # bytes a second: a line that is slower gains by more work
AHEAD = 32 << 20  # bytes of a pack for one host that are built before it takes them
# Bytes in one piece of the stream: as a frame it fills eight packets of a connection (see ssh.py).
PIECE = 8 * ((32 << 10) - 64) - HEAD
# Packs of so many plain bytes are there at once: no process of its own, and a size to wait for.
SOON = 4 << 20
# To read a manifest of so many bytes, packed, takes as long as to begin a process.
LONG = 64 << 10


class SpoiledError(WainError):
    """A pack that cannot be read to the end it had."""


class Pack:
    """One missing set's pack, complete or growing. Safe to read from many threads.

    Without a ``path`` it can be read only once, and little of it is held in memory; with a
    ``feeding`` it is taken from there. One that was ``kept`` is complete from the beginning.
    """

    def __init__(
        self, path: Path | None, feeding: Feeding | None = None, *, kept: bool = False
    ) -> None:
        self.path = path
        self.kept = kept
        self._feeding = feeding
        self.begun = False  # to be read
        self.is_full = False  # the disk it was to be spooled on
        self._held: deque[bytes] = deque()
        self._waiting = 0  # bytes of them
        self._size = path.stat().st_size if path and kept else 0
        self._done, self._stopped = kept, False
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
        try:
            yield from self._read(path)
        except InterruptedError:  # stopped
            raise
        except OSError as error:
            raise SpoiledError(str(path), error.strerror or str(error)) from None

    def _read(self, path: Path) -> Iterator[bytes]:
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
                    if not piece:
                        raise SpoiledError(str(path), f"ends after {sent} of {size} bytes")
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
    def is_counted(self) -> bool:
        """Whether it has a `size`."""
        return self._feeding is None

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

    def build(self, source: Stream) -> bool:
        """Fill it, for the one thread that made it; whether it is complete."""
        try:
            file = self.path.open("wb", buffering=0) if self.path else nullcontext()
            with file as spool, closing(source):
                for data in source:
                    self._append(spool, data)
        except BaseException as error:
            if self.path and isinstance(error, OSError) and not isinstance(error, InterruptedError):
                self.is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                # As an error of this machine: else the line would seem to have broken.
                error = failed(str(self.path), error)
            with self._grown:
                self._error = error
                self._grown.notify_all()
            return False
        with self._grown:
            self._done = True
            self._grown.notify_all()
        return True

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
    """The packs of one roll-out, by missing set, in a spool folder of its own in the store.

    ``once``: only one host will read them.
    """

    def __init__(self, store: Store, *, once: bool = False) -> None:
        self._store = store
        self._once = once
        self._packs: dict[str, Pack] = {}
        self._begun: list[Pack] = []
        self._threads: list[threading.Thread] = []
        self._feedings: list[Feeding] = []
        self._foreseen: set[str] = set()
        self._refused: set[str] = set()
        self._lock = threading.Lock()
        self._spool = ExitStack()
        self._folder = ""  # until the first pack that is spooled

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
        for feeding in self._feedings:
            feeding.stop()
        self._spool.close()

    def get(self, manifest: Manifest, missing: Iterable[Key], zstd: bool = False) -> Pack:
        """The pack of these objects of an image; building starts with the first call.

        ``zstd``: the host can read it. Raises StoreError.
        """
        # A host's own answer may name what the image has not.
        wanted, zstd = manifest.objects().keys() & set(missing), zstd and HAS_ZSTD
        name = _name(manifest, wanted, zstd)
        with self._lock:
            self._foreseen.discard(name)
            pack = self._packs.get(name)
            if pack and self._once and pack.begun and not pack.kept:
                pack.stop()  # its line broke
                pack = None
            if pack is None:
                sizes = [one for one in manifest.sizes().items() if one[0] in wanted]
                pack = self._find(name, most(size for _, size in sizes))
            if pack is None:
                pack = self._begin(name, packed(self._store, sizes, zstd, hashed=not self._once))
        return pack

    def foresee(self, image_id: str) -> None:
        """Begin the pack of a whole image, which hosts will want that nobody has seen yet.

        At most once for an image. See :meth:`settle`. Raises StoreError, ValueError for a manifest
        of another format.
        """
        zstd, once, store = HAS_ZSTD, self._once, self._store
        name = _whole(image_id, zstd)
        if kept.there(store, name):
            return

        def source(level: Callable[[], int]) -> Stream:
            sizes = sizes_in(store.manifest_bytes(image_id))
            return packed(store, sizes.items(), zstd, hashed=not once, level=level)

        # First of all: there is a core that has nothing else to do, also to read a long manifest.
        apart = store.manifest_size(image_id) > LONG or (
            sum(sizes_in(store.manifest_bytes(image_id)).values()) > SOON
        )
        feeding = _apart(source, once) if apart else None
        stream = feeding.pieces(BLOCK) if feeding else source(usual)
        with self._lock:
            if feeding:
                self._feedings.append(feeding)
            if feeding and once:
                self._add(name, Pack(None, feeding))
            else:
                self._begin(name, stream)
            self._foreseen.add(name)

    def settle(self) -> None:
        """The hosts have been asked: end the building of what was foreseen and nobody wants."""
        with self._lock:
            for name in self._foreseen:
                self._packs.pop(name).stop()
            self._foreseen.clear()

    def drop(self, pack: Pack) -> bool:
        """A host refused it: whether it was kept. Then it is no longer, and `get` makes another."""
        if not pack.kept:
            return False
        with self._lock:
            for name in [name for name, one in self._packs.items() if one is pack]:
                del self._packs[name]
                self._refused.add(name)  # should it stay where it is
                kept.drop(self._store, name)
        return True

    def _find(self, name: str, limit: int) -> Pack | None:
        if name in self._refused or not kept.there(self._store, name):
            return None
        path = self._place(name)
        if not kept.find(self._store, name, path, limit):
            return None
        return self._add(name, Pack(path, kept=True))

    def _begin(self, name: str, source: Stream) -> Pack:
        path = None if self._once else self._place(name)
        if path:
            try:
                path.touch()
            except OSError as error:
                raise failed(str(path), error) from None
        pack = self._add(name, Pack(path))

        def build() -> None:
            if pack.build(source) and path:
                kept.keep(self._store, name, path)
            elif pack.is_full:
                kept.drop_all(self._store)  # there is room the next time

        thread = threading.Thread(target=build, daemon=True, name="pack")
        self._threads.append(thread)
        thread.start()
        return pack

    def _place(self, name: str) -> Path:
        """A path of its own in the spool. Raises StoreError."""
        if not self._folder:
            try:
                self._folder, _ = self._spool.enter_context(staging(self._store.tmp))
            except OSError as error:
                raise failed(self._store.tmp, error) from None
        # Never the file of a building that was ended, which may write once more.
        return Path(self._folder, f"{len(self._begun)}-{name}")

    def _add(self, name: str, pack: Pack) -> Pack:
        self._packs[name] = pack
        self._begun.append(pack)
        return pack


def _whole(image_id: str, zstd: bool) -> str:
    """The name of the pack of all objects of an image."""
    return f"{image_id}.{'zstd' if zstd else 'deflate'}"


def _name(manifest: Manifest, wanted: Collection[Key], zstd: bool) -> str:
    """What tells one pack from another; ``wanted`` are objects of the image, each once."""
    name = _whole(manifest.image_id, zstd)
    if len(wanted) == len(manifest.objects()):
        return name
    keys = "".join([f"{digest}{executable:d}" for digest, executable in sorted(wanted)])
    return f"{name}-{sha256(keys.encode()).hexdigest()}"


@functools.lru_cache(maxsize=4)
def packed_manifest(manifest: Manifest) -> bytes:
    """A manifest as it is sent whole (zlib): packed once for all hosts."""
    return deflate(manifest.to_bytes())


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
