"""Which wheel a build made: the index of finished builds beside the wheelhouse.

A lock names the sdist of a package that is built here; the wheel it became is found again by
what determined it: the sdist's sha256, the digest of its build lock, the target and the build
flags. One small file a build, ``<wheelhouse>/.meta/built/<key>.json``, written atomically, so
that two builders never disturb each other and nothing is searched or hashed to find a wheel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wheelhouse.files import write_atomically
from wheelhouse.lock import Lock, LockedPackage, lock_digest
from wheelhouse.target import Target

FORMAT = 1
# Counted up when the way of building changes what comes out: older wheels are built anew.
RECIPE = 1


class House(Protocol):
    """The part of a wheelhouse this module needs."""

    @property
    def folder(self) -> Path:
        """The folder the wheels lie in."""

    def has(self, filename: str, sha256: str) -> bool:
        """Whether the wheelhouse holds this file with these bytes."""


@dataclass(frozen=True, slots=True)
class WheelFile:
    """One wheel in a wheelhouse: its name, its sha256 (hex) and where it lies."""

    filename: str
    sha256: str
    path: Path


@dataclass(frozen=True, slots=True)
class BuildKey:
    """Everything that decides a built wheel's bytes.

    ``source`` is the sha256 of the sdist (or the digest of a project's tree), ``build_lock``
    the digest of its build lock, ``builder`` the Python minor version and platform the hooks
    run on, ``target`` what the wheel is for, ``flags`` the digest of extra build variables.
    """

    source: str
    build_lock: str
    builder: str
    target: str
    flags: str

    @property
    def digest(self) -> str:
        """sha256 (hex) of the key: the name of its record."""
        fields = [RECIPE, self.source, self.build_lock, self.builder, self.target, self.flags]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()

    @property
    def build_tag(self) -> str:
        """The build tag of the wheel, such as "1_3f2a9c1e" (PEP 427).

        It tells a wheel built here from the publisher's of the same version, and one build
        lock from another; it names no machine, so the same locks give the same wheel anywhere.
        """
        fields = json.dumps([RECIPE, self.source, self.build_lock, self.flags])
        return "1_" + hashlib.sha256(fields.encode()).hexdigest()[:8]


def build_key(
    source: str, build_lock: Lock, target: Target, flags: Mapping[str, str] | None = None
) -> BuildKey:
    """The key of one build: pure, from the source's digest, the locks and the flags."""
    text = json.dumps(sorted((flags or {}).items()))
    return BuildKey(
        source=source,
        build_lock=lock_digest(build_lock),
        builder=f"{build_lock.target.python} {build_lock.target.platform}",
        target=f"{target.python} {target.platform}",
        flags=hashlib.sha256(text.encode()).hexdigest(),
    )


def built_wheel(
    package: LockedPackage,
    build_lock: Lock,
    target: Target,
    wheelhouse: House,
    flags: Mapping[str, str] | None = None,
) -> WheelFile | None:
    """The wheel an earlier build made of ``package`` for ``target``, None when there is none.

    A wheel that has left the wheelhouse, or has other bytes than the build gave it, counts
    as none.
    """
    return find_build(build_key(package.file.sha256, build_lock, target, flags), wheelhouse)


def find_build(key: BuildKey, wheelhouse: House) -> WheelFile | None:
    """:func:`built_wheel` by key."""
    try:
        record = json.loads(_record(wheelhouse, key).read_bytes())
        if record["format"] != FORMAT:
            return None
        filename, sha256 = str(record["file"]), str(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if "/" in filename or not wheelhouse.has(filename, sha256):
        return None
    return WheelFile(filename, sha256, wheelhouse.folder / filename)


def record_build(key: BuildKey, wheel: WheelFile, wheelhouse: House) -> None:
    """Remember that ``key`` gave ``wheel``, which is in the wheelhouse already."""
    path = _record(wheelhouse, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"format": FORMAT, "file": wheel.filename, "sha256": wheel.sha256}
    write_atomically(path, (json.dumps(record, sort_keys=True) + "\n").encode())


def log_path(key: BuildKey, wheelhouse: House, name: str) -> Path:
    """Where the log of a build lies."""
    return wheelhouse.folder / ".meta" / "built" / f"{name}-{key.digest[:12]}.log"


def _record(wheelhouse: House, key: BuildKey) -> Path:
    return wheelhouse.folder / ".meta" / "built" / f"{key.digest}.json"
