"""Replace damaged objects: make again what they were, from the wheels, and keep only those.

The packages that own a damaged object are assembled once more, into a store of their own that
is thrown away; of all that makes, only the objects that were asked for are taken over.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from builder.assemble import Options, Wheel, assemble
from builder.interpreter import find
from images.catalog import Catalog, ImageDocument
from images.errors import WainError
from images.hashing import hash_file
from images.manifest import Manifest
from images.store import Bad, Store
from wheelhouse.target import Target

if TYPE_CHECKING:
    from images.manifest import Key

Progress = Callable[[str, int, int], None]


def repair_objects(
    catalog: Catalog,
    images: Mapping[str, Manifest],
    bad: Sequence[Bad],
    folders: Sequence[str],
    on_progress: Progress | None = None,
) -> list[Key]:
    """Make *bad* objects whole again; returns the keys that could not be.

    *images* maps ids to manifests that may contain them, *folders* are where wheels are
    looked for, by name and sha256. Nothing that is sound is read or written again. The caller
    holds ``store.writing()``.
    """
    store = catalog.store
    left = {one.key for one in store.heal(one.key for one in bad)}
    for image_id, manifest in images.items():
        wanted = {entry.key for entry in manifest.entries} & left
        if not wanted:
            continue
        owners = {entry.owner for entry in manifest.entries if entry.key in wanted}
        try:
            document = catalog.document(image_id)
            left -= _from_wheels(store, manifest, document, owners, wanted, folders, on_progress)
        except WainError:
            # Another image may hold the same object and still have its wheels.
            continue
    return sorted(left)


def _from_wheels(
    store: Store,
    manifest: Manifest,
    document: ImageDocument,
    owners: set[str],
    wanted: set[Key],
    folders: Sequence[str],
    on_progress: Progress | None,
) -> set[Key]:
    wheels = []
    for package in document.packages:
        if package.name in owners:
            path = _find(package.wheel, package.sha256, folders)
            if path is not None:
                direct = any(
                    entry.owner == package.name and entry.path.endswith(".dist-info/REQUESTED")
                    for entry in manifest.entries
                )
                wheels.append(Wheel(package.name, package.version, path, package.sha256, direct))
    bytecode = any(entry.path.endswith(".pyc") for entry in manifest.entries)
    target = Target(
        document.target.name, document.target.python, document.target.platform,
        document.interpreter if bytecode else "",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=store.root, prefix="repair-") as scratch:
        other = Store(scratch)
        interpreter = find(target.python) if bytecode else None
        options = Options(document.name, bytecode=interpreter is not None)
        assemble(target, wheels, other, options, interpreter, on_progress=on_progress)
        made = {key for key in wanted if other.is_present(key)}
        with store.batch() as batch:
            for sha256, executable in sorted(made):
                made_at = other.object_path(sha256, executable)
                with open(made_at, "rb") as stream:  # noqa: PTH123 - a store's paths are str
                    batch.put_file(stream, executable, sha256, os.fstat(stream.fileno()).st_size)
    return made


def _find(name: str, sha256: str, folders: Sequence[str]) -> Path | None:
    for folder in folders:
        path = Path(folder) / name
        if path.is_file() and hash_file(str(path))[0] == sha256:
            return path
    return None
