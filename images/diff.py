"""What differs between two images: by package, by file, and in bytes to send. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from images.manifest import Entry, Key, Manifest

WHATS = ("added", "removed", "changed")
_BYTECODE = "__pycache__/"
_RECORDS = (".dist-info/RECORD", ".dist-info/INSTALLER", ".dist-info/REQUESTED")


@dataclass(frozen=True, slots=True)
class FileChange:
    """One path that differs. ``before`` is None for an added one, ``after`` for a removed one."""

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def what(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"

    @property
    def owner(self) -> str:
        """The package it belongs to (afterwards, if it stays); ``-`` for the environment."""
        entry = self.after or self.before
        return entry.owner if entry else "-"

    @property
    def is_noise(self) -> bool:
        """Whether it only follows from another change: bytecode, and an installer's records."""
        return _BYTECODE in self.path or self.path.endswith(_RECORDS)

    def details(self) -> list[str]:
        """What of a changed file differs: kind, mode, size in bytes, content, owner."""
        before, after = self.before, self.after
        if before is None or after is None:
            return []
        found = []
        if before.kind != after.kind:
            found.append(f"{before.kind} → {after.kind}")
        if before.executable != after.executable:
            found.append(f"{_mode(before)} → {_mode(after)}")
        if before.size != after.size:
            found.append(f"{before.size} → {after.size} bytes")
        elif before.sha256 != after.sha256:
            found.append("content")
        if before.owner != after.owner:
            found.append(f"of {before.owner} → of {after.owner}")
        return found


@dataclass(frozen=True, slots=True)
class PackageChange:
    """One package that differs; a version is None where the package is not there.

    Equal versions mean that the same release has other files, for example a rebuilt wheel.
    """

    name: str
    before: str | None
    after: str | None
    files: int

    @property
    def what(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"


@dataclass(frozen=True, slots=True)
class Diff:
    """Two images compared. ``size``: bytes of the objects that only the second one has."""

    packages: tuple[PackageChange, ...]
    files: tuple[FileChange, ...]
    size: int

    def __bool__(self) -> bool:
        return bool(self.packages or self.files)

    def files_of(self, owner: str) -> Iterator[FileChange]:
        """The changed files of one package."""
        return (change for change in self.files if change.owner == owner)

    def to_json(self) -> dict[str, Any]:
        """``{"packages": {...}, "files": {...}, "bytes": n}``, each by what happened."""
        packages: dict[str, list[dict[str, Any]]] = {what: [] for what in WHATS}
        for package in self.packages:
            row: dict[str, Any] = {"name": package.name}
            if package.what == "changed":
                row |= {"from": package.before, "to": package.after}
            else:
                row["version"] = package.after or package.before
            packages[package.what].append(row | {"files": package.files})
        files: dict[str, list[dict[str, Any]]] = {what: [] for what in WHATS}
        for change in self.files:
            item: dict[str, Any] = {"path": change.path, "package": change.owner}
            if change.what == "changed":
                item["details"] = change.details()
            files[change.what].append(item)
        return {"packages": packages, "files": files, "bytes": self.size}


def compare(
    before: Manifest,
    after: Manifest,
    before_versions: Mapping[str, str],
    after_versions: Mapping[str, str],
) -> Diff:
    """Compare two images; versions are by package name, as versions() gives them."""
    files = compare_files(before, after)
    counts: dict[str, int] = {}
    for change in files:
        for owner in {entry.owner for entry in (change.before, change.after) if entry}:
            counts[owner] = counts.get(owner, 0) + 1
    names = {
        name
        for name in before_versions.keys() | after_versions.keys()
        if counts.get(name) or before_versions.get(name) != after_versions.get(name)
    }
    packages = tuple(
        PackageChange(
            name, before_versions.get(name), after_versions.get(name), counts.get(name, 0)
        )
        for name in sorted(names)
    )
    return Diff(packages, files, bytes_to_send(before.objects(), after))


def compare_files(before: Manifest, after: Manifest) -> tuple[FileChange, ...]:
    """Every path that differs, sorted."""
    old = {entry.path: entry for entry in before.entries}
    new = {entry.path: entry for entry in after.entries}
    changes = [FileChange(path, entry, None) for path, entry in old.items() if path not in new]
    for path, entry in new.items():
        known = old.get(path)
        if known != entry:
            changes.append(FileChange(path, known, entry))
    return tuple(sorted(changes, key=lambda change: change.path))


def bytes_to_send(present: Iterable[Key], wanted: Manifest) -> int:
    """Bytes of the objects of an image that are not present, before any compression."""
    have = set(present)
    return sum(size for key, size in wanted.objects().items() if key not in have)


def versions(document: Mapping[str, Any]) -> dict[str, str]:
    """Package versions by name, of an image document."""
    return {package["name"]: package["version"] for package in document.get("packages", [])}


def text_hunks(path: str, before: bytes, after: bytes) -> list[str]:
    """A unified diff of two texts as lines, or one line that says they are binary."""
    try:
        if b"\0" in before or b"\0" in after:
            raise ValueError("binary")
        old, new = before.decode().splitlines(), after.decode().splitlines()
    except ValueError:
        return [f"binary: {len(before)} → {len(after)} bytes"]
    import difflib

    return list(difflib.unified_diff(old, new, f"a/{path}", f"b/{path}", lineterm=""))


def _mode(entry: Entry) -> str:
    return "executable" if entry.executable else "not executable"
