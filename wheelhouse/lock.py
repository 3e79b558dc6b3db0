"""Locks: exactly which files answer the requirements on one target (PEP 751).

The identity of a file is its sha256; the place is a ``path`` into the wheelhouse, relative
to the lock, so a lock names no index and moves between mirrors. Everything an installer
needs is standard; ``[tool.wainwright]`` repeats the target and the digest of the inputs for
people and for wain itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from packaging.markers import Marker
from packaging.pylock import (
    Package,
    PackageSdist,
    PackageWheel,
    Pylock,
    PylockValidationError,
    is_valid_pylock_path,
)
from packaging.specifiers import SpecifierSet
from packaging.utils import (
    NormalizedName,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from wheelhouse.files import write_atomically
from wheelhouse.select import LockError as LockError
from wheelhouse.select import selected, validated
from wheelhouse.target import Target, TargetError
from wheelhouse.text import bare, shown

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BARE_FILENAME = re.compile(r"[^/\\\x00-\x1f\x7f]+")
_URL_PASSWORD = re.compile(r"://[^/@\s]*@")
_CREATOR = "wainwright"


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One wheel or sdist: its name, sha256 (hex), size in bytes, and where it came from.

    ``upload_time`` is aware and in UTC. ``url`` is written only when asked for.
    """

    filename: str
    sha256: str
    size: int | None = None
    upload_time: datetime | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """One package of a lock: ``name`` normalised, ``kind`` "wheel" or "sdist".

    ``direct`` says that a requirement named it (it gets ``REQUESTED`` when installed).
    """

    name: str
    version: str
    file: LockedFile
    kind: str = "wheel"
    requires_python: str | None = None
    direct: bool = False

    def __post_init__(self) -> None:
        # One spelling, so that a lock read back equals the one that was written.
        object.__setattr__(self, "name", canonicalize_name(self.name))
        object.__setattr__(self, "version", str(Version(self.version)))
        requires = str(SpecifierSet(self.requires_python)) if self.requires_python else None
        object.__setattr__(self, "requires_python", requires or None)


@dataclass(frozen=True, slots=True)
class Lock:
    """The files for one target, sorted by package name, and the digest of what was asked."""

    target: Target
    packages: tuple[LockedPackage, ...]
    inputs_digest: str = ""

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.packages, key=lambda package: package.name))
        object.__setattr__(self, "packages", ordered)

    def package(self, name: str) -> LockedPackage | None:
        """The package of this normalised name."""
        return next((package for package in self.packages if package.name == name), None)


def lock_digest(lock: Lock) -> str:
    """sha256 over what a lock decides: target and files; not where they are or when made."""
    document = {
        "target": [lock.target.python, lock.target.platform, lock.target.python_full_version],
        "packages": [
            [package.name, package.version, package.kind, package.file.filename,
             package.file.sha256, package.direct]
            for package in lock.packages
        ],
    }  # fmt: skip
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# --- writing -------------------------------------------------------------------------------


def write_lock(
    lock: Lock, path: Path, wheelhouse_dir: Path, urls: bool = False, creator: str = _CREATOR
) -> bool:
    """Write ``lock`` to ``path`` atomically; False when the file already says exactly this.

    Paths in the lock are relative to the lock's folder. ``urls`` adds the addresses the
    files came from (never their credentials). The result was validated against the
    specification. Raises :class:`LockError`.
    """
    data = lock_bytes(lock, path, wheelhouse_dir, urls=urls, creator=creator)
    try:
        if path.read_bytes() == data:
            return False
    except OSError:
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise LockError(path, "", f"cannot be written: {error.strerror}") from None
    return True


def lock_bytes(
    lock: Lock, path: Path, wheelhouse_dir: Path, *, urls: bool = False, creator: str = _CREATOR
) -> bytes:
    """The text :func:`write_lock` writes: the same lock always gives the same bytes."""
    if not is_valid_pylock_path(path):
        raise LockError(
            path, "", "is no name for a lock file, expected pylock.<name>.toml without more dots"
        )
    # Lexically: a wheelhouse elsewhere is a symlink at the configured place, and the lock
    # names the link, not where it happens to lead on this machine.
    base = os.path.relpath(os.path.abspath(wheelhouse_dir), os.path.abspath(path.parent))  # noqa: PTH100
    folder = "" if base == "." else base.replace(os.sep, "/")
    document = Pylock(
        lock_version=Version("1.0"),
        environments=[_environment_marker(lock.target)],
        requires_python=SpecifierSet(f"=={lock.target.version}.*"),
        extras=[],
        dependency_groups=[],
        created_by=creator,
        packages=[_package_out(package, folder, urls) for package in lock.packages],
        tool={"wainwright": _tool_out(lock)},
    )
    try:
        document.validate()
    except PylockValidationError as error:
        raise LockError(path, error.context or "", f"would not be valid: {error.message}") from None
    return tomli_w.dumps(document.to_dict()).encode()


def _environment_marker(target: Target) -> Marker:
    environment = target.environment()
    keys = (
        "python_version",
        "implementation_name",
        "sys_platform",
        "platform_machine",
    )
    return Marker(" and ".join(f"{key} == '{environment[key]}'" for key in keys))  # type: ignore[literal-required]


def _tool_out(lock: Lock) -> dict[str, Any]:
    target: dict[str, Any] = {
        "name": lock.target.name,
        "python": lock.target.python,
        "platform": lock.target.platform,
        "python-full-version": lock.target.python_full_version,
    }
    if lock.target.local_wheels:
        target["local-wheels"] = True
    return {
        "inputs-digest": lock.inputs_digest,
        "direct": [package.name for package in lock.packages if package.direct],
        "target": target,
    }


def _package_out(package: LockedPackage, folder: str, urls: bool) -> Package:
    file = package.file
    path = posixpath.join(folder, file.filename)
    url = _URL_PASSWORD.sub("://", file.url) if urls and file.url else None
    wheels, sdist = None, None
    if package.kind == "wheel":
        wheels = [
            PackageWheel(
                path=path,
                url=url,
                size=file.size,
                upload_time=file.upload_time,
                hashes={"sha256": file.sha256},
            )
        ]
    else:
        sdist = PackageSdist(
            path=path,
            url=url,
            size=file.size,
            upload_time=file.upload_time,
            hashes={"sha256": file.sha256},
        )
    requires = package.requires_python
    return Package(
        name=NormalizedName(package.name),
        version=Version(package.version),
        requires_python=SpecifierSet(requires) if requires else None,
        wheels=wheels,
        sdist=sdist,
    )


# --- reading -------------------------------------------------------------------------------


def read_lock(path: Path, target: Target | None = None) -> Lock:
    """Read any lock that follows the specification and pick what ``target`` needs.

    Without ``target``, the one recorded in ``[tool.wainwright]`` is used, and for locks of
    other tools the running machine. Packages from version control, folders and archives are
    refused: they have no wheel or sdist by hash. Raises :class:`LockError` with the key's
    path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LockError(path, "", f"cannot be read: {error.strerror}") from None
    return parse_lock(data, path, target)


def parse_lock(data: bytes, path: Path, target: Target | None = None) -> Lock:
    """:func:`read_lock` of bytes; ``path`` is for messages only."""
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise LockError(path, "", f"is not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise LockError(path, "", f"is not TOML: {bare(str(error))}") from None
    pylock = validated(document, path)
    tool = document.get("tool", {}).get("wainwright", {})
    if not isinstance(tool, Mapping):
        raise LockError(path, "tool.wainwright", f"is {shown(str(tool))}, expected a table")
    if target is None:
        target = _target_in(tool, path) or Target.running()
    direct = tool.get("direct", [])
    digest = tool.get("inputs-digest", "")
    if not isinstance(direct, list) or not isinstance(digest, str):
        raise LockError(path, "tool.wainwright", "'direct' must be a list, 'inputs-digest' text")
    return Lock(
        target=target,
        packages=tuple(
            LockedPackage(
                name=str(package.name),
                version=_version(package, source, path),
                file=_file(package, source, path),
                kind="wheel" if isinstance(source, PackageWheel) else "sdist",
                requires_python=str(package.requires_python) if package.requires_python else None,
                direct=package.name in direct,
            )
            for package, source in selected(pylock, target, path)
        ),
        inputs_digest=digest,
    )


def _target_in(tool: Mapping[str, Any], path: Path) -> Target | None:
    fields = tool.get("target")
    if fields is None:
        return None
    key = "tool.wainwright.target"
    if not isinstance(fields, Mapping):
        raise LockError(path, key, f"is {shown(str(fields))}, expected a table")
    values = [fields.get(name) for name in ("name", "python", "platform", "python-full-version")]
    if not all(isinstance(value, str) for value in values):
        raise LockError(path, key, "must give name, python, platform and python-full-version")
    name, python, platform, full = (str(value) for value in values)
    try:
        return Target(name, python, platform, full, bool(fields.get("local-wheels", False)))
    except TargetError as error:
        raise LockError(path, key, error.what, error.hint) from None


def _version(package: Package, source: PackageWheel | PackageSdist, path: Path) -> str:
    if package.version is not None:
        return str(package.version)
    if isinstance(source, PackageWheel):
        return str(parse_wheel_filename(source.filename)[1])
    return str(parse_sdist_filename(source.filename)[1])


def _file(package: Package, source: PackageWheel | PackageSdist, path: Path) -> LockedFile:
    sha256 = source.hashes.get("sha256", "")
    if _SHA256.fullmatch(sha256) is None:
        raise LockError(
            path,
            f"packages.{package.name}.hashes",
            f"sha256 of {shown(source.filename)} is {shown(sha256)}, expected 64 hex digits",
        )
    if _BARE_FILENAME.fullmatch(source.filename) is None:
        raise LockError(
            path, f"packages.{package.name}", f"file name {shown(source.filename)} is not a name"
        )
    moment = source.upload_time
    if moment is not None:
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return LockedFile(
        filename=source.filename,
        sha256=sha256,
        size=source.size,
        upload_time=moment,
        url=source.url,
    )
