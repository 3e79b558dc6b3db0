"""A release's seal: what a stat of every file said when it was found whole. Travels to hosts.

A rollback must not wait for a manifest of thousands of lines to be read and compared. The seal
has inode, mode, size and time of every file as they were, and mode and time of the folders (a
folder's time changes with every name in it). An equal seal means that no file was removed,
replaced, written or given another mode. Folders with only a file or two are not looked at for
themselves: translations come in one for every two files, and what happens to their files shows.
Anything but an equal seal only means that the long comparison has to be made.

The way to a file costs the kernel as much as the answer, so the release is entered at folders with
many files, and what is below is looked up from there (see agent_look.py).

The file: a line ``wain-seal 3 <bytes of names>``; the names; then what was seen, as bytes that
are only ever compared. Names are parted by NUL, those of one entered folder from the next one's
by two: the folder, how many folders are looked at from there, these, the files.
"""

from __future__ import annotations

import marshal
import os
from _operator import attrgetter, itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAGIC = b"wain-seal"
FORMAT = b"3"

_of_folder = attrgetter("st_mode", "st_mtime_ns")
_of_file = itemgetter(0, 1, 6, 8)  # mode, inode, size, time


def packed(seen: list[list[Any]]) -> bytes:
    """What was seen in one entered folder, as the file has it."""
    return marshal.dumps(seen, 2)  # of this version equal values have equal bytes


def _look(target: str, text: bytes) -> Iterator[list[list[Any]]]:
    """What a stat of each folder and of each file says, by entered folder. Raises OSError."""
    home = os.fsencode(target) + b"/"
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in text.split(b"\0\0"):
            yield seen_in(home, part)
    finally:
        os.fchdir(before)
        os.close(before)


def seen_in(home: bytes, part: bytes) -> list[list[Any]]:
    """Of one entered folder. Leaves this process in it."""
    entered, count, *names = part.split(b"\0")
    # Behind a symlink in its place is another folder, but it was seen from above.
    os.chdir(home + entered)
    at = int(count)
    return [
        list(map(_of_folder, map(os.lstat, names[:at]))),
        list(map(_of_file, map(os.lstat, names[at:]))),
    ]


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
        with open(f"{root}/seals/{image}", "rb") as file:
            magic, format_, size = file.readline(100).split()
            if (magic, format_) != (MAGIC, FORMAT):
                return False
            text, seen = file.read(int(size)), file.read()
        return b"".join(map(packed, _look(f"{root}/releases/{image}", text))) == seen
    except (OSError, ValueError):
        return False
