"""Making what was written last: a barrier for many files, one for a folder. Travels to hosts.

After a failed sync Linux may forget that pages were dirty, so a second try would succeed with
the data lost: whoever gets an OSError from here throws the files away and writes them anew.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Data = Union[bytes, memoryview]

# Up to here, a sync of each file is cheaper than loading ctypes, and never waits for what
# other programs have written to the same file system.
FEW = 8


def sync_folder(path: str) -> None:
    """Make the names in a folder last. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: str) -> None:
    """Make one file's bytes last. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(descriptor: int) -> bool:
    """Make everything on the file system of an open file or folder last, in one barrier.

    Open the descriptor before the first write: the kernel reports write-back errors that
    happened since it was opened. Returns False where there is no such call (then sync each
    file); raises OSError when the barrier failed.
    """
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (ImportError, OSError, AttributeError):
        return False
    if call(descriptor) == 0:
        return True
    import errno

    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        return False
    raise OSError(number, os.strerror(number))


def write_file(path: str, data: bytes, temporary: str, mode: int = 0o644) -> None:
    """Replace a file in one step, so that it lasts: temporary, sync, rename, sync the folder.

    ``temporary`` is a path on the same file system. Raises OSError, the temporary removed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        try:
            write_all(descriptor, data)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        discard(temporary)
        raise
    sync_folder(os.path.dirname(path) or ".")


def write_all(descriptor: int, data: Data) -> None:
    """Write all of it, in as many calls as the kernel wants. Raises OSError."""
    written = os.write(descriptor, data)
    if written < len(data):
        view = memoryview(data)
        while written < len(data):
            written += os.write(descriptor, view[written:])


def discard(path: str) -> None:
    """Remove a file if it is there and that is possible; for the way out of a failure."""
    try:
        os.unlink(path)
    except OSError:
        return
