"""Images by name: their documents, a project's tags, what a name means, and collection.

A document stands beside its manifest and is not part of the identity: it says what people
want to know (name, packages and versions, lock, interpreter). Tags belong to a project
(``.wain/tags.json``): a tag maps target names to image ids.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from images import durable
from images.errors import UsageError, WainError
from images.home import make_state_folder
from images.roots import Roots, read_tags, tags_path
from images.store import Freed, Store
from images.swap import remove_tree
from images.worklist import WORK_LISTS

LATEST = "latest"
PACKS = "packs"  # in the store, one or more of an image: see fleet/kept.py
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ID = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class PackageRecord:
    """One package of an image. ``sha256`` is the wheel's, ``files`` the digest of its lines."""

    name: str
    version: str
    wheel: str
    sha256: str
    files: str


@dataclass(frozen=True, slots=True)
class ImageTarget:
    """What an image runs on: ``name`` as in wain.toml, ``python`` such as 3.11."""

    name: str
    python: str
    abi: str
    platform: str


@dataclass(frozen=True, slots=True)
class ImageDocument:
    """What is known about an image besides its bytes.

    ``lock`` is the digest of the lock, ``interpreter`` the release that compiled its bytecode
    (empty without bytecode), ``created`` UTC in ISO 8601 (for people, never for ordering).
    ``aliases`` are other names the same image was made under: projects share a store, and
    equal files are one image.
    """

    id: str
    name: str
    target: ImageTarget
    packages: tuple[PackageRecord, ...]
    lock: str
    interpreter: str
    created: str
    aliases: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The document as it is stored and shown."""
        return {
            "format": 1,
            "id": self.id,
            "name": self.name,
            "target": {key: getattr(self.target, key) for key in _TARGET_KEYS},
            "packages": [
                {key: getattr(package, key) for key in _PACKAGE_KEYS} for package in self.packages
            ],
            "lock": self.lock,
            "interpreter": self.interpreter,
            "created": self.created,
            **({"aliases": list(self.aliases)} if self.aliases else {}),
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> ImageDocument:
        """Read :meth:`to_json`'s form; WainError for anything else."""
        try:
            if not isinstance(data, dict):
                raise TypeError("not a table")
            if data["format"] != 1:
                what = f"format {data['format']!r:.20} found, this wain knows 1"
                raise WainError(where, what, "use the release of wain that wrote it")
            texts = {key: _text(data[key]) for key in ("id", "name", "lock", "interpreter")}
            return cls(
                target=ImageTarget(**{key: _text(data["target"][key]) for key in _TARGET_KEYS}),
                packages=tuple(
                    PackageRecord(**{key: _text(package[key]) for key in _PACKAGE_KEYS})
                    for package in data["packages"]
                ),
                created=_text(data["created"]),
                aliases=tuple(_text(name) for name in data.get("aliases", [])),
                **texts,
            )
        except (KeyError, TypeError) as error:
            raise WainError(where, f"is not an image document: {error}") from None


_TARGET_KEYS = ("name", "python", "abi", "platform")
_PACKAGE_KEYS = ("name", "version", "wheel", "sha256", "files")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return value


class Catalog:
    """The images of a store as one project names them."""

    def __init__(self, store: Store, project: str = ".") -> None:
        self.store = store
        self.project = os.path.realpath(project)
        self.roots = Roots(store)

    # Documents

    def _path(self, image_id: str) -> str:
        return f"{self.store.root}/images/{image_id}.json"

    def put_document(self, document: ImageDocument) -> None:
        """Keep an image's document; replaces an older one, but for its names.

        Raises WainError.
        """
        document = replace(document, aliases=self._other_names(document))
        data = (json.dumps(document.to_json(), indent=1) + "\n").encode()
        path = self._path(document.id)
        try:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            durable.write_file(path, data, f"{path}.{os.urandom(6).hex()}")
        except OSError as error:
            raise WainError(path, error.strerror or str(error)) from None

    def _other_names(self, document: ImageDocument) -> tuple[str, ...]:
        names = set(document.aliases)
        with suppress(WainError):  # none yet, or one that is replaced because it is damaged
            older = self.document(document.id)
            names.update(older.aliases, {older.name})
        return tuple(sorted(names - {document.name}))

    def document(self, image_id: str) -> ImageDocument:
        """An image's document. Raises WainError."""
        path = self._path(image_id)
        try:
            with open(path, "rb") as stream:
                data = json.loads(stream.read())
        except FileNotFoundError:
            raise WainError(self.store.root, f"no image {image_id[:12]}") from None
        except (OSError, ValueError) as error:
            raise WainError(path, f"cannot be read: {error}", "build or import it again") from None
        return ImageDocument.from_json(data, path)

    def documents(self) -> list[ImageDocument]:
        """The documents of all images in the store, by name, target and id."""
        folder = f"{self.store.root}/images"
        found = [
            self.document(image_id)
            for image_id in self.store.manifests()
            if os.path.exists(f"{folder}/{image_id}.json")
        ]
        return sorted(found, key=lambda one: (one.name, one.target.name, one.created, one.id))

    # Tags

    def tags(self) -> dict[str, dict[str, str]]:
        """This project's tags: tag -> target -> image id."""
        return read_tags(self.project)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, dict[str, str]]]:
        import fcntl

        path = tags_path(self.project)
        folder = os.path.dirname(path)
        try:
            make_state_folder(folder)
            descriptor = os.open(
                f"{folder}/tags.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            raise WainError(folder, error.strerror or str(error)) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with self.roots.adding():
                tags = self.tags()
                yield tags
                kept = {tag: dict(sorted(ids.items())) for tag, ids in sorted(tags.items()) if ids}
                data = json.dumps({"format": 1, "tags": kept}, indent=1) + "\n"
                durable.write_file(path, data.encode(), f"{path}.{os.urandom(6).hex()}")
                self.roots.register("project", self.project)
        except OSError as error:
            raise WainError(path, error.strerror or str(error)) from None
        finally:
            os.close(descriptor)

    def tag(self, tag: str, image_id: str, target: str = "") -> None:
        """Let *tag* name an image for *target*, else for the image's own. Raises WainError.

        Who has just made the image still holds ``store.writing()``, so that no collection
        comes between.
        """
        check_tag(tag)
        document = self.document(image_id)
        with self._changing() as tags:
            tags.setdefault(tag, {})[target or document.target.name] = image_id

    def untag(self, tag: str, target: str = "") -> list[str]:
        """Remove a tag, for one target or all; the image ids it named. Raises WainError."""
        with self._changing() as tags:
            by_target = tags.get(tag, {})
            gone = [name for name in by_target if not target or name == target]
            if not gone:
                suffix = f" for target {target}" if target else ""
                raise WainError(self.project, f"no tag {tag!a}{suffix}", known(tags))
            return [by_target.pop(name) for name in gone]

    # Names

    def candidates(self, name: str) -> dict[str, str]:
        """Target name -> image id for ``name``, ``name:tag`` or an id prefix of 8 digits or more.

        Raises UsageError for what cannot be a name, WainError when nothing is called so.
        """
        base, colon, tag = name.partition(":")
        if not NAME.fullmatch(base) or (colon and not NAME.fullmatch(tag)):
            what = f"{name!a} names no image"
            raise UsageError("", what, "name, name:tag, or an id of 8 or more digits")
        tags = self.tags()
        by_target = tags.get(tag or LATEST, {})
        found = {
            target: image_id
            for target, image_id in by_target.items()
            if base in self._names(image_id)
        }
        if found:
            return found
        if not colon and _ID.fullmatch(base):
            image_id = self.store.resolve_id(base)
            return {self.document(image_id).target.name: image_id}
        what = f"no image {name!a} is tagged in this project"
        raise WainError(self.project, what, known(tags) if tags else "wain image build")

    def _names(self, image_id: str) -> tuple[str, ...]:
        document = self.document(image_id)
        return (document.name, *document.aliases)

    def resolve(self, name: str, target: str = "") -> str:
        """The one image id a name means for a target (its name; empty when one is enough)."""
        found = self.candidates(name)
        if target and target not in found:
            what = f"image {name} has no target {target!a}"
            raise WainError(self.project, what, f"it has {', '.join(sorted(found))}")
        if not target and len(set(found.values())) > 1:
            what = f"image {name} has several targets"
            raise UsageError("", what, f"say --target: {', '.join(sorted(found))}")
        return found[target] if target else next(iter(found.values()))

    # Collection

    def collect(
        self, dry_run: bool = False, then: Callable[[], None] | None = None
    ) -> tuple[Freed, dict[str, list[str]]]:
        """Remove images, objects and shared checkouts that nothing uses.

        Returns what was freed (nothing with *dry_run*) and who uses each image that stays.
        *then* runs at the end, while nobody else may write to the store. Raises LockedError
        while somebody does, WainError when it cannot be told what is in use.
        """
        with self.roots.collecting():
            users, checkouts = self.roots.live()
            present = set(self.store.manifests())
            live = [image_id for image_id in users if image_id in present]
            keys: set[tuple[str, bool]] = set()
            for image_id in live:
                keys.update(self.store.manifest(image_id).objects())
            if dry_run:
                gone = [key for key in self.store.keys() if key not in keys]  # noqa: SIM118
                size = sum(os.lstat(self.store.object_path(*key)).st_size for key in gone)
                return Freed(len(gone), size, len(present) - len(live)), users

            def sweep() -> None:
                self._sweep(set(live), checkouts)
                if then:
                    then()

            # All of it under the store's lock: a build that begins now writes the same files.
            return self.store.collect(keys, live, sweep), users

    def _sweep(self, live: set[str], checkouts: set[str]) -> None:
        """What belongs to images that are gone, checkouts that nobody uses."""
        for folder in ("images", "signatures", WORK_LISTS, PACKS):
            for name in _names(f"{self.store.root}/{folder}"):
                if name.partition(".")[0] not in live:
                    durable.discard(f"{self.store.root}/{folder}/{name}")
        for name in _names(f"{self.store.root}/checkouts"):
            if name not in checkouts:
                remove_tree(f"{self.store.root}/checkouts/{name}")


def known(tags: Mapping[str, object]) -> str:
    """A hint that lists the tags there are."""
    return f"tags: {', '.join(sorted(tags))}" if tags else "there are no tags"


def check_tag(tag: str) -> str:
    """*tag* when it may be one. Raises UsageError."""
    if not NAME.fullmatch(tag):
        raise UsageError("", f"{tag[:60]!a} cannot be a tag", "letters, digits, . _ -")
    return tag


def _names(folder: str) -> Iterable[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
