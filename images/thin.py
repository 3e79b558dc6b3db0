"""Thin environments: a few own files, and one read-only checkout in the store for the rest.

An image's packages stand once in ``<store>/checkouts/<name>/``, as they stand in every thick
environment, so vendored libraries find each other. A thin environment has its own ``bin``,
``share`` and ``site-packages``; a path file there adds the checkout's ``site-packages`` to the
end of ``sys.path``. No path below the environment leads into the checkout, so an installer
that writes, upgrades or removes, as any user, touches only the environment: what it installs
is found first, and what stands in the checkout is "outside the environment" for it.

Own, and not in the checkout, are the top-level modules with their ``__pycache__`` (whole
packages where they have nothing else) and packages that make a namespace by a path file.
"""

from __future__ import annotations

import os
import re
import stat

from images.errors import WainError
from images.layout import FIXED_NS
from images.manifest import Entry, Manifest, folders
from images.store import Store
from images.swap import alone, put_in_place, staging
from images.tree import Checkout, Interpreter, checkout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[str, int, int], None]

_READ_ONLY = 0o555
_SITE = re.compile(r"lib/python[0-9.]+t?/site-packages(?=/)")
PATH_FILE = "wain.pth"
CACHE = ".pycache"
"""Where bytecode goes that the image does not have (python -O): never into the checkout."""


def site_packages(manifest: Manifest) -> str:
    """The image's folder of packages, relative to its prefix."""
    for entry in manifest.entries:
        match = _SITE.match(entry.path)
        if match:
            return match[0]
    return f"lib/python{manifest.python}/site-packages"


def split(manifest: Manifest) -> tuple[list[Entry], list[Entry]]:
    """The entries an environment has itself, and those it shares."""
    site = site_packages(manifest) + "/"
    start = len(site)
    large: set[str] = set()
    whole: set[str] = set()
    inside: list[tuple[Entry, bool]] = []
    own: list[Entry] = []
    for entry in manifest.entries:
        path = entry.path
        if not path.startswith(site) or entry.owner == "-":
            own.append(entry)
            continue
        first, slash, _ = path[start:].partition("/")
        module = first == "__pycache__" or (not slash and first.endswith(".py"))
        inside.append((entry, module))
        if not module and not (slash and first.endswith(".dist-info")):
            large.add(entry.owner)
            if first.endswith("-nspkg.pth"):
                whole.add(entry.owner)
    shared = []
    for entry, module in inside:
        if module or entry.owner not in large or entry.owner in whole:
            own.append(entry)
        else:
            shared.append(entry)
    return own, shared


def path_file(shared_site: str, prefix: str, has_bytecode: bool) -> bytes:
    """The path file of a thin environment.

    The first line is a plain path, which editors read as well; the second lets the path files
    in the checkout count; the third keeps bytecode that the image lacks out of the checkout.
    """
    cache = ascii(f"{prefix}/{CACHE}")
    when = "sys.flags.optimize and " if has_bytecode else ""
    return (
        f"{shared_site}\n"
        f"import site; site.addsitedir({shared_site!a})\n"
        f"import sys; sys.pycache_prefix = sys.pycache_prefix or ({when}{cache}) or None\n"
    ).encode()


def shared_checkout(
    store: Store,
    manifest: Manifest,
    shared: list[Entry],
    name: str,
    interpreter: Interpreter,
    link: tuple[str, ...],
    on_progress: Progress | None = None,
) -> tuple[str, Checkout | None]:
    """The folder of the shared checkout called *name*, made when it is missing or was changed.

    Returns what check-out did, None when the folder was there. Raises WainError.
    """
    parent = f"{store.root}/checkouts"
    place = f"{parent}/{name}"
    with alone(f"{store.root}/roots", place):
        if is_whole(place, shared):
            return place, None
        try:
            os.makedirs(parent, 0o755, exist_ok=True)
            with staging(place) as staged:
                done = checkout(
                    manifest.part(shared), store, staged, place, interpreter,
                    link=link, fsync=False, on_progress=on_progress,
                )  # fmt: skip
                for folder in ["", *sorted(folders([entry.path for entry in shared]))]:
                    os.chmod(f"{staged}/{folder}", _READ_ONLY)
                put_in_place(staged, place)
        except OSError as error:
            raise WainError(place, error.strerror or str(error)) from None
    return place, done


def is_read_only(path: str) -> bool:
    """Whether a folder of a shared checkout has the mode it was given."""
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == _READ_ONLY


def is_whole(folder: str, entries: list[Entry]) -> bool:
    """Whether every file stands there with the size and time it was made with."""
    try:
        for entry in entries:
            status = os.lstat(f"{folder}/{entry.path}")
            if entry.kind == "link":
                continue
            if (
                status.st_mtime_ns != FIXED_NS
                or not stat.S_ISREG(status.st_mode)
                or (status.st_size != entry.size and entry.kind == "file")
            ):
                return False
    except OSError:
        return False
    return True
