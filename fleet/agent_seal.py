"""A release's seal: what a stat of every file added up to when it was found whole. Travels.

A rollback must not wait for a manifest of thousands of lines to be read and compared. For each
folder the seal has its time (changes with every name in it), how many files it has, the sums of
their sizes and modes, and how many have another time than check-out gave them (a file written in
place has). An equal seal means that no file was added, removed, replaced, written or given
another mode. Anything else only means that the long comparison has to be made.
"""

from __future__ import annotations

import os
import stat

from fleet import agent_json
from images.layout import FIXED_NS

TYPE_CHECKING = False
if TYPE_CHECKING:
    Seal = dict[str, list[int]]


def measure(target: str) -> Seal:
    """The seal of a folder as it is now. Raises OSError."""
    found: Seal = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        path = f"{target}/{folder}" if folder else target
        count = size = mode = odd = 0
        with os.scandir(path) as items:
            for item in items:
                if item.is_dir(follow_symlinks=False):
                    folders.append(f"{folder}/{item.name}" if folder else item.name)
                    continue
                status = item.stat(follow_symlinks=False)
                count += 1
                mode += status.st_mode
                if not stat.S_ISLNK(status.st_mode):
                    size += status.st_size
                    odd += status.st_mtime_ns != FIXED_NS
        found[folder] = [os.lstat(path).st_mtime_ns, count, size, mode, odd]
    return found


def write(root: str, image: str, seal: Seal) -> None:
    """Keep a seal. Not synced, and its loss is none: the long comparison makes it anew."""
    folder = f"{root}/seals"
    new = f"{folder}/{image}.{os.getpid()}"
    try:
        os.makedirs(folder, 0o755, exist_ok=True)
        with open(new, "wb") as file:
            file.write(agent_json.dumps(seal))
        os.rename(new, f"{folder}/{image}")
    except OSError:
        return


def is_intact(root: str, image: str) -> bool:
    """Whether the release still equals its seal."""
    try:
        with open(f"{root}/seals/{image}", "rb") as file:
            kept = agent_json.loads(file.read())
        return bool(kept == measure(f"{root}/releases/{image}"))
    except (OSError, ValueError):
        return False
