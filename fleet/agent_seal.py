"""A release's seal: what a stat of every file said when it was found whole. Travels to hosts.

A rollback must not wait for a manifest of thousands of lines to be read and compared. The seal
names the release's folders and files, with mode and time of each folder (its time changes with
every name in it) and mode, size and time of each file, as they were. An equal seal means that
no file was added, removed, replaced, written or given another mode. Anything else only means
that the long comparison has to be made.

The file: a line ``wain-seal 2 <folders> <bytes of names>``; the names, folders first, separated
by NUL; then what was seen, as bytes that are only ever compared.
"""

from __future__ import annotations

import marshal
import os
from _operator import attrgetter, itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from images.manifest import Entry, Manifest

MAGIC = b"wain-seal"
FORMAT = b"2"


def measure(target: str, manifest: Manifest) -> tuple[bytes, Sequence[Entry]]:
    """The seal of a release as it is now, and the entries that deserve a closer look.

    Those are all but the plain files that are as a check-out makes them when it shares
    objects. No seal, and all entries, when something is not there or is no folder of ours.
    """
    from images.layout import FIXED_MTIME
    from images.manifest import folders
    from images.scan import FOLDER, SHARED

    files = [entry[5] for entry in manifest.entries]
    inner = [".", *sorted(folders(files))]
    names = [name.encode() for name in (*inner, *files)]
    try:
        seen = _look(target, names[: len(inner)], names[len(inner) :])
    except OSError:
        return b"", manifest.entries
    text = b"\0".join(names)
    seal = b"%s %s %d %d\n%s%s" % (MAGIC, FORMAT, len(inner), len(text), text, _packed(seen))
    if any(mode != FOLDER for mode, _ in seen[0]):
        return seal, manifest.entries
    return seal, [
        entry
        for entry, found in zip(manifest.entries, seen[1])
        if entry[0] != "file" or found != (SHARED[entry[1]], entry[3], FIXED_MTIME)
    ]


def _packed(seen: Any) -> bytes:
    return marshal.dumps(seen, 2)  # of this version equal values have equal bytes


def _look(target: str, folders: list[bytes], files: list[bytes]) -> list[list[Any]]:
    """What a stat of each says. Raises OSError."""
    # From within: the way down from the root costs more than the file itself.
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(target)
        try:
            return [
                list(map(attrgetter("st_mode", "st_mtime_ns"), map(os.lstat, folders))),
                list(map(itemgetter(0, 6, 8), map(os.lstat, files))),  # mode, size, time
            ]
        finally:
            os.fchdir(before)
    finally:
        os.close(before)


def write(root: str, image: str, seal: bytes) -> None:
    """Keep a seal. Not synced, and its loss is none: the long comparison makes it anew."""
    folder = f"{root}/seals"
    new = f"{folder}/{image}.{os.getpid()}"
    try:
        os.makedirs(folder, 0o755, exist_ok=True)
        with open(new, "wb") as file:
            file.write(seal)
        os.rename(new, f"{folder}/{image}")
    except OSError:
        return


def is_intact(root: str, image: str) -> bool:
    """Whether the release still equals its seal."""
    try:
        with open(f"{root}/seals/{image}", "rb", buffering=0) as file:
            head, _, rest = file.read().partition(b"\n")
        magic, format_, count, size = head.split()
        names = rest[: int(size)].split(b"\0")
        if (magic, format_) != (MAGIC, FORMAT):
            return False
        at = int(count)
        seen = _look(f"{root}/releases/{image}", names[:at], names[at:])
        return _packed(seen) == rest[int(size) :]
    except (OSError, ValueError):
        return False
