"""Who is at work in a wheelhouse: any number that need its files, or one that removes some.

Whoever reads files of the wheelhouse for longer than a moment (a build, an image, a lock that
is being made) holds ``.meta/users`` shared; removing holds it alone, and does not wait. The
lock is the kernel's, so a process that dies lets go of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from wheelhouse.errors import InUseError
from wheelhouse.text import bare


@contextlib.contextmanager
def shared(path: Path) -> Iterator[None]:
    """Keep :func:`alone` away for the length of the block.

    Nothing is held where the file cannot be made: in a folder nobody here may write to,
    nobody here removes anything.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def alone(path: Path, where: str) -> Iterator[None]:
    """Keep everybody else out. Raises :class:`InUseError` at once while somebody is at work."""
    if not path.parent.is_dir():
        # There is nothing that anybody could use.
        yield
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _holders(path) or "another process"
            raise InUseError(where, f"is in use by {who}", "try again when that is done") from None
        yield
    finally:
        os.close(handle)


def _holders(path: Path) -> str:
    """The processes that hold a lock on a file, from the kernel's table; "" without one."""
    try:
        status = path.stat()
        rows = [line.split() for line in Path("/proc/locks").read_text("ascii").splitlines()]
    except (OSError, ValueError):
        return ""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = {row[4] for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == device}
    return "; ".join(_process(number) for number in sorted(found - {str(os.getpid())}))


def _process(number: str) -> str:
    place = Path("/proc") / number
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(place.stat().st_mtime))
        words = (
            (place / "cmdline").read_bytes()[:400].replace(b"\0", b" ").decode("utf-8", "replace")
        )
    except OSError:
        return f"process {number}"
    return f"process {number} since {since}: {bare(words.strip())}"
