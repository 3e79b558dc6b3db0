"""The locks that lie in a wheelhouse: which there are, and whether they name what is there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from wheelhouse.errors import WheelhouseError
from wheelhouse.lock import read_lock


def locks_in(folder: Path) -> list[Path]:
    """The locks that lie in a folder, sorted."""
    return sorted(folder.glob("pylock.*.toml"))


def locks_naming(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """The locks of a folder that name one of these files; those that cannot be read too."""
    for path in locks_in(folder):
        try:
            files = {package.file.filename for package in read_lock(path).packages}
        except WheelhouseError:
            yield path
            continue
        if not files.isdisjoint(names):
            yield path


def wrong_in(path: Path, hashes: Mapping[str, str]) -> str:
    """What is wrong with a lock in a wheelhouse whose files have these sha256; "" for nothing."""
    try:
        packages = read_lock(path).packages
    except WheelhouseError as error:
        return error.what
    for package in packages:
        found = hashes.get(package.file.filename)
        if found is None:
            return f"names {package.file.filename}, which is not in the wheelhouse"
        if found != package.file.sha256:
            return f"names {package.file.filename} with another sha256 than it has"
    return ""
