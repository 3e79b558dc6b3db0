"""Wheels into an image: unpack, compile, lay out, check, and name the result.

The rules, in order:

1. A wheel is read once, its bytes checked against the lock; what it became is kept, so the
   next image does not read it at all (kept.py). Sources compile while other wheels unpack.
2. Each package's files are laid out below one prefix: ``lib`` in site-packages, ``scripts``
   in ``bin``, ``headers`` in ``include/site/pythonX.Y/<package>``, ``data`` at the top. What
   a prune pattern matches is left out.
3. INSTALLER, REQUESTED (direct requirements only) and RECORD are written by us. RECORD gives
   no hash for scripts, whose bytes depend on the prefix, nor for bytecode.
4. A path that belongs to the environment itself, or that two packages fill with different
   bytes, stops the image and names both. So does a password in a file made to hold one.
5. Objects are published first, then the manifest. The files of the wheels are published while
   their sources still compile, once no conflict is left to be found. Nothing of time, place,
   user, order or number of jobs is in either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from builder import kept, secrets, skeleton
from builder.bytecode import Bytecode
from builder.destination import Row
from builder.layout import Layout
from builder.publishing import Publisher
from builder.unpack import Unpacked, unpack
from images.claims import digests
from images.errors import UsageError, WainError
from images.manifest import Manifest
from images.render import Interpreter
from images.store import Batch, Store
from wheelhouse.target import Target

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that goes into an image: normalised name, version, file and its sha256 (hex).

    ``direct`` packages were asked for by name.
    """

    name: str
    version: str
    path: Path
    sha256: str
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What goes into an image besides its wheels: bytecode or not, and what is left out."""

    name: str = "image"
    bytecode: bool = True
    prune: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Package:
    """One package of an image; ``files`` is the digest of its lines in the manifest."""

    name: str
    version: str
    wheel: str
    sha256: str
    files: str


@dataclass(frozen=True, slots=True)
class Image:
    """An assembled image: its id, manifest and packages, and what it took to make it."""

    id: str
    manifest: Manifest
    packages: tuple[Package, ...]
    interpreter: str
    warnings: tuple[str, ...] = ()
    unpacked: int = 0
    compiled: int = 0
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """The size of all files together, templates as they are stored."""
        return sum(entry.size for entry in self.manifest.entries)


class _Part(NamedTuple):
    """One package on its way into the image; ``fresh`` when it was unpacked just now."""

    wheel: Wheel
    unpacked: Unpacked
    fresh: bool


def assemble(
    target: Target,
    wheels: Sequence[Wheel],
    store: Store,
    options: Options,
    interpreter: Interpreter | None,
    *,
    jobs: int = 1,
    on_progress: Progress | None = None,
) -> Image:
    """Make an image of these wheels in the store.

    ``interpreter`` compiles the bytecode and must be of the target's minor version; None only
    without bytecode. Call it inside ``store.writing()`` when the result is tagged afterwards.
    Raises WainError: ConflictError, SecretError, CompileError, WheelContentError, StoreError.
    """
    began = time.monotonic()
    if target.platform.startswith("win"):
        raise UsageError(f"target {target.name}", "images are for Linux and macOS, not Windows")
    compiling = interpreter if options.bytecode else None
    with store.writing():
        with store.batch() as batch, Publisher(batch) as publisher:
            bytecode = Bytecode(store, batch, compiling, jobs) if compiling else None
            layout = Layout(target.python, options.prune, bytecode.result if bytecode else None)
            gathering = _Gathering(
                store, batch, publisher, layout, bytecode, on_progress or _silent
            )
            layout.add_skeleton(skeleton.put(batch, target.python))
            parts = gathering.run(wheels, jobs)
            for part in parts:
                layout.complete(part.wheel.name, part.unpacked.dist_info, batch.put)
            # From here on everybody waits: what is only computed is, while the disk writes.
            publisher.finish()
            manifest = Manifest(
                target.version, target.abi, target.platform, skeleton.release(), layout.entries()
            )
            packages = _packages(parts, manifest)
        warnings = secrets.check(manifest.entries, lambda entry: store.read(*entry.key))
        if bytecode:
            bytecode.keep()
        image_id = store.put_manifest(manifest)
    return Image(
        image_id,
        manifest,
        packages,
        compiling.version if compiling else "",
        warnings=tuple(map(str, warnings)),
        unpacked=sum(part.fresh for part in parts),
        compiled=bytecode.compiled if bytecode else 0,
        seconds=time.monotonic() - began,
    )


def _packages(parts: list[_Part], manifest: Manifest) -> tuple[Package, ...]:
    files = digests(manifest)
    return tuple(
        Package(
            part.wheel.name,
            part.wheel.version,
            part.wheel.path.name,
            part.wheel.sha256,
            files.get(part.wheel.name, sha256().hexdigest()),
        )
        for part in parts
    )


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _remember(store: Store, parts: list[_Part]) -> None:
    """Keep what may save work next time; only after its objects were published."""
    try:
        for part in parts:
            if part.fresh:
                kept.keep(store, part.wheel.sha256, part.unpacked)
    except OSError as error:
        raise WainError(str(error.filename), error.strerror or "cannot be written") from None


class _Gathering:
    """Unpacking what is not known, and compiling what is not known, at the same time."""

    def __init__(
        self,
        store: Store,
        batch: Batch,
        publisher: Publisher,
        layout: Layout,
        bytecode: Bytecode | None,
        on_progress: Progress,
    ) -> None:
        self._store = store
        self._batch = batch
        self._publisher = publisher
        self._layout = layout
        self._bytecode = bytecode
        self._progress = on_progress

    def run(self, wheels: Sequence[Wheel], jobs: int) -> list[_Part]:
        """The parts, sorted by name. No thread or worker is left when it returns or raises."""
        # The largest first, so that no thread is left alone with it at the end.
        ordered = sorted(wheels, key=_file_size, reverse=True)
        threads = ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="unpack")
        try:
            futures = [threads.submit(self._part, wheel) for wheel in ordered]
            parts = self._results(futures)
            self._lay_out(parts)
            if any(part.fresh for part in parts):
                # While the workers compile; nothing stops the image any more but a crash.
                self._publisher.begin(lambda: _remember(self._store, parts))
            if self._bytecode:
                for part in parts:
                    self._layout.prepare(part.wheel.name, part.unpacked.dist_info)
                self._bytecode.finish(self._compiling)
        finally:
            if self._bytecode:
                self._bytecode.stop()
            threads.shutdown(cancel_futures=True)
        return parts

    def _compiling(self, stage: str, done: int, total: int) -> None:
        self._progress(stage, done, total)
        self._publisher.more()

    def _lay_out(self, parts: list[_Part]) -> None:
        for wheel, unpacked, _ in parts:
            self._layout.add(
                wheel.name, unpacked.dist_info, unpacked.rows, wheel.direct, self._batch.put
            )
        self._layout.check()

    def _results(self, futures: list[Future[_Part]]) -> list[_Part]:
        left = set(futures)
        while left:
            self._progress("Unpacking wheels", len(futures) - len(left), len(futures))
            done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
        self._progress("Unpacking wheels", len(futures), len(futures))
        parts = [future.result() for future in futures]
        return sorted(parts, key=lambda part: part.wheel.name)

    def _part(self, wheel: Wheel) -> _Part:
        known = kept.recall(self._store, wheel.sha256)
        if known is None:
            unpacked = unpack(wheel.path, wheel.sha256, self._batch, self._store.tmp, self._source)
            return _Part(wheel, unpacked, True)
        for row in known.rows:
            if self._layout.compiles(row):
                self._want(row, None)
        return _Part(wheel, known, False)

    def _source(self, row: Row, data: bytes) -> None:
        """A file of a wheel passes by: have it compiled while others are unpacked."""
        if self._layout.compiles(row):
            self._want(row, data)

    def _want(self, row: Row, data: bytes | None) -> None:
        def source() -> bytes:
            return self._store.read(row.sha256, row.executable) if data is None else data

        if self._bytecode:
            self._bytecode.want(row.sha256, source)


def _file_size(wheel: Wheel) -> int:
    try:
        return wheel.path.stat().st_size
    except OSError:
        return 0
