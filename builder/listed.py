"""Whether the files of a lock are still what the indexes list: found by asking, not resolving."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from builder.sources import Sources
from builder.urls import mask, without_credentials
from images.errors import WainError
from wheelhouse.lock import Lock, LockedPackage


class ChangedFileError(WainError):
    """A file whose bytes changed under the same name: ``locked`` and ``found`` are sha256."""

    def __init__(self, filename: str, locked: str, found: str, where: str) -> None:
        self.filename = filename
        self.locked = locked
        self.found = found
        super().__init__(
            filename,
            f"was locked with sha256 {locked}, but {mask(where)} now has {found}",
            "a release never changes: find out why before you lock it again",
        )


def check_unchanged(lock: Lock, previous: Lock | None) -> None:
    """Refuse a file with the name of a locked one and other bytes. Raises ChangedFileError."""
    known = {p.file.filename: p.file.sha256 for p in previous.packages} if previous else {}
    for package in lock.packages:
        old = known.get(package.file.filename)
        if old is not None and old != package.file.sha256:
            where = package.file.url or "its index"
            raise ChangedFileError(package.file.filename, old, package.file.sha256, where)


def still_listed(lock: Lock, sources: Sources) -> Lock | None:
    """The lock with the address each file is listed at now; None when not all of them are.

    A place that cannot be asked makes it None too. Raises ChangedFileError for a file that is
    listed with another hash only, and AmbiguousError.
    """
    from builder.client import IndexClient

    with IndexClient(sources) as client:

        def find(package: LockedPackage) -> LockedPackage | None:
            listing = client.project(package.name)
            if listing.problems:
                return None
            named = [file for file in listing.files if file.filename == package.file.filename]
            for file in named:
                if file.sha256 == package.file.sha256:
                    located = replace(package.file, url=without_credentials(file.url))
                    return replace(package, file=located)
            others = [file for file in named if file.sha256]
            if others and len(others) == len(named):
                raise ChangedFileError(
                    package.file.filename,
                    package.file.sha256,
                    others[0].sha256 or "",
                    others[0].url,
                )
            return None

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(find, lock.packages))
    packages = tuple(package for package in found if package is not None)
    return replace(lock, packages=packages) if len(packages) == len(found) else None
