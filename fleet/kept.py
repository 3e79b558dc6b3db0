"""Packs that are kept beside the store, ``<store>/packs/<image id>.<method>[-<objects>]``.

What a plan or a roll-out has spooled, the next one with the same missing set reads again. A pack
is found by its name alone, and nothing here is made to last: a host hashes every object it is
sent, and a pack it refuses is dropped and made anew. A collection removes those of images that
are gone.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from images.catalog import PACKS
from images.store import Store

# So many are kept, those used last.
MOST = 8


def find(store: Store, name: str, place: Path) -> bool:
    """Give the pack of this name a second name, ``place``; whether there is one.

    Whoever drops it meanwhile takes nothing away from who reads it.
    """
    path = _path(store, name)
    try:
        os.link(path, place)
    except OSError:
        return False
    with suppress(OSError):
        os.utime(path)
    return True


def keep(store: Store, name: str, spooled: Path) -> None:
    """Keep a complete pack, of the store's own file system; those not used for longest go.

    Whatever prevents that costs a later roll-out the work, nothing else.
    """
    path = _path(store, name)
    with suppress(OSError):
        path.parent.mkdir(mode=0o755, exist_ok=True)
        with suppress(FileExistsError):
            os.link(spooled, path)
        by_age = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime)
        for old in by_age[:-MOST]:
            old.unlink()


def drop(store: Store, name: str) -> None:
    """Keep a pack no longer."""
    with suppress(OSError):
        _path(store, name).unlink(missing_ok=True)


def _path(store: Store, name: str) -> Path:
    return Path(store.root) / PACKS / name
