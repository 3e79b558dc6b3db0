"""The host's lock: one session at a time changes anything below a root. Travels to hosts.

It is a flock on ``<root>/lock``: the kernel frees it when the holder dies, whatever the way,
and no child inherits it (the descriptor closes on exec; the timer's fork closes it first). The
file's text says who holds it, for the one who is refused; it decides nothing and is never
removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from fleet import agent_json
from fleet.agent_errors import AgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def acquire(root: str, request: dict[str, Any], patience: float = 3.0) -> int:
    """The lock as a descriptor; closing it frees the lock.

    Waits ``patience`` seconds: a session that just ended may not be gone yet. Raises AgentError
    `locked` naming the holder.
    """
    descriptor = os.open(f"{root}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < end:
                time.sleep(0.02)
                continue
            holder = _holder(descriptor)
            os.close(descriptor)
            raise AgentError("locked", _sentence(holder), holder=holder) from None
        break
    _sign(descriptor, request)
    return descriptor


def try_lock(path: str) -> int:
    """An exclusive lock on a file, or -1 when somebody holds it.

    On a disk that turned read-only too: who looks there must still be answered.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def _sign(descriptor: int, request: dict[str, Any]) -> None:
    by = request.get("by")
    by = by if isinstance(by, dict) else {}
    note = {
        "pid": os.getpid(),
        "who": str(by.get("who", "")),
        "why": str(by.get("reason", "") or request.get("verb", "")),
        "rollout": str(by.get("rollout", "")),
        "since": int(time.time()),
    }
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, agent_json.dumps(note), 0)
    except OSError:
        # A full disk must not keep anybody from a rollback.
        return


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        note = agent_json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _sentence(holder: dict[str, Any]) -> str:
    if not holder:
        return "another session is at work here"
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(holder.get("since", 0))))
    who = holder.get("who") or "somebody"
    return f"in progress: {who}, pid {holder.get('pid')}, since {since}, {holder.get('why')}"
