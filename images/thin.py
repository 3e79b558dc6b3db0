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
from hashlib import sha256
from typing import NamedTuple

from images.errors import WainError
from images.layout import FIXED_NS
from images.manifest import Entry, Manifest, folders
from images.place import write_own
from images.store import Store
from images.swap import alone, put_in_place, staging
from images.tree import Checkout, Interpreter, checkout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[str, int, int], None]

_READ_ONLY = 0o555
_SITE = re.compile(r"lib/python[0-9.]+t?/site-packages(?=/)")
INDEX = ".wain-checkout"
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


class Shared(NamedTuple):
    """A shared checkout, and what an environment that uses it has itself.

    ``files`` counts the whole image's, ``site`` is its folder of packages, ``bytecode`` tells
    whether the shared modules have theirs.
    """

    folder: str
    own: Manifest
    site: str
    files: int
    bytecode: bool


def find_shared(store: Store, name: str) -> Shared | None:
    """The shared checkout called *name*, by its index alone; None when it is not there.

    The index, ``.wain-checkout`` in its folder, is made of ``key value`` lines, an empty line
    and the manifest of the own part; the first line has the sha256 of all the rest.
    """
    found = _read_index(f"{store.root}/checkouts/{name}")
    return found[0] if found else None


def _read_index(folder: str) -> tuple[Shared, tuple[int, int]] | None:
    try:
        with open(f"{folder}/{INDEX}", "rb") as stream:
            first, _, rest = stream.read().partition(b"\n")
    except OSError:
        return None
    if first != f"wain-checkout 1 {sha256(rest).hexdigest()}".encode():
        return None
    head, _, own = rest.partition(b"\n\n")
    values = dict(line.split(" ", 1) for line in head.decode().split("\n"))
    shared = Shared(
        folder, Manifest.parse(own, f"{folder}/{INDEX}"), values["site"], int(values["files"]),
        values["bytecode"] == "1",
    )  # fmt: skip
    return shared, (int(values["shared"]), int(values["bytes"]))


def shared_checkout(
    store: Store,
    load: Callable[[], Manifest],
    name: str,
    interpreter: Interpreter,
    link: tuple[str, ...],
    on_progress: Progress | None = None,
) -> tuple[Shared, Checkout | None]:
    """The shared checkout called *name*, made when it is missing or was changed.

    ``load`` gives the manifest it is made from. Returns what check-out did, too: None when
    the folder was there, whole. Raises WainError.
    """
    parent = f"{store.root}/checkouts"
    place = f"{parent}/{name}"
    with alone(f"{store.root}/roots", place):
        found = _read_index(place)
        if found and _survey(place) == found[1]:
            return found[0], None
        manifest = load()
        own, shared = split(manifest)
        made = Shared(
            place, manifest.part(own), site_packages(manifest), len(manifest.entries),
            any(entry.path.endswith(".pyc") for entry in shared),
        )  # fmt: skip
        try:
            os.makedirs(parent, 0o755, exist_ok=True)
            with staging(place) as staged:
                done = checkout(
                    manifest.part(shared), store, staged, place, interpreter,
                    link=link, fsync=False, on_progress=on_progress,
                )  # fmt: skip
                write_own(f"{staged}/{INDEX}", _index(made, shared), False)
                for folder in ["", *sorted(folders([entry.path for entry in shared]))]:
                    os.chmod(f"{staged}/{folder}", _READ_ONLY)
                put_in_place(staged, place)
        except OSError as error:
            raise WainError(place, error.strerror or str(error)) from None
    return made, done


def _index(made: Shared, shared: list[Entry]) -> bytes:
    plain = [entry for entry in shared if entry.kind != "link"]
    lines = [
        f"site {made.site}",
        f"files {made.files}",
        f"bytecode {int(made.bytecode)}",
        f"shared {len(plain)}",
        f"bytes {sum(entry.size for entry in plain)}",
    ]
    rest = ("\n".join(lines) + "\n\n").encode() + made.own.to_bytes()
    return f"wain-checkout 1 {sha256(rest).hexdigest()}\n".encode() + rest


def _survey(folder: str) -> tuple[int, int] | None:
    """How many files there are and their bytes together; None when one was written to.

    A write in place, even through another hard link, changes the time every file was given.
    """
    count = size = 0
    pending = [folder]
    try:
        while pending:
            path = pending.pop()
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                # By descriptor: a stat by a long path costs several times as much.
                with os.scandir(descriptor) as items:
                    for item in items:
                        if item.is_dir(follow_symlinks=False):
                            pending.append(f"{path}/{item.name}")
                        elif not item.is_symlink():
                            status = item.stat(follow_symlinks=False)
                            if status.st_mtime_ns != FIXED_NS:
                                return None
                            count += 1
                            size += status.st_size
            finally:
                os.close(descriptor)
        index = os.lstat(f"{folder}/{INDEX}").st_size
    except OSError:
        return None
    return count - 1, size - index


def is_read_only(path: str) -> bool:
    """Whether a folder of a shared checkout has the mode it was given."""
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == _READ_ONLY
