"""Packs that are kept beside the store, ``<store>/packs/<image id>.<method>[-<objects>]``.

What a plan or a roll-out has spooled, the next one with the same missing set reads again. A pack
is found by its name, and nothing here is made to last or believed: a host hashes every object it
is sent, and a pack it refuses is dropped and made anew. All of it may be removed at any time. A
collection removes those of images that are gone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fleet.agent_unpack import PACK
from fleet.packing import END
from images import durable
from images.catalog import PACKS
from images.store import Store

# So many are kept, those used last.
MOST = 32
# A pack of fewer bytes is made as fast as it is looked for.
WORTH = 1 << 20
# And none that leaves less than so many times its own size free: it only saves time.
ROOM = 4


def there(store: Store, name: str) -> bool:
    """Whether a pack of this name is kept, as far as its name tells."""
    return os.path.lexists(_path(store, name))


def find(store: Store, name: str, place: Path, limit: int) -> bool:
    """Give the kept pack of this name a second name, ``place``; whether there is one.

    One that cannot be read, has more bytes than ``limit``, or does not begin and end as a pack is
    dropped. Whoever drops it meanwhile takes nothing away from who reads it.
    """
    path = _path(store, name)
    try:
        os.link(path, place, follow_symlinks=False)
    except OSError:
        return False
    try:
        sound = _is_sound(place, limit)
    except OSError:
        sound = False
    if not sound:
        place.unlink()
        drop(store, name)
        return False
    with suppress(OSError):
        os.utime(path)
    return True


def _is_sound(place: Path, limit: int) -> bool:
    # Never waits: for a writer, say, where somebody has put a pipe.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(place, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not len(PACK + END) <= status.st_size <= limit:
            return False
        last = os.pread(descriptor, len(END), status.st_size - len(END))
        return os.pread(descriptor, len(PACK), 0) == PACK and last == END
    finally:
        os.close(descriptor)


def keep(store: Store, name: str, spooled: Path) -> None:
    """Keep a complete pack, of the store's own file system; those not used for longest go.

    Whatever prevents that costs a later roll-out the work, nothing else.
    """
    path = _path(store, name)
    try:
        size, disk = spooled.stat().st_size, os.statvfs(spooled)
        if size < WORTH or disk.f_bavail * disk.f_frsize < ROOM * size:
            return
        path.parent.mkdir(mode=0o755, exist_ok=True)
        with suppress(FileExistsError):
            os.link(spooled, path)
    except OSError:
        return
    for _, old in sorted(_all(store))[:-MOST]:
        durable.discard(str(old))


def drop(store: Store, name: str) -> None:
    """Keep a pack no longer."""
    durable.discard(str(_path(store, name)))


def drop_all(store: Store) -> None:
    """Keep none: the disk is full."""
    for _, path in _all(store):
        durable.discard(str(path))


def _all(store: Store) -> Iterator[tuple[int, Path]]:
    """When each was used last, and where it is."""
    with suppress(OSError):
        for path in Path(store.root, PACKS).iterdir():
            with suppress(OSError):
                status = path.lstat()
                if not stat.S_ISDIR(status.st_mode):
                    yield status.st_mtime_ns, path


def _path(store: Store, name: str) -> Path:
    return Path(store.root, PACKS, name)
