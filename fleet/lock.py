"""One process at a time changes a fleet from one project: ``.wain/fleet.lock``.

It is a flock: the kernel frees it when the holder dies, so it never goes stale. What is written
in the file only tells who, since when and why; the file itself is never removed.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fleet.errors import printable
from fleet.journal import now
from images.errors import LockedError, WainError


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock. ``since`` is for people."""

    who: str
    machine: str
    pid: int
    since: str
    why: str

    def __str__(self) -> str:
        who, why = printable(self.who, 80), printable(self.why, 120)
        machine = printable(self.machine, 80)
        return f"{who} on {machine}, pid {self.pid}, since {self.since}: {why}"


def whoami() -> str:
    """Who is at work, for locks, journals and hosts."""
    for name in ("SUDO_USER", "LOGNAME", "USER"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.geteuid()}"


def machine() -> str:
    """This machine's name."""
    return socket.gethostname()


@contextmanager
def fleet_lock(folder: Path, why: str) -> Iterator[None]:
    """Hold the lock of the project in `folder`. Raises LockedError (exit 6) naming the holder."""
    path = folder / ".wain" / "fleet.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise WainError(str(path), error.strerror or str(error)) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _read(descriptor)
            raise LockedError(
                "fleet", f"locked by {holder}" if holder else "locked by another process",
                "wain fleet status shows it, wain fleet abort stops it",
            ) from None  # fmt: skip
        note = Holder(whoami(), machine(), os.getpid(), now(), why)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(note)).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder_of(folder: Path) -> Holder | None:
    """Who holds the lock now; None when nobody does."""
    path = folder / ".wain" / "fleet.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WainError(str(path), error.strerror or str(error)) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return _read(descriptor) or Holder("somebody", "this machine", 0, "?", "?")
        return None
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Holder | None:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(
            str(note["who"]), str(note["machine"]), int(note["pid"]), str(note["since"]),
            str(note["why"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None
