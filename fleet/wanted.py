"""The images a roll-out is about, and how they differ from what hosts have.

Everything is worked out once for each pair of images, however many hosts share it: manifests
are parsed once, differences kept as summaries, packs built once for each missing set.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fleet.pack import SOON, Pack, Packs, packed_manifest
from fleet.packing import Key, most
from fleet.preflight import Needs, Room
from fleet.reported import ImageRecord
from fleet.session import Proof
from images.catalog import Catalog, ImageDocument
from images.delta import encode_delta
from images.diff import Diff, PackageChange, compare
from images.errors import WainError
from images.layout import CHANGED, ObjectError
from images.manifest import Manifest, folders
from images.store import Store

# What preflight assumes of a host's file system. Bytes.
BLOCK = 4096
# What stays free on a host. Bytes.
RESERVE = 8 << 20
# Folders of the object store on a host, at most.
OBJECT_FOLDERS = 300


@dataclass(frozen=True)
class Wanted:
    """One image to roll out. ``label`` is how it was named, ``proof`` what hosts check it by."""

    label: str
    document: ImageDocument
    manifest: Manifest
    needs: Needs
    proof: Proof | None = None

    @property
    def id(self) -> str:
        """The image id."""
        return self.document.id

    @property
    def names(self) -> tuple[str, ...]:
        """The application's name, the one asked for first; equal images may have several."""
        known = (self.document.name, *self.document.aliases)
        asked = self.label.partition(":")[0]
        return (asked, *known) if asked in known else known

    def record(self) -> ImageRecord:
        """What the journal keeps of it."""
        return image_record(self.document)


@dataclass(frozen=True, slots=True)
class Change:
    """The way from one image to another: packages by what happened, numbers of files, bytes.

    ``packages`` is as `images.diff.Diff.to_json` gives it.
    """

    packages: dict[str, list[dict[str, Any]]]
    added: int
    removed: int
    changed: int

    @property
    def files(self) -> dict[str, int]:
        """How many files were added, removed, changed."""
        return {"added": self.added, "removed": self.removed, "changed": self.changed}


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one kind of host lacks: objects, bytes on the wire, room on its disk.

    Not ``exact``: the bytes are as many as they may be at most.
    """

    objects: int
    size: int
    room: Room
    exact: bool = True


def image_record(document: ImageDocument) -> ImageRecord:
    """What the journal keeps of an image."""
    return ImageRecord(
        document.id,
        document.name,
        document.target.python,
        document.target.platform,
        tuple((package.name, package.version) for package in document.packages),
    )


def load_wanted(catalog: Catalog, name: str) -> list[Wanted]:
    """The images a name stands for, one for each target. Raises WainError."""
    found = []
    for image_id in dict.fromkeys(catalog.candidates(name).values()):
        document = catalog.document(image_id)
        manifest = catalog.store.manifest(image_id)
        needs = Needs(
            manifest.python, manifest.abi, manifest.platform, _magic(catalog.store, manifest)
        )
        found.append(Wanted(name, document, manifest, needs))
    return found


def _magic(store: Store, manifest: Manifest) -> str:
    """The magic number of the bytecode in an image, as hex; empty without any."""
    for entry in manifest.entries:
        if entry.kind == "file" and entry.size >= 16 and entry.path.endswith(".pyc"):
            return store.read(*entry.key)[:4].hex()
    return ""


class Comparisons:
    """What lies between the images hosts have and the ones they are to get, each pair once.

    With ``hurry`` the size of a large pack is not waited for: hosts can take its beginning
    while its end is still being packed.
    """

    def __init__(self, catalog: Catalog, packs: Packs, *, hurry: bool = False) -> None:
        self.catalog = catalog
        self.packs = packs
        self._hurry = hurry
        self._manifests: dict[str, Manifest | None] = {}
        self._changes: dict[tuple[str | None, str], Change] = {}
        self._transfers: dict[tuple[frozenset[str], str | None, str, bool, bool], Transfer] = {}
        self._deltas: dict[tuple[str, str], bytes] = {}
        self._lock = threading.RLock()

    def manifest(self, image_id: str) -> Manifest | None:
        """An image's manifest, None when this machine's store does not have it."""
        with self._lock:
            if image_id not in self._manifests:
                try:
                    self._manifests[image_id] = self.catalog.store.manifest(image_id)
                except WainError:
                    self._manifests[image_id] = None
            return self._manifests[image_id]

    def document(self, image_id: str) -> ImageDocument | None:
        """An image's document, None when this machine's store does not have it."""
        try:
            return self.catalog.document(image_id)
        except WainError:
            return None

    def refused(self, pack: Pack, keys: Iterable[Key]) -> bool:
        """A host refused objects of a pack: whether another one may be taken.

        A kept pack is made anew; else this machine's objects are hashed. Raises ObjectError.
        """
        if self.packs.drop(pack):
            return True
        for key, what, path in self.catalog.store.verify(keys):
            if what not in ("mode", "time"):
                raise ObjectError(key, path, CHANGED if what == "content" else what)
        return False

    def change(self, current: str | None, wanted: Wanted) -> Change:
        """What happens on the way from an image (None: from nothing, or unknown) to another."""
        pair = (current, wanted.id)
        if current is None and pair not in self._changes:
            self._changes[pair] = _first(wanted)
        elif pair not in self._changes:
            diff = self.diff(current, wanted)
            counts = dict.fromkeys(("added", "removed", "changed"), 0)
            for file in diff.files:
                counts[file.what] += 1
            short = Diff(diff.packages, (), diff.size).to_json()
            self._changes[pair] = Change(short["packages"], **counts)
        return self._changes[pair]

    def diff(self, current: str | None, wanted: Wanted) -> Diff:
        """The whole difference; made anew, never kept."""
        before = self.manifest(current) if current else None
        document = self.document(current) if current else None
        old = {one.name: one.version for one in document.packages} if document else {}
        new = {one.name: one.version for one in wanted.document.packages}
        return compare(before or _empty(wanted.manifest), wanted.manifest, old, new)

    def delta(self, base: str, wanted: Wanted) -> bytes | None:
        """The manifest as a delta to another one, when that is known here and pays."""
        pair = (base, wanted.id)
        with self._lock:
            if pair not in self._deltas:
                known = self.manifest(base)
                self._deltas[pair] = (
                    encode_delta(known.to_bytes(), wanted.manifest.to_bytes()) if known else b""
                )
            delta = self._deltas[pair]
        return delta if delta and len(delta) < len(packed_manifest(wanted.manifest)) else None

    def transfer(
        self, releases: Iterable[str], current: str | None, wanted: Wanted, zstd: bool
    ) -> Transfer:
        """What a host with these releases lacks. Its own answer later is what counts."""
        known = frozenset(image for image in releases if self.manifest(image))
        present = wanted.id in set(releases)
        name = (known, current, wanted.id, present, zstd)
        if name not in self._transfers:
            self._transfers[name] = self._transfer(known, current, wanted, present, zstd)
        return self._transfers[name]

    def _transfer(
        self,
        releases: frozenset[str],
        current: str | None,
        wanted: Wanted,
        present: bool,
        zstd: bool,
    ) -> Transfer:
        have: set[Key] = set()
        for image in releases:
            manifest = self.manifest(image)
            if manifest:
                have.update(manifest.objects())
        missing = wanted.manifest.objects()
        if have:
            missing = {key: size for key, size in missing.items() if key not in have}
        delta = self.delta(current, wanted) if current else None
        sent = len(packed_manifest(wanted.manifest) if delta is None else delta)
        plain, exact = sum(missing.values()), True
        if missing:
            pack = self.packs.get(wanted.manifest, missing, zstd)
            exact = pack.kept or (pack.is_counted and (not self._hurry or plain <= SOON))
            sent += pack.size if exact else most(missing.values())
        made = 0
        if not present:
            # Besides objects: folders, templates, links and empty files have their own inodes.
            entries = wanted.manifest.entries
            own = sum(entry.kind != "file" or not entry.size for entry in entries)
            made = own + len(folders(entry.path for entry in entries))
        blocks = sum(-(-size // BLOCK) for size in missing.values()) + made
        inodes = len(missing) + made + (OBJECT_FOLDERS if missing else 0)
        return Transfer(len(missing), sent, Room(blocks * BLOCK + RESERVE, inodes), exact)


def _first(wanted: Wanted) -> Change:
    """The change from nothing, without comparing anything."""
    files = Counter(entry.owner for entry in wanted.manifest.entries)
    versions = {one.name: one.version for one in wanted.document.packages}
    packages = tuple(
        PackageChange(name, None, versions[name], files[name]) for name in sorted(versions)
    )
    short = Diff(packages, (), 0).to_json()
    return Change(short["packages"], len(wanted.manifest.entries), 0, 0)


def _empty(like: Manifest) -> Manifest:
    return Manifest(like.python, like.abi, like.platform, like.skeleton, ())
