"""The wheels a lock stands for, as they lie in the wheelhouse."""

from __future__ import annotations

from pathlib import Path

from builder.assemble import Wheel
from builder.built import built_wheel
from builder.locks import build_lock_of
from builder.spec import BuildSpec
from images.errors import WainError
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock, LockedPackage


class MissingWheelError(WainError):
    """A wheel the image needs is not in the wheelhouse. ``package`` is its name."""

    def __init__(self, package: str, filename: str, what: str) -> None:
        self.package = package
        super().__init__(filename, what, "wain build")


def wheels_of(lock: Lock, spec: BuildSpec, wheelhouse: Wheelhouse) -> list[Wheel]:
    """One wheel a package: the locked one, or the one its locked sdist was built into.

    Raises MissingWheelError for the first that is not there.
    """
    return [_wheel(package, lock, spec, wheelhouse) for package in lock.packages]


def _wheel(package: LockedPackage, lock: Lock, spec: BuildSpec, wheelhouse: Wheelhouse) -> Wheel:
    file = package.file
    if package.kind == "wheel":
        if not wheelhouse.has(file.filename, file.sha256):
            what = "is not in the wheelhouse with the bytes the lock names"
            raise MissingWheelError(package.name, file.filename, what)
        path, digest = Path(wheelhouse.folder) / file.filename, file.sha256
    else:
        build_lock = build_lock_of(spec, package.name, lock.target.name)
        built = built_wheel(package, build_lock, lock.target, wheelhouse)
        if built is None:
            what = f"has not been built for {lock.target.name} yet"
            raise MissingWheelError(package.name, file.filename, what)
        path, digest = built.path, built.sha256
    return Wheel(package.name, package.version, path, digest, package.direct)
