"""Where files of the wheelhouse wait, and how an interrupted change is finished.

A change happens in a folder of its own under ``.staging``, which its process holds a lock on
(``flock``, so it ends with the process). Before anything becomes visible, ``intent.json``
there says what is about to happen. Whoever finds a staging folder nobody holds finishes what
the intent says, or throws the folder away when nothing had become visible yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

INTENT = "intent.json"


class Stage:
    """One private folder under ``.staging``, held by this process until :meth:`close`."""

    def __init__(self, folder: Path, handle: int) -> None:
        self.folder = folder
        self._handle = handle
        self._unfinished = False

    def publish(self, path: Path, data: bytes, *, durable: bool = False) -> None:
        """Replace ``path`` by ``data`` in one step; readers see the old file or the new."""
        temporary = self.folder / f"new-{secrets.token_hex(8)}"
        write_file(temporary, data, durable=durable)
        temporary.replace(path)

    def write_intent(self, data: bytes) -> None:
        """Say what is about to become visible; durable when this returns."""
        self.publish(self.folder / INTENT, data, durable=True)
        self._unfinished = True

    def finished(self) -> None:
        """Say that all the intent speaks of is done."""
        self._unfinished = False

    def keep(self) -> None:
        """Leave the folder to whoever comes next: what it says could not be finished now."""
        self._unfinished = True

    def close(self) -> None:
        """Let go of the folder, and remove it unless its intent is still to be finished."""
        if not self._unfinished:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._handle)


def write_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a new file with mode 0644 whatever the umask."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        os.fchmod(stream.fileno(), 0o644)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())


def open_stage(root: Path) -> Stage:
    """A new folder under ``root``. Call it with the wheelhouse's lock held.

    Without that lock another process could take the new folder for an abandoned one between
    its creation and its lock.
    """
    folder = root / f"{os.getpid()}-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return Stage(folder, handle)


def abandoned(root: Path) -> Iterator[Stage]:
    """The staging folders no process holds, each now held by this one.

    Call it with the wheelhouse's lock held, and close every one.
    """
    with contextlib.suppress(FileNotFoundError):
        for folder in sorted(root.iterdir()):
            if not folder.name[:1].isdigit():
                continue
            try:
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            yield Stage(folder, handle)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at ``path``; it is never removed, its holder's death frees it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
