"""File systems of their own for tests: a small tmpfs, an XFS, and an ext4 that loses its power.

Needs root. Everything is unmounted and removed at the end, whatever happened in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
WITHOUT_LOG = 2  # nothing that is only in memory reaches the disk
# Nothing is committed by the clock, and a rename over a file does not flush it by itself.
OPTIONS = "loop,commit=600,noauto_da_alloc"


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _missing(reason: str) -> None:
    if os.environ.get("WAIN_TEST_REQUIRE_ALL") == "1" and os.geteuid() == 0:
        pytest.fail(f"left out in a run that may leave nothing out: {reason}")
    pytest.skip(reason)


def unmount(path: Path) -> None:
    """Unmount; somebody may still be on the way out."""
    end = time.monotonic() + 10
    while os.path.ismount(path):
        done = _run("umount", str(path))
        if done.returncode and time.monotonic() > end:
            _run("umount", "-l", str(path))
            raise AssertionError(done.stderr)
        if done.returncode:
            time.sleep(0.01)


@contextmanager
def tmpfs(folder: Path, options: str = "size=64m") -> Iterator[Path]:
    """A tmpfs of its own mounted below ``folder``."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    path = folder / "disk"
    path.mkdir()
    done = _run("mount", "-t", "tmpfs", "-o", f"{options},mode=755", "none", str(path))
    if done.returncode:
        _missing(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        _run("mount", "-o", "remount,rw", str(path))
        unmount(path)


@contextmanager
def xfs(folder: Path) -> Iterator[Path]:
    """An XFS, whose files can share their blocks, in a file and mounted below ``folder``."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    image, path = folder / "xfs", folder / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(300 << 20)
    program = shutil.which("mkfs.xfs", path="/sbin:/usr/sbin:/bin:/usr/bin")
    if program is None:
        _missing("mkfs.xfs is not installed (apt-get install xfsprogs)")
    done = _run(str(program), "-q", "-m", "reflink=1", str(image))
    done = done if done.returncode else _run("mount", "-o", "loop", str(image), str(path))
    if done.returncode:
        _missing(f"no XFS can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        unmount(path)
        image.unlink()


class Disk:
    """An ext4 file system in a file, mounted at ``path``, that can lose its power."""

    def __init__(self, folder: Path) -> None:
        self._image, self._kept = folder / "image", folder / "kept"
        self.path = folder / "mnt"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(32 << 20)
        done = _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", str(self._image))
        if done.returncode:
            _missing(f"no ext4 can be made here: {done.stderr.strip()}")

    def mount(self) -> None:
        done = _run("mount", "-o", OPTIONS, str(self._image), str(self.path))
        if done.returncode:
            _missing(f"no loop device can be mounted here: {done.stderr.strip()}")

    def unmount(self) -> None:
        """Unmount, and wait until it is gone everywhere.

        A process with mounts of its own (a sandboxed build in another test, say) has a copy of
        this one, and mounting again would give the very file system that was shut down.
        """
        unmount(self.path)
        end = time.monotonic() + 30
        while self._is_attached():
            assert time.monotonic() < end, "somebody keeps the disk"
            time.sleep(0.01)

    def _is_attached(self) -> bool:
        for file in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if file.read_text().strip() == str(self._image):
                    return True
        return False

    def keep(self) -> None:
        """Remember what is on it now. Unmounts it."""
        self.unmount()
        _run("cp", "--sparse=always", str(self._image), str(self._kept))

    def reset(self) -> None:
        """Put back what was remembered, and mount it."""
        self.unmount()
        _run("cp", "--sparse=always", str(self._kept), str(self._image))
        self.mount()

    def cut(self) -> None:
        """The power goes: what was not made to last is lost. Mounts it again."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
        finally:
            os.close(descriptor)
        self.unmount()
        self.mount()

    def fail(self) -> None:
        """Make it read-only under whoever writes, as after an error of the disk."""
        _run("mount", "-o", "remount,abort", str(self.path))


@contextmanager
def ext4() -> Iterator[Disk]:
    """A mounted ext4; its file lies in memory where there is room."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    memory = "/dev/shm"
    where = memory if os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="wain-disk-", dir=where))
    folder.chmod(0o755)
    disk = None
    try:
        disk = Disk(folder)
        disk.mount()
        yield disk
    finally:
        if disk:
            disk.unmount()
        shutil.rmtree(folder, ignore_errors=True)
