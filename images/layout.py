"""What an object on disk looks like, and the errors of a store. Travels to hosts."""

from __future__ import annotations

import stat

from images.errors import WainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from images.manifest import Key

# 1980-01-02 00:00 UTC, seconds. Every object has it, so any write in place shows. After 1980
# in every time zone: a zip file cannot hold an earlier time.
FIXED_MTIME = 315_619_200
FIXED_NS = FIXED_MTIME * 1_000_000_000
FILE_MODE = 0o444
EXECUTABLE_MODE = 0o555


class StoreError(WainError):
    """A store that cannot be used, or a write to it that failed."""


CHANGED = "the object's bytes were changed"


class ObjectError(StoreError):
    """An object that is missing or not what its name says. ``key`` names it."""

    def __init__(self, key: Key, path: str, what: str, hint: str = "") -> None:
        self.key = key
        super().__init__(path, what, hint or "wain store verify --repair")


class SuspectError(StoreError):
    """Objects that are missing or were changed: ``keys``, and the ``owners`` of their files."""

    def __init__(self, store: str, keys: list[Key], owners: list[str]) -> None:
        self.keys = keys
        self.owners = owners
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        super().__init__(
            store,
            f"object {keys[0][0]}{more} missing or changed, of: {', '.join(owners)}",
            "wain store verify --repair",
        )


def is_sound(status: os.stat_result, executable: bool, size: int | None = None) -> bool:
    """Whether an object's stat is still what the store wrote."""
    return (
        status.st_mode == stat.S_IFREG | (EXECUTABLE_MODE if executable else FILE_MODE)
        and status.st_mtime_ns == FIXED_NS
        and (size is None or status.st_size == size)
    )


def object_name(sha256: str, executable: bool) -> str:
    """An object's path below the objects folder."""
    name = f"{sha256[:2]}/{sha256[2:]}"
    return name + ".x" if executable else name


def failed(path: str, error: OSError) -> StoreError:
    """What the system said about a path, as an error of the store."""
    return StoreError(path, error.strerror or str(error))
