"""One look at every file of a release, which gives its seal. Travels to hosts."""

from __future__ import annotations

import contextlib
import os

from fleet.agent_seal import FORMAT, MAGIC, packed, seen_in
from images.forks import Copies, can_fork
from images.layout import FIXED_MTIME
from images.parallel import cores
from images.scan import FOLDER, SHARED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from images.manifest import Entry, Manifest

FEW = 3  # files in a folder and below it that make it worth a look of its own
MANY = 16  # files in a folder and below it that make it worth entering
APART = 2000  # files: with fewer, another process costs more than it saves


class Part:
    """A folder that is entered; what is looked up from there; which of all files these are."""

    __slots__ = ("entered", "files", "folders", "numbers")

    def __init__(self, entered: str) -> None:
        self.entered = entered
        self.folders: list[str] = []
        self.files: list[str] = []
        self.numbers: list[int] = []


class Look:
    """One look at every file of a release, by processes of its own where that pays.

    What can be prepared is, when this is made. :meth:`begin`, then :meth:`take`; whoever does
    not come to that calls :meth:`stop`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._entries = manifest.entries
        self._parts, self._few = parts([entry[5] for entry in self._entries])
        self._texts = [
            "\0".join((part.entered, str(len(part.folders)), *part.folders, *part.files)).encode()
            for part in self._parts
        ]
        self._target = ""
        self._copies: Copies | None = None

    def begin(self, target: str) -> None:
        """Begin to look at what stands at ``target``, which must stay there until take()."""
        self._target = target
        if len(self._entries) >= APART and cores() > 1 and can_fork():
            with contextlib.suppress(OSError):  # no more processes for this user
                self._copies = Copies(self._at, len(self._parts) + 1, cores())

    def take(self) -> tuple[bytes, Sequence[Entry]]:
        """The seal of the release, and the entries that deserve a closer look.

        Those are all but the plain files that are as a check-out makes them when it shares
        objects. No seal, and all entries, when something is not there or is no folder of ours.
        """
        copies, self._copies = self._copies, None
        try:
            if copies is None:
                before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    found = self._at(range(len(self._parts) + 1))
                finally:
                    os.fchdir(before)
                    os.close(before)
            else:
                try:
                    found = [one for some in copies.results() for one in some]
                finally:
                    copies.stop()
        except OSError:
            return b"", self._entries
        found.sort()
        text = b"\0\0".join(self._texts)
        seen = b"".join([one[1] for one in found])
        seal = b"%s %s %d\n%s%s" % (MAGIC, FORMAT, len(text), text, seen)
        if not all(one[2] for one in found):
            return seal, self._entries
        numbers = sorted([number for one in found for number in one[3]])
        return seal, [self._entries[number] for number in numbers]

    def stop(self) -> None:
        """Look no further."""
        if self._copies:
            self._copies.stop()
            self._copies = None

    def _at(self, numbers: Iterable[int]) -> list[Any]:
        """Of each part: its number, what was seen, if all folders are ours, what is doubtful.

        Changes the working directory.
        """
        home = os.fsencode(self._target) + b"/"
        found: list[Any] = []
        for number in numbers:
            if number == len(self._parts):
                modes = [os.lstat(f"{self._target}/{name}").st_mode for name in self._few]
                found.append((number, b"", not set(modes) - {FOLDER}, []))
            else:
                of_folders, of_files = seen_in(home, self._texts[number])
                ours = all(mode == FOLDER for mode, _ in of_folders)
                doubtful = self._doubtful(self._parts[number].numbers, of_files)
                found.append((number, packed([of_folders, of_files]), ours, doubtful))
        return found

    def _doubtful(self, numbers: list[int], of_files: list[Any]) -> list[int]:
        found = []
        for number, (mode, _, size, at) in zip(numbers, of_files):
            entry = self._entries[number]
            if entry[0] != "file" or (mode, size, at) != (SHARED[entry[1]], entry[3], FIXED_MTIME):
                found.append(number)
        return found


def measure(target: str, manifest: Manifest) -> tuple[bytes, Sequence[Entry]]:
    """The seal of a release as it is now, and what deserves a closer look: see Look.take()."""
    look = Look(manifest)
    look.begin(target)
    return look.take()


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
