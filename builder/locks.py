"""The locks of a project, where they lie and what they say.

Read at every build of an image, so nothing of locking or building is imported here.
"""

from __future__ import annotations

from pathlib import Path

from builder.spec import BuildSpec, TargetSpec
from images.errors import WainError
from wheelhouse.lock import Lock, read_lock


def lock_of(spec: BuildSpec, target: TargetSpec) -> Lock:
    """The lock of a target. Raises WainError when there is none, or one for another target."""
    path = Path(spec.lock_path(target.name))
    where = f"locks/{path.name}"
    if not path.exists():
        raise WainError(where, f"there is no lock for target {target.name}", "wain lock")
    lock = read_lock(path)
    wanted = target.target()
    if (lock.target.python, lock.target.platform) != (wanted.python, wanted.platform):
        raise WainError(
            where,
            f"is for Python {lock.target.python} on {lock.target.platform}, the target is "
            f"Python {wanted.python} on {wanted.platform}",
            "wain lock",
        )
    return lock


def build_lock_path(locks: Path, name: str, target: str = "") -> Path:
    """Where the build lock of a package lies; with ``target`` where several need one."""
    return locks / f"pylock.build-{name}{'--' + target if target else ''}.toml"


def find_build_lock(locks: Path, name: str, target: str) -> Path | None:
    """The build lock for a package and target that is there: its own one first."""
    for path in (build_lock_path(locks, name, target), build_lock_path(locks, name)):
        if path.is_file():
            return path
    return None


def build_lock_of(spec: BuildSpec, name: str, target: str) -> Lock:
    """The build lock of a package for a target. Raises WainError when there is none."""
    path = find_build_lock(Path(spec.locks), name, target)
    if path is None:
        raise WainError(f"locks/pylock.build-{name}.toml", f"{name} has no build lock", "wain lock")
    return read_lock(path)
