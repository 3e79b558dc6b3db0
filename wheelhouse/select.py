"""Picking a target's files from any lock that follows the specification (PEP 751)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.pylock import (
    Package,
    PackageSdist,
    PackageWheel,
    Pylock,
    PylockSelectError,
    PylockUnsupportedVersionError,
    PylockValidationError,
)
from packaging.utils import parse_wheel_filename

from wheelhouse.errors import WheelhouseError
from wheelhouse.target import Target, build_key, check_marker
from wheelhouse.text import bare, shown


class LockError(WheelhouseError):
    """A lock that cannot be read or used: ``where`` is the file, ``key`` the place in it."""

    def __init__(self, path: str | os.PathLike[str], key: str, what: str, hint: str = "") -> None:
        self.key = key
        super().__init__(bare(os.fspath(path)), f"{bare(key)}: {what}" if key else what, hint)


def validated(document: Mapping[str, Any], path: Path) -> Pylock:
    """A lock from its TOML document. Raises :class:`LockError` with the key's path."""
    try:
        return Pylock.from_dict(document)
    except PylockUnsupportedVersionError as error:
        raise LockError(
            path, "lock-version", bare(error.message), "made for a newer wainwright?"
        ) from None
    except PylockValidationError as error:
        raise LockError(path, error.context or "", bare(error.message)) from None


def selected(
    pylock: Pylock, target: Target, path: Path
) -> list[tuple[Package, PackageWheel | PackageSdist]]:
    """What the target installs, best wheel first, by packaging's own rules.

    All eleven marker variables are handed over: whatever is missing there would be read from
    the machine this runs on.
    """
    for index, package in enumerate(pylock.packages):
        if package.marker is not None:
            check_marker(package.marker, f"{bare(path)}: packages[{index}].marker")
    for index, marker in enumerate(pylock.environments or ()):
        check_marker(marker, f"{bare(path)}: environments[{index}]")
    found: list[tuple[Package, PackageWheel | PackageSdist]] = []
    try:
        for package, source in _builds_ordered(pylock).select(
            environment=target.environment(), tags=target.tags()
        ):
            if not isinstance(source, PackageWheel | PackageSdist):
                raise LockError(
                    path,
                    _key(pylock, package),
                    f"{shown(package.name)} comes from a "
                    f"{type(source).__name__.removeprefix('Package').lower()}",
                    "only wheels and sdists with a sha256 can be installed",
                )
            found.append((package, source))
    except PylockSelectError as error:
        raise LockError(path, "", f"target {target.name}: {bare(str(error), 400)}") from None
    return found


def _builds_ordered(pylock: Pylock) -> Pylock:
    """The same lock with the wheels of every package in descending order of build tag.

    packaging ranks by tags alone and keeps the order of equals; the wheel specification says
    the higher build tag wins.
    """
    packages = []
    for package in pylock.packages:
        if package.wheels and len(package.wheels) > 1:
            wheels = sorted(
                package.wheels,
                key=lambda wheel: build_key(parse_wheel_filename(wheel.filename)[2]),
                reverse=True,
            )
            fields = {name: getattr(package, name) for name in package.__dataclass_fields__}
            package = Package(**{**fields, "wheels": wheels})
        packages.append(package)
    fields = {name: getattr(pylock, name) for name in pylock.__dataclass_fields__}
    return Pylock(**{**fields, "packages": packages})


def _key(pylock: Pylock, package: Package) -> str:
    for index, candidate in enumerate(pylock.packages):
        if candidate.name == package.name and candidate.version == package.version:
            return f"packages[{index}]"
    return "packages"
