"""Folders for work in progress, and who holds what. Travels to hosts.

A staging folder's holder keeps a lock on the folder itself. The kernel frees it when the
process dies, however it dies, so what is not locked is rubbish, and whoever comes next
removes it. No process numbers are written anywhere: they are used again.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from images.durable import discard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def staging(parent: str) -> Iterator[tuple[str, int]]:
    """A fresh folder below ``parent`` that lives as long as the block.

    Yields its path and an open descriptor of it. Holds files, and folders of files. Raises
    OSError.
    """
    import fcntl

    clean_staging(parent)
    while True:
        folder = f"{parent}/{os.urandom(8).hex()}"
        os.mkdir(folder, 0o700)
        # Somebody who cleans up may be faster than the lock, or than this.
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.isdir(folder):
            break
        os.close(descriptor)
    try:
        yield folder, descriptor
    finally:
        _remove(folder)
        os.close(descriptor)


def clean_staging(parent: str) -> None:
    """Remove the staging folders below ``parent`` whose process is gone."""
    import fcntl

    try:
        found = names(parent)
    except OSError:
        return
    for name in found:
        folder = f"{parent}/{name}"
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(folder, flags)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
        except OSError:
            continue
        finally:
            os.close(descriptor)


def _remove(folder: str) -> None:
    try:
        for name in names(folder):
            path = f"{folder}/{name}"
            discard(path)
            if os.path.isdir(path) and not os.path.islink(path):
                _remove(path)
        os.rmdir(folder)
    except OSError:
        return


def names(folder: str) -> list[str]:
    """What is in a folder; nothing when there is none. Raises OSError.

    Never nothing for a folder that cannot be read: a collection would remove what it names.
    """
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def holders(path: str) -> str:
    """Who holds a lock on a file, for a person: process, command, since when (UTC).

    From the kernel's own table; empty when it does not say.
    """
    try:
        status = os.stat(path)
        with open("/proc/locks", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except (OSError, ValueError):
        return ""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = {row[4] for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == device}
    return "; ".join(filter(None, map(_process, sorted(found - {str(os.getpid())}))))


def _process(number: str) -> str:
    import time

    try:
        since = os.stat(f"/proc/{number}").st_mtime
        with open(f"/proc/{number}/cmdline", "rb") as file:
            words = file.read(400).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""
    clock = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(since))
    return f"process {number} since {clock}: {ascii(words)[1:-1]}"
