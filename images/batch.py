"""Objects on their way into a store: staged, made to last, then named. Travels to hosts."""

from __future__ import annotations

import itertools
import os
import stat
from hashlib import sha256 as _sha256

from images import durable
from images.hashing import BLOCK
from images.layout import (
    EXECUTABLE_MODE,
    FILE_MODE,
    FIXED_NS,
    ObjectError,
    failed,
    object_name,
)
from images.shards import Shards

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from threading import Thread
    from typing import Protocol

    from images.durable import Data
    from images.manifest import Key
    from images.store import Store

    class Readable(Protocol):
        """What object bytes are read from."""

        def read(self, size: int, /) -> Data:
            """Up to ``size`` bytes; none at the end."""


MANY = 1000  # objects: from here on looking them up takes time
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Batch:
    """Objects that become visible together, with publish(). Threads may share one."""

    def __init__(self, store: Store, folder: str, descriptor: int) -> None:
        self._store = store
        self._folder = folder
        # Opened before the first write, so that the barrier reports every failed write.
        self._descriptor = descriptor
        self._skip = len(folder) + 1
        self._staged: dict[Key, str] = {}
        self._names = itertools.count()  # the folder is this batch's own
        self._shards = Shards(store.objects, folder)
        self._unmasked: set[int] = set()
        self._folders: set[str] = set()  # whose names are not known to last yet

    def __len__(self) -> int:
        """How many objects were added and are not published yet."""
        return len(self._staged)

    def put(self, data: bytes, executable: bool = False) -> tuple[str, int]:
        """Add an object; returns its sha256 and size. Raises StoreError."""
        sha256 = _sha256(data).hexdigest()
        key = (sha256, executable)
        if key not in self._staged and not self._store.is_present(key, len(data)):
            self._add(key, data)
        return sha256, len(data)

    def put_known(self, key: Key, data: Data) -> None:
        """Add an object that is known to be missing. Raises ObjectError for other bytes."""
        found = _sha256(data).hexdigest()
        if found != key[0]:
            raise ObjectError(
                key, self._store.object_path(*key), f"bytes of {found} came", "send it again"
            )
        if key not in self._staged:
            self._add(key, data)

    def _add(self, key: Key, data: Data) -> None:
        def fill(descriptor: int) -> None:
            durable.write_all(descriptor, data)

        try:
            sharded = self._shards.enter(key[0][:2])
        except OSError as error:
            raise failed(self._store.objects, error) from None
        if not sharded:
            self._keep(key, self._write(self._name(key), key[1], fill))
            return
        try:
            self._staged[key] = self._write(f"{self._folder}/{object_name(*key)}", key[1], fill)
        except FileExistsError:
            # Another thread is writing the same: its own copy may yet fail.
            self._keep(key, self._write(self._name(key), key[1], fill))
        finally:
            self._shards.leave()

    def _name(self, key: Key) -> str:
        """A name of its own; long ones make for short searches when the folder is large."""
        return f"{self._own()}-{key[0][2:]}"

    def _own(self) -> str:
        """No other process that has a part in this batch has such a name."""
        return f"{self._folder}/{os.getpid()}-{next(self._names)}"

    def put_file(
        self,
        file: Readable,
        executable: bool = False,
        sha256: str | None = None,
        size: int | None = None,
    ) -> tuple[str, int]:
        """Add an object from a stream, hashed as it is written; returns sha256 and size.

        Reads ``size`` bytes, or to the end when it is None. Raises ObjectError when the bytes
        are not the ones announced, StoreError when they cannot be read or written, and what
        else the stream raises; then nothing of them is kept.
        """
        digest = _sha256()
        count = 0

        def copy(descriptor: int) -> None:
            nonlocal count
            while size is None or count < size:
                try:
                    block = file.read(BLOCK if size is None else min(size - count, BLOCK))
                except OSError as error:
                    raise failed("object stream", error) from None
                if not block:
                    return
                digest.update(block)
                count += len(block)
                durable.write_all(descriptor, block)

        name = self._write(self._own(), executable, copy)
        found = digest.hexdigest()
        short = size is not None and count < size
        if short or (sha256 is not None and found != sha256):
            durable.discard(name)
            wanted = (sha256 or found, executable)
            what = f"{count} of {size} bytes came" if short else f"bytes of {found} came"
            raise ObjectError(wanted, self._store.object_path(*wanted), what, "send it again")
        if self._store.is_present((found, executable), count):
            durable.discard(name)
        else:
            key = (found, executable)
            try:
                self._keep_in_shard(key, name)
            except OSError as error:
                durable.discard(name)
                raise failed(self._store.objects, error) from None
        return found, count

    def _keep_in_shard(self, key: Key, name: str) -> None:
        """Keep what was written as ``name`` where it is to stand. Raises OSError."""
        if not self._shards.enter(key[0][:2]):
            self._keep(key, name)
            return
        path = f"{self._folder}/{object_name(*key)}"
        try:
            os.link(name, path)  # never in the place of what another thread is writing
        except OSError:
            self._keep(key, name)  # or there are no links here
        else:
            os.unlink(name)
            self._keep(key, path)
        finally:
            self._shards.leave()

    def _write(self, name: str, executable: bool, fill: Callable[[int], None]) -> str:
        """Raises FileExistsError, and StoreError for all else; then there is no such file."""
        mode = EXECUTABLE_MODE if executable else FILE_MODE
        try:
            # A short name: long paths cost the kernel time.
            descriptor = os.open(name[self._skip :], _CREATE, mode, dir_fd=self._descriptor)
        except FileExistsError:
            raise
        except OSError as error:
            raise failed(self._store.objects, error) from None
        try:
            try:
                fill(descriptor)
                if mode not in self._unmasked:
                    self._set_mode(descriptor, mode)
                os.utime(descriptor, ns=(FIXED_NS, FIXED_NS))
            finally:
                os.close(descriptor)
        except OSError as error:
            durable.discard(name)
            raise failed(self._store.objects, error) from None
        return name

    def _set_mode(self, descriptor: int, mode: int) -> None:
        """Where the umask takes nothing from it, the files to come need no second call."""
        if stat.S_IMODE(os.fstat(descriptor).st_mode) == mode:
            self._unmasked.add(mode)
        else:
            os.fchmod(descriptor, mode)

    def _keep(self, key: Key, name: str) -> None:
        if self._staged.setdefault(key, name) is not name:
            durable.discard(name)

    def staged(self) -> list[tuple[Key, str]]:
        """What was added and not published, for :meth:`adopt` in another process."""
        return list(self._staged.items())

    def folder_of_all(self, count: int) -> str:
        """The folder in which ``count`` objects stand as in a store, if those are all; else empty.

        They stand so until publish().
        """
        names = [path[self._skip :] for path in self._staged.values()]
        return self._folder if len(names) == count and all("/" in name for name in names) else ""

    def adopt(self, staged: Iterable[tuple[Key, str]]) -> None:
        """Take what a copy of this process has added to its copy of this batch."""
        for key, name in staged:
            self._keep(key, name)

    def flush(self) -> None:
        """Begin to write to the disk what was added; what goes wrong, publish() will meet.

        Saves time where something else is computed meanwhile, in another thread.
        """
        try:
            # A descriptor of its own: each is told once of what could not be written.
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                durable.sync_filesystem(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            return

    def publish_so_far(self) -> None:
        """Barrier, renames; while other threads add more. The names last after publish().

        Saves time where something else is computed meanwhile. Raises StoreError.
        """
        self._shards.settle()
        # Only what was written in full is staged. Taken in one step: others add to it.
        staged = self._staged.copy()
        try:
            for key, name in self._not_renamed(staged, self._make_last(staged)).items():
                path = self._store.object_path(*key)
                folder = path.rpartition("/")[0]
                try:
                    os.rename(name, path)
                except FileNotFoundError:
                    self._folders.add(self._make(folder))
                    os.rename(name, path)
                self._folders.add(folder)
                # Who looks for the key from now on finds the object.
                del self._staged[key]
        except OSError as error:
            raise failed(self._store.objects, error) from None

    def _make_last(self, staged: dict[Key, str]) -> dict[str, list[Key]]:
        """The barrier; and `_by_prefix`, looked up while the disk is waited for if it pays."""
        found: dict[str, list[Key]] = {}

        def look() -> None:
            found.update(self._by_prefix(staged))

        thread = _begun(look) if len(staged) >= MANY else None
        try:
            self._barrier(list(staged.values()), durable.sync_file)
        finally:
            if thread:
                thread.join()
        if not thread:
            look()
        return found

    def _by_prefix(self, staged: dict[Key, str]) -> dict[str, list[Key]]:
        """The objects in those folders of new prefixes that hold nothing else."""
        found: dict[str, dict[str, Key]] = {}
        for key, path in staged.items():
            prefix, _, name = path[self._skip :].partition("/")
            if name:
                found.setdefault(prefix, {})[name] = key
        return {
            prefix: list(keys.values())
            for prefix, keys in found.items()
            if self._shards.is_whole(prefix, keys)
        }

    def _not_renamed(self, staged: dict[Key, str], whole: dict[str, list[Key]]) -> dict[Key, str]:
        """Name all there is of a new prefix at once; what is left has to be named one by one."""
        objects = self._store.objects
        for prefix, keys in whole.items():
            if self._shards.publish(prefix):
                self._folders |= {objects, f"{objects}/{prefix}"}
                for key in keys:
                    del staged[key], self._staged[key]
        return staged

    def publish(self) -> None:
        """Barrier, renames, barrier. Raises StoreError; what has no name yet is discarded."""
        if self._staged:
            self.publish_so_far()
        try:
            self._barrier(sorted(self._folders), durable.sync_folder)
        except OSError as error:
            raise failed(self._store.objects, error) from None
        self._folders.clear()

    def _make(self, folder: str) -> str:
        # Another process may be faster.
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o755, exist_ok=True)
        return self._store.objects

    def _barrier(self, paths: list[str], each: Callable[[str], None]) -> None:
        if len(paths) > durable.FEW and durable.sync_filesystem(self._descriptor):
            return
        for path in paths:
            each(path)


def _begun(work: Callable[[], None]) -> Thread | None:
    """A thread that does it; None where there are no more of them for this user."""
    import threading

    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread
