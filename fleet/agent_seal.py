"""A release's seal: what a stat of every file said when it was found whole. Travels to hosts.

A rollback must not wait for a manifest of thousands of lines to be read and compared. The seal
has inode, mode, size and time of every file as they were, and mode and time of the folders (a
folder's time changes with every name in it). An equal seal means that no file was removed,
replaced, written or given another mode. Folders with less than `FEW` files are not looked at for
themselves: translations come in one for every two files, and what happens to their files shows.
Anything but an equal seal only means that the long comparison has to be made.

The way to a file costs the kernel as much as the answer, so the release is entered at the folders
with `MANY` files, and what is below is looked up from there.

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
    from collections.abc import Iterator, Sequence
    from typing import Any

    from images.manifest import Entry, Manifest

MAGIC = b"wain-seal"
FORMAT = b"3"
FEW = 3  # files in a folder and below it that make it worth a look of its own
MANY = 16  # files in a folder and below it that make it worth entering


class Part:
    """A folder that is entered; what is looked up from there; which of all files these are."""

    __slots__ = ("entered", "files", "folders", "numbers")

    def __init__(self, entered: str) -> None:
        self.entered = entered
        self.folders: list[str] = []
        self.files: list[str] = []
        self.numbers: list[int] = []


def measure(target: str, manifest: Manifest) -> tuple[bytes, Sequence[Entry]]:
    """The seal of a release as it is now, and the entries that deserve a closer look.

    Those are all but the plain files that are as a check-out makes them when it shares
    objects. No seal, and all entries, when something is not there or is no folder of ours.
    """
    from images.layout import FIXED_MTIME
    from images.scan import FOLDER, SHARED

    entries = manifest.entries
    found, few = parts([entry[5] for entry in entries])
    text = b"\0\0".join(
        "\0".join((part.entered, str(len(part.folders)), *part.folders, *part.files)).encode()
        for part in found
    )
    try:
        seen = list(_look(target, text))
        modes = [os.lstat(f"{target}/{name}").st_mode for name in few]
    except OSError:
        return b"", entries
    seal = b"%s %s %d\n%s%s" % (MAGIC, FORMAT, len(text), text, b"".join(map(_packed, seen)))
    modes += [mode for those, _ in seen for mode, _ in those]
    if any(mode != FOLDER for mode in modes):
        return seal, entries
    doubtful = []
    for part, (_, those) in zip(found, seen):
        for number, (mode, _, size, at) in zip(part.numbers, those):
            entry = entries[number]
            if entry[0] != "file" or (mode, size, at) != (SHARED[entry[1]], entry[3], FIXED_MTIME):
                doubtful.append(number)
    return seal, [entries[number] for number in sorted(doubtful)]


def parts(files: Sequence[str]) -> tuple[list[Part], list[str]]:
    """What is looked at from each folder that is entered; the folders that are not. Pure."""
    below: dict[str, int] = {".": 0}
    for name in files:
        at = _above(name)
        below[at] = below.get(at, 0) + 1
    for at in list(below):
        while at != ".":
            at = _above(at)
            below.setdefault(at, 0)
    order = sorted(below, key=lambda name: (name != ".", name.count("/")))
    own = dict(below)  # without those that a folder further down takes
    for folder in order[:0:-1]:
        above = _above(folder)
        below[above] += below[folder]
        if own[folder] < MANY:
            own[above] += own.pop(folder)
    found = {folder: Part(folder) for folder in sorted(own)}
    found["."].folders.append(".")
    places: dict[str, tuple[Part, int]] = {".": (found["."], 0)}
    few = []
    for folder in order[1:]:
        part, at_name = places[_above(folder)]
        if below[folder] < FEW:
            few.append(folder)
        else:
            part.folders.append(folder[at_name:])
        inside = folder in found
        places[folder] = (found[folder], len(folder) + 1) if inside else (part, at_name)
    for number, file in enumerate(files):
        part, at_name = places[_above(file)]
        part.files.append(file[at_name:])
        part.numbers.append(number)
    return list(found.values()), few


def _above(name: str) -> str:
    return name.rpartition("/")[0] or "."


def _packed(seen: list[list[Any]]) -> bytes:
    return marshal.dumps(seen, 2)  # of this version equal values have equal bytes


def _look(target: str, text: bytes) -> Iterator[list[list[Any]]]:
    """What a stat of each folder and of each file says, by entered folder. Raises OSError."""
    of_folder = attrgetter("st_mode", "st_mtime_ns")
    of_file = itemgetter(0, 1, 6, 8)  # mode, inode, size, time
    home = os.fsencode(target) + b"/"
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in text.split(b"\0\0"):
            entered, count, *names = part.split(b"\0")
            # Behind a symlink in its place is another folder, but it was seen from above.
            os.chdir(home + entered)
            at = int(count)
            yield [
                list(map(of_folder, map(os.lstat, names[:at]))),
                list(map(of_file, map(os.lstat, names[at:]))),
            ]
    finally:
        os.fchdir(before)
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
        with open(f"{root}/seals/{image}", "rb") as file:
            magic, format_, size = file.readline(100).split()
            if (magic, format_) != (MAGIC, FORMAT):
                return False
            text, seen = file.read(int(size)), file.read()
        return b"".join(map(_packed, _look(f"{root}/releases/{image}", text))) == seen
    except (OSError, ValueError):
        return False
