"""Finding where a folder no longer equals its manifest. Travels to hosts."""

from __future__ import annotations

import errno
import os
import stat
from hashlib import sha256

from images import hashing
from images.errors import WainError
from images.layout import EXECUTABLE_MODE, FILE_MODE, FIXED_NS
from images.manifest import folders
from images.parallel import parallel
from images.place import FOLDER_MODE, OWN_EXECUTABLE_MODE, OWN_FILE_MODE
from images.render import link_target, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import NamedTuple

    from images.manifest import Entry, Manifest
    from images.render import Interpreter
    from images.store import Store

    Progress = Callable[[str, int, int], None]

    class Drift(NamedTuple):
        """A difference; what: missing, added, content, size, mode or type."""

        path: str
        owner: str
        what: str
else:
    from collections import namedtuple

    Drift = namedtuple("Drift", "path owner what")


FOLDER = stat.S_IFDIR | FOLDER_MODE
# Modes with the type, by whether the file is executable.
SHARED = (stat.S_IFREG | FILE_MODE, stat.S_IFREG | EXECUTABLE_MODE)
_OWN = (stat.S_IFREG | OWN_FILE_MODE, stat.S_IFREG | OWN_EXECUTABLE_MODE)


def scan(
    root: str,
    manifest: Manifest,
    prefix: str,
    interpreter: Interpreter,
    deep: bool = False,
    *,
    store: Store,
    ignore: Collection[str] = (),
    strays: bool = True,
    on_progress: Progress | None = None,
) -> list[Drift]:
    """Where the folder ``root`` differs from a manifest checked out for ``prefix``.

    Fast: type, size, mode and time against what check-out wrote; only where the time differs
    are the bytes hashed. Deep: every byte. ``store`` has the templates. ``ignore`` names paths
    that may be there besides. An unknown folder is one difference, whatever is in it; without
    ``strays`` it is none, and not looked for. Sorted by path. Raises WainError for what cannot
    be read, or a damaged template in the store.
    """
    expected = {entry.path: entry for entry in manifest.entries}
    known = folders(expected)

    def check(entry: Entry) -> Drift | None:
        try:
            what = _difference(root, entry, store, prefix, interpreter, deep)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            what = "missing"
        return Drift(entry.path, entry.owner, what) if what else None

    def report(done: int) -> None:
        if on_progress:
            on_progress("Verifying", done, len(manifest.entries))

    try:
        drift = _walk(root, known, expected, ignore) if strays else _folders(root, known)
        entries = manifest.entries
        doubtful = entries if deep else [one for one in entries if not _as_written(root, one)]
        drift += [one for one in parallel(check, doubtful, report) if one]
    except OSError as error:
        raise WainError(error.filename or root, error.strerror or str(error)) from None
    report(len(manifest.entries))
    return sorted(drift)


def _as_written(root: str, entry: Entry) -> bool:
    """Whether one look says that a plain file is as it should be: the usual case, quickly."""
    kind, executable, _, size, _, name = entry
    if kind != "file":
        return False
    try:
        status = os.lstat(f"{root}/{name}")
    except OSError:
        return False
    return (
        status.st_size == size
        and status.st_mtime_ns == FIXED_NS
        and (
            status.st_mode == SHARED[executable]
            or (status.st_mode == _OWN[executable] and status.st_nlink == 1)
        )
    )


def _difference(
    root: str, entry: Entry, store: Store, prefix: str, interpreter: Interpreter, deep: bool
) -> str:
    kind, executable, digest, size, _, name = entry
    path = f"{root}/{name}"
    status = os.lstat(path)
    if kind == "link":
        if not stat.S_ISLNK(status.st_mode):
            return "type"
        wanted = link_target(entry, store.read(*entry.key), interpreter)
        return "" if os.readlink(path) == wanted else "content"
    if not stat.S_ISREG(status.st_mode):
        return "type"
    if kind != "file":
        data = render(kind, store.read(*entry.key), prefix, interpreter)
        size, digest = len(data), sha256(data).hexdigest()
    if status.st_size != size:
        return "size"
    if (deep or status.st_mtime_ns != FIXED_NS) and hashing.hash_file(path)[0] != digest:
        return "content"
    mode = stat.S_IMODE(status.st_mode)
    if mode == (EXECUTABLE_MODE if executable else FILE_MODE):
        return ""
    own = OWN_EXECUTABLE_MODE if executable else OWN_FILE_MODE
    # A shared inode that is writable was changed for everybody who shares it.
    return "" if mode == own and status.st_nlink == 1 else "mode"


def _folders(root: str, known: set[str]) -> list[Drift]:
    """Folders that are none or have another mode; those that are missing lack their files."""
    drift: list[Drift] = []
    for folder in known:
        try:
            mode = os.lstat(f"{root}/{folder}").st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if mode != FOLDER:
            drift.append(Drift(folder, "-", "mode" if stat.S_ISDIR(mode) else "type"))
    return drift


def _walk(
    root: str, known: set[str], expected: Mapping[str, Entry], ignore: Collection[str]
) -> list[Drift]:
    """What is there besides the entries, and folders that are none or have another mode."""
    added: list[str] = []
    drift: list[Drift] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        path = f"{root}/{folder}" if folder else root
        if folder and stat.S_IMODE(os.lstat(path).st_mode) != FOLDER_MODE:
            drift.append(Drift(folder, "-", "mode"))
        with os.scandir(path) as items:
            for item in items:
                name = f"{folder}/{item.name}" if folder else item.name
                if name in known:
                    if item.is_dir(follow_symlinks=False):
                        pending.append(name)
                    else:
                        drift.append(Drift(name, "-", "type"))
                elif name not in expected and name not in ignore:
                    added.append(name)
    if added:
        owners = _owners(expected)
        drift += [Drift(name, _owner_near(name, owners), "added") for name in added]
    return drift


def _owners(expected: Mapping[str, Entry]) -> dict[str, str]:
    """The package that has a folder for itself, by folder; ``-`` where several share one."""
    owners: dict[str, str] = {}
    for path, entry in expected.items():
        folder = path.rpartition("/")[0]
        while folder:
            if owners.setdefault(folder, entry.owner) != entry.owner:
                owners[folder] = "-"
            folder = folder.rpartition("/")[0]
    return owners


def _owner_near(path: str, owners: Mapping[str, str]) -> str:
    """Whose file an unknown one most likely is: the owner of the nearest known folder."""
    folder = path.rpartition("/")[0]
    while folder and folder not in owners:
        folder = folder.rpartition("/")[0]
    return owners.get(folder, "-")
