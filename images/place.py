"""Putting bytes at a new path, in the best way the file system allows. Travels to hosts."""

from __future__ import annotations

import errno
import os

from images import durable
from images.layout import FIXED_NS

WAYS = ("reflink", "hardlink", "copy")
FOLDER_MODE = 0o755
OWN_FILE_MODE = 0o644
OWN_EXECUTABLE_MODE = 0o755

_FICLONE = 0x40049409  # linux/fs.h
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# The file systems, or the rules for other people's files, allow it for no file here.
_NEVER = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS}
)


class Placer:
    """Places objects by reflink, else by hard link, else by copying. Threads may share one.

    ``folder``: an open descriptor that object paths are relative to. ``ways``: which of WAYS
    may be tried; copying always may. ``fallback`` says why a file was copied although hard
    links were allowed, else it is empty.
    """

    def __init__(self, folder: int, ways: tuple[str, ...]) -> None:
        self.folder = folder
        self.fallback = ""
        self._ways = [way for way in ("reflink", "hardlink") if way in ways]

    @property
    def only_links(self) -> bool:
        """Whether a hard link is all that is tried, as far as is known by now."""
        return self._ways == ["hardlink"]

    def place(self, source: str, target: str, executable: bool) -> str:
        """Make ``target``; returns the way it went. Raises OSError."""
        for way in tuple(self._ways):
            try:
                if way == "hardlink":
                    os.link(source, target, src_dir_fd=self.folder, follow_symlinks=False)
                else:
                    self._reflink(source, target, executable)
            except OSError as error:
                if error.errno in _NEVER:
                    if way in self._ways:
                        self._ways = [other for other in self._ways if other != way]
                elif error.errno != errno.EMLINK:  # this one object has too many links
                    raise
                if way == "hardlink":
                    self.fallback = error.strerror or str(error)
            else:
                return way
        write_own(target, self._read(source), executable)
        return "copy"

    def _open(self, source: str) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(source, flags, dir_fd=self.folder)

    def _read(self, source: str) -> bytes:
        with open(self._open(source), "rb") as file:
            return file.read()

    def _reflink(self, source: str, target: str, executable: bool) -> None:
        import fcntl

        descriptor = self._open(source)
        try:
            made = os.open(target, _CREATE, 0o600)
            try:
                fcntl.ioctl(made, _FICLONE, descriptor)
                _finish(made, executable)
            except BaseException:
                durable.discard(target)
                raise
            finally:
                os.close(made)
        finally:
            os.close(descriptor)


def write_own(target: str, data: bytes, executable: bool) -> None:
    """Write a new file of its own inode, its mode whatever the umask. Raises OSError."""
    descriptor = os.open(target, _CREATE, 0o600)
    try:
        if data:
            durable.write_all(descriptor, data)
        _finish(descriptor, executable)
    finally:
        os.close(descriptor)


def _finish(descriptor: int, executable: bool) -> None:
    os.fchmod(descriptor, OWN_EXECUTABLE_MODE if executable else OWN_FILE_MODE)
    os.utime(descriptor, ns=(FIXED_NS, FIXED_NS))
