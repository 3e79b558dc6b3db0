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

import functools
import os
import re
import stat
from collections import namedtuple
from contextlib import contextmanager
from hashlib import sha256

from images.errors import WainError
from images.layout import FIXED_NS
from images.manifest import Entry, Manifest, folders
from images.place import write_own
from images.store import Store
from images.survey import LIST, Survey, listing
from images.swap import alone, put_in_place, staging
from images.tree import Checkout, Interpreter, checkout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NamedTuple

    Progress = Callable[[str, int, int], None]

_READ_ONLY = 0o555
_SITE = re.compile(r"lib/python[0-9.]+t?/site-packages(?=/)")
INDEX = ".wain-checkout"
_MAGIC = "wain-checkout 3"
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


if TYPE_CHECKING:

    class Shared(NamedTuple):
        """A shared checkout, and what an environment that uses it has itself.

        ``files`` counts the whole image's, ``site`` is its folder of packages, ``bytecode``
        tells whether the shared modules have theirs.
        """

        folder: str
        own: Manifest
        site: str
        files: int
        bytecode: bool
else:
    Shared = namedtuple("Shared", "folder own site files bytecode")


def find_shared(store: Store, name: str) -> Shared | None:
    """The shared checkout called *name*, by its index alone; None when it is not there.

    The index, ``.wain-checkout`` in its folder, is made of ``key value`` lines, an empty line
    and the manifest of the own part; the first line has the sha256 of all the rest. ``list``
    is the sha256 of the list of the shared files beside it.
    """
    found = _read_index(f"{store.root}/checkouts/{name}")
    return found[0] if found else None


def _read_index(folder: str) -> tuple[Shared, str] | None:
    try:
        with open(f"{folder}/{INDEX}", "rb") as stream:
            first, _, rest = stream.read().partition(b"\n")
    except OSError:
        return None
    if first != f"{_MAGIC} {sha256(rest).hexdigest()}".encode():
        return None
    head, _, own = rest.partition(b"\n\n")
    values = dict(line.split(" ", 1) for line in head.decode().split("\n"))
    shared = Shared(
        folder, Manifest.parse(own, f"{folder}/{INDEX}"), values["site"], int(values["files"]),
        values["bytecode"] == "1",
    )  # fmt: skip
    return shared, values["list"]


class SharedCheckout:
    """A shared checkout in use. ``shared`` is known at once, :meth:`settle` lets it be whole."""

    def __init__(
        self, shared: Shared, is_whole: Callable[[], bool], make: Callable[[], Checkout]
    ) -> None:
        self.shared = shared
        self._is_whole = is_whole
        self._make = make

    def settle(self) -> Checkout | None:
        """Make it where it is missing or was changed; what check-out did, None for nothing.

        A checkout that is there has been looked at since the block began, beside other work.
        Raises WainError.
        """
        return None if self._is_whole() else self._make()


@contextmanager
def shared_checkout(
    store: Store,
    load: Callable[[], Manifest],
    name: str,
    interpreter: Interpreter,
    link: tuple[str, ...],
    on_progress: Progress | None = None,
    survey: Survey | None = None,
) -> Iterator[SharedCheckout]:
    """The shared checkout called *name*, which nobody else replaces while the block runs.

    ``load`` gives the manifest it is made from; *survey* may have begun to look at it before.
    Raises WainError.
    """
    place = f"{store.root}/checkouts/{name}"

    def make() -> Checkout:
        shared, manifest = _divide(place, load())
        return _make(store, shared, manifest, interpreter, link, on_progress)

    with alone(f"{store.root}/roots", place):
        found = _read_index(place)
        if found is None:
            yield SharedCheckout(_divide(place, load())[0], lambda: False, make)
            return
        shared, digest = found
        survey = survey or Survey(place)
        try:
            yield SharedCheckout(shared, functools.partial(survey.is_whole, digest), make)
        finally:
            survey.stop()


def _divide(place: str, manifest: Manifest) -> tuple[Shared, Manifest]:
    """What an environment has itself, and the part of the image that is shared."""
    own, shared = split(manifest)
    has_bytecode = any(entry.path.endswith(".pyc") for entry in shared)
    site, count = site_packages(manifest), len(manifest.entries)
    return Shared(place, manifest.part(own), site, count, has_bytecode), manifest.part(shared)


def _make(
    store: Store,
    shared: Shared,
    manifest: Manifest,
    interpreter: Interpreter,
    link: tuple[str, ...],
    on_progress: Progress | None,
) -> Checkout:
    place = shared.folder
    try:
        os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
        with staging(place) as staged:
            done = checkout(
                manifest, store, staged, place, interpreter,
                link=link, fsync=False, on_progress=on_progress,
            )  # fmt: skip
            files = [entry for entry in manifest.entries if entry.kind != "link"]
            names = [".", *sorted(folders([entry.path for entry in manifest.entries]))]
            size = sum(entry.size for entry in files)
            base = shared.site if shared.site in names else "."
            listed = listing(names, [entry.path for entry in files], size, base)
            write_own(f"{staged}/{LIST}", listed, False)
            write_own(f"{staged}/{INDEX}", _index(shared, sha256(listed).hexdigest()), False)
            for folder in names:
                os.chmod(f"{staged}/{folder}", _READ_ONLY)
                os.utime(f"{staged}/{folder}", ns=(FIXED_NS, FIXED_NS))
            put_in_place(staged, place)
    except OSError as error:
        raise WainError(place, error.strerror or str(error)) from None
    return done


def _index(shared: Shared, digest: str) -> bytes:
    lines = [
        f"site {shared.site}",
        f"files {shared.files}",
        f"bytecode {int(shared.bytecode)}",
        f"list {digest}",
    ]
    rest = ("\n".join(lines) + "\n\n").encode() + shared.own.to_bytes()
    return f"{_MAGIC} {sha256(rest).hexdigest()}\n".encode() + rest


def is_read_only(path: str) -> bool:
    """Whether a folder of a shared checkout has the mode it was given."""
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == _READ_ONLY
