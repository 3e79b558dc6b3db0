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
    from collections.abc import Callable, Iterable

LIST = ".wain-files"
_PIECES = 16


def listing(folders: Iterable[str], files: Iterable[str], size: int, base: str) -> bytes:
    """The list for a checkout: its folders (``.`` is itself) and files, all bytes together.

    ``base`` is the folder most of them are in: names are kept relative to it, so that the
    kernel has less to look up.
    """
    from os.path import relpath

    def short(name: str) -> str:
        return name[len(base) + 1 :] if name.startswith(f"{base}/") else relpath(name, base)

    texts = ["\n".join(map(short, names)) for names in (folders, files)]
    return f"wain-files 1 {size} {base}\n\n{texts[0]}\n\n{texts[1]}".encode()


class Survey:
    """Looks at a checkout by its list, in copies of this process where that is possible."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._process = os.getpid()
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
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            root = os.open(self._root, flags)
            try:
                with open(os.open(LIST, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root), "rb") as stream:
                    head, folders, files = stream.read().split(b"\n\n")
                look = self._way_to_look(root, head.split(b" ", 3)[3])
                for piece in pieces:
                    for status in map(look, _part(folders, piece)):
                        if status.st_mtime_ns != FIXED_NS:
                            return None
                    for status in map(look, _part(files, piece)):
                        if status.st_mtime_ns != FIXED_NS:
                            return None
                        size += status.st_size
                return _identity(os.fstat(root)), size
            finally:
                os.close(root)
        except (OSError, ValueError):
            return None

    def _way_to_look(self, root: int, base: bytes) -> Callable[[bytes], os.stat_result]:
        if os.getpid() != self._process:
            # A copy of the process may go there, and short names are found sooner.
            os.fchdir(root)
            os.chdir(base)
            return os.lstat
        return lambda name: os.stat(base + b"/" + name, dir_fd=root, follow_symlinks=False)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _part(lines: bytes, piece: int) -> list[bytes]:
    """The names whose lines begin in the piece's share of the bytes."""
    ends = []
    for number in (piece, piece + 1):
        at = len(lines) * number // _PIECES
        if 0 < at < len(lines):
            newline = lines.find(b"\n", at - 1)
            at = len(lines) if newline < 0 else newline + 1
        ends.append(at)
    text = lines[ends[0] : ends[1]].rstrip(b"\n")
    return text.split(b"\n") if text else []
