"""Where new objects are staged, so that one rename names many. Travels to hosts.

Objects stand in folders named by the first two digits of their sha256. Objects of a prefix that
the store lacks are staged under their own names in a folder of that prefix, which then becomes
the store's. Renaming ten thousand files one by one takes as long as writing them.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

from images.staging import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection


class Shards:
    """The folders of new prefixes within the staging folder ``folder``. Threads may share it."""

    def __init__(self, objects: str, folder: str) -> None:
        self._objects = objects
        self._folder = folder
        self._there: set[str] | None = None  # prefixes the store has, or will have any moment
        self._made: set[str] = set()
        self._writers = 0
        self._settling = False
        self._mutex = allocate_lock()
        self._idle = allocate_lock()  # held while there are writers

    def enter(self, prefix: str) -> bool:
        """Whether to stage below ``<folder>/<prefix>/``; if so, leave() follows. Raises OSError."""
        with self._mutex:
            if self._there is None:
                self._there = set(names(self._objects))
            if self._settling or prefix in self._there:
                return False
            if prefix not in self._made:
                folder = f"{self._folder}/{prefix}"
                # A process that has a part in this batch may have made it.
                if not os.path.isdir(folder):
                    os.makedirs(folder, 0o755, exist_ok=True)
                self._made.add(prefix)
            self._writers += 1
            if self._writers == 1:
                self._idle.acquire()
            return True

    def leave(self) -> None:
        """The object is staged, or is not going to be."""
        with self._mutex:
            self._writers -= 1
            if not self._writers:
                self._idle.release()

    def settle(self) -> None:
        """Wait until nobody writes into the folders; nobody will any more.

        What is staged from then on for their prefixes has a name of its own.
        """
        with self._mutex:
            self._settling = True
        with self._idle, self._mutex:
            if self._there is not None:
                self._there |= self._made
            self._made.clear()
            self._settling = False

    def is_whole(self, prefix: str, expected: Collection[str]) -> bool:
        """Whether a settled folder holds what is expected, and nothing else.

        Such as a file that could neither be written nor removed; or what somebody is about to
        write: the folder may have been made since settle().
        """
        with self._mutex:
            if prefix in self._made:
                return False
        try:
            return set(os.listdir(f"{self._folder}/{prefix}")) == set(expected)
        except OSError:
            return False

    def publish(self, prefix: str) -> bool:
        """Make a whole folder the store's; False where another process was faster.

        Then its files have to go one by one.
        """
        try:
            os.rename(f"{self._folder}/{prefix}", f"{self._objects}/{prefix}")
        except OSError:
            return False
        return True
