"""Whether a shared checkout is as it was made, by stat alone, while something else goes on.

Every file and folder of it was given one fixed time: what was written to, even through
another hard link, has another, and so has a folder in which a name came or went. What there
should be stands in a list beside them. Imported early in `wain env`, so it imports little.
"""

from __future__ import annotations

import os

from images.errors import WainError
from images.forks import Copies, can_fork
from images.layout import FIXED_NS
from images.parallel import cores

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LIST = ".wain-files"
_PIECES = 16


def listing(folders: Iterable[str], files: Iterable[str], size: int) -> bytes:
    """The list for a checkout: its folders (``.`` is itself) and files, all bytes together."""
    names = "\n".join(folders), "\n".join(files)
    return f"wain-files 1 {size}\n\n{names[0]}\n\n{names[1]}".encode()


class Survey:
    """Looks at a checkout by its list, in copies of this process where that is possible."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._copies: Copies | None = None
        if can_fork():
            self._copies = Copies(self._look_at, _PIECES, cores())

    def is_whole(self, digest: str) -> bool:
        """Whether nothing is changed, and the list has this sha256; asked once.

        What was looked at is the folder that is there now.
        """
        from hashlib import sha256

        try:
            with open(f"{self._root}/{LIST}", "rb") as stream:
                data = stream.read()
            if sha256(data).hexdigest() != digest:
                return False
            if self._copies is None:
                answers = [self._look_at(range(_PIECES))]
            else:
                answers = self._copies.results()
            status = os.stat(self._root, follow_symlinks=False)
        except (OSError, WainError):
            return False
        finally:
            self.stop()
        seen = [answer for answer in answers if answer]
        if len(seen) < len(answers) or {here for here, _ in seen} != {_identity(status)}:
            return False
        return sum(size for _, size in seen) == int(data.split(b"\n", 1)[0].split(b" ")[2])

    def stop(self) -> None:
        """Nobody asks any more."""
        if self._copies is not None:
            self._copies.stop()

    def _look_at(self, pieces: Iterable[int]) -> tuple[tuple[int, int], int] | None:
        """Which folder it was, and the size of the files in these pieces; None: changed."""
        size = 0
        stat = os.stat
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            root = os.open(self._root, flags)
            try:
                with open(os.open(LIST, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root), "rb") as stream:
                    _, folders, files = stream.read().decode().split("\n\n")
                all_folders, all_files = folders.split("\n"), files.split("\n")
                for piece in pieces:
                    for name in _part(all_folders, piece):
                        if stat(name, dir_fd=root, follow_symlinks=False).st_mtime_ns != FIXED_NS:
                            return None
                    for name in _part(all_files, piece):
                        status = stat(name, dir_fd=root, follow_symlinks=False)
                        if status.st_mtime_ns != FIXED_NS:
                            return None
                        size += status.st_size
                return _identity(os.fstat(root)), size
            finally:
                os.close(root)
        except (OSError, ValueError):
            return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _part(names: list[str], piece: int) -> list[str]:
    count = len(names)
    return names[count * piece // _PIECES : count * (piece + 1) // _PIECES]
