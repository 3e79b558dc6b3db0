"""An image as a real folder: checking one out, and finding where one no longer equals it.

Travels to hosts. Check-out makes every folder itself, below a folder that did not exist, so
nothing planted there before can be followed. Files share the store's inode where the file
system allows it, and then have the store's modes (0444, 0555); own copies have 0644 and 0755.
All have the store's fixed time. Empty files are never shared: all would have one inode.
"""

from __future__ import annotations

import errno
import os
import stat
from hashlib import sha256

from images import durable, hashing
from images.errors import WainError
from images.manifest import folders, path_problem
from images.render import PYTHON_LINK, Interpreter, link_problem, prefix_problem, render
from images.store import (
    EXECUTABLE_MODE,
    FILE_MODE,
    FIXED_NS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import NamedTuple

    from images.manifest import Entry, Key, Manifest
    from images.store import Store

    Progress = Callable[[str, int, int], None]

    class Checkout(NamedTuple):
        """What a check-out did. files counts all; ``fallback`` says why not linked."""

        files: int
        reflinked: int
        hardlinked: int
        copied: int
        fallback: str

    class Drift(NamedTuple):
        """A difference; what: missing, added, content, size, mode or type."""

        path: str
        owner: str
        what: str
else:
    from collections import namedtuple

    Checkout = namedtuple("Checkout", "files reflinked hardlinked copied fallback")
    Drift = namedtuple("Drift", "path owner what")

__all__ = ["Checkout", "Drift", "Interpreter", "SuspectError", "checkout", "confine", "scan"]

FOLDER_MODE = 0o755
OWN_FILE_MODE = 0o644
OWN_EXECUTABLE_MODE = 0o755
_FICLONE = 0x40049409
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# The file system cannot do it for any file here: try the next way for all of them.
_NEVER = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS}
)


class SuspectError(WainError):
    """Objects that are missing or were changed; ``keys`` names them, ``owners`` the packages."""

    def __init__(self, store: str, keys: list[Key], owners: list[str]) -> None:
        self.keys = keys
        self.owners = owners
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        super().__init__(
            store,
            f"object {keys[0][0][:16]}{more} missing or changed, of: {', '.join(owners)}",
            "wain store verify --repair",
        )


def confine(path: str) -> None:
    """Raise WainError for a path that may not stand in an image."""
    problem = path_problem(path)
    if problem:
        raise WainError(ascii(path), problem)


class _Writer:
    """Writes files the best way that works, and counts."""

    def __init__(self, link: tuple[str, ...]) -> None:
        self.ways = [way for way in ("reflink", "hardlink") if way in link]
        self.count = {"reflink": 0, "hardlink": 0, "copy": 0}
        self.fallback = ""

    def place(self, source: str, target: str, executable: bool) -> None:
        """Put an object's bytes at a new path. Raises OSError."""
        while self.ways:
            way = self.ways[0]
            try:
                if way == "hardlink":
                    os.link(source, target, follow_symlinks=False)
                else:
                    _reflink(source, target, executable)
            except OSError as error:
                if way == "hardlink":
                    self.fallback = error.strerror or str(error)
                if error.errno == errno.EMLINK:
                    break
                if error.errno not in _NEVER:
                    raise
                del self.ways[0]
            else:
                self.count[way] += 1
                return
        with open(source, "rb") as file:
            write_own(target, file.read(), executable)
        self.count["copy"] += 1


def _reflink(source: str, target: str, executable: bool) -> None:
    import fcntl

    descriptor = os.open(target, _CREATE, 0o600)
    try:
        with open(source, "rb") as file:
            fcntl.ioctl(descriptor, _FICLONE, file.fileno())
        _finish(descriptor, executable)
    except BaseException:
        durable.discard(target)
        raise
    finally:
        os.close(descriptor)


def write_own(target: str, data: bytes, executable: bool) -> None:
    """Write a new file of its own inode, modes whatever the umask. Raises OSError."""
    descriptor = os.open(target, _CREATE, 0o600)
    try:
        if data:
            durable.write_all(descriptor, data)
        _finish(descriptor, executable)
    finally:
        os.close(descriptor)


def _finish(descriptor: int, executable: bool) -> None:
    os.fchmod(descriptor, OWN_EXECUTABLE_MODE if executable else OWN_FILE_MODE)
    os.utime(descriptor, ns=(FIXED_NS, FIXED_NS))


def checkout(
    manifest: Manifest,
    store: Store,
    staging_dir: str,
    prefix: str,
    interpreter: Interpreter,
    *,
    link: tuple[str, ...] = ("reflink", "hardlink", "copy"),
    fsync: bool = True,
    on_progress: Progress | None = None,
) -> Checkout:
    """Make an image real in ``staging_dir``, which must not exist, to live at ``prefix``.

    ``link`` names the ways that may be tried; copying always may. With ``fsync``, all of it
    lasts before this returns. Raises SuspectError for objects that are not sound, before
    anything is written, and WainError for whatever fails; what was written so far stays for
    the caller to remove.
    """
    problem = prefix_problem(prefix)
    if problem:
        raise WainError(ascii(prefix), problem)
    _check_objects(manifest, store)
    writer = _Writer(link)
    root = os.path.abspath(staging_dir)
    at = root
    try:
        barrier = os.open(os.path.dirname(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _make_folders(root, [entry.path for entry in manifest.entries])
            total = len(manifest.entries)
            for number, entry in enumerate(manifest.entries):
                at = f"{root}/{entry.path}"
                if entry.kind == "file" and entry.size:
                    source = store.object_path(entry.sha256, entry.executable)
                    writer.place(source, at, entry.executable)
                else:
                    _place_rendered(at, entry, store, prefix, interpreter)
                if on_progress and number % 1000 == 0:
                    on_progress("Checking out", number, total)
            at = root
            if fsync:
                _make_last(barrier, root)
        finally:
            os.close(barrier)
    except OSError as error:
        raise WainError(ascii(at)[1:-1], error.strerror or str(error)) from None
    count = writer.count
    return Checkout(total, count["reflink"], count["hardlink"], count["copy"], writer.fallback)


def _check_objects(manifest: Manifest, store: Store) -> None:
    """Every object sound by stat; those whose bytes are right are replaced by fresh copies."""
    suspect = store.missing(manifest.objects())
    if not suspect:
        return
    bad = {one.key for one in store.heal(suspect)}
    if bad:
        owners = sorted({entry.owner for entry in manifest.entries if entry.key in bad})
        raise SuspectError(store.root, sorted(bad), owners)


def _make_folders(root: str, paths: list[str]) -> None:
    os.mkdir(root, FOLDER_MODE)
    # Only an unusual umask asks for a second call for each folder.
    exact = stat.S_IMODE(os.lstat(root).st_mode) == FOLDER_MODE
    names = [root] + [f"{root}/{folder}" for folder in sorted(folders(paths))]
    for name in names[1:]:
        os.mkdir(name, FOLDER_MODE)
    if not exact:
        for name in names:
            os.chmod(name, FOLDER_MODE)


def _place_rendered(
    target: str, entry: Entry, store: Store, prefix: str, interpreter: Interpreter
) -> None:
    data = b"" if entry.size == 0 else store.read(*entry.key)
    if entry.kind == "link":
        os.symlink(_link_target(entry, data, interpreter), target)
    elif entry.kind == "file":
        write_own(target, data, entry.executable)
    else:
        data = render(entry.kind, data, prefix, interpreter)
        write_own(target, data, entry.executable)


def _link_target(entry: Entry, data: bytes, interpreter: Interpreter) -> str:
    target = data.decode("utf-8", "surrogateescape")
    problem = link_problem(entry.path, target)
    if problem:
        raise WainError(ascii(entry.path), f"{problem}: {target[:200]!a}")
    return interpreter.executable if target == PYTHON_LINK else target


def _make_last(descriptor: int, root: str) -> None:
    if durable.sync_filesystem(descriptor):
        return
    for folder, _, names in os.walk(root):
        for name in names:
            path = f"{folder}/{name}"
            if not os.path.islink(path):
                durable.sync_file(path)
        durable.sync_folder(folder)
    os.fsync(descriptor)


def scan(
    root: str,
    manifest: Manifest,
    prefix: str,
    interpreter: Interpreter,
    deep: bool = False,
    *,
    store: Store,
    ignore: Collection[str] = (),
    on_progress: Progress | None = None,
) -> list[Drift]:
    """Where the folder ``root`` differs from a manifest checked out for ``prefix``.

    Fast: type, size, mode and time against what check-out wrote; only where the time differs
    are the bytes hashed. Deep: every byte. ``store`` has the templates. ``ignore`` names paths
    that may be there besides. Sorted by path. Raises WainError for an unreadable folder.
    """
    expected = {entry.path: entry for entry in manifest.entries}
    drift = [
        Drift(path, _owner_near(path, expected), "added")
        for path in _walk(root, folders(expected), expected)
        if path not in ignore
    ]

    def check(entry: Entry) -> Drift | None:
        try:
            what = _difference(root, entry, store, prefix, interpreter, deep)
        except FileNotFoundError:
            what = "missing"
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            what = "missing"
        return Drift(entry.path, entry.owner, what) if what else None

    def report(done: int) -> None:
        if on_progress:
            on_progress("Verifying", done, len(manifest.entries))

    try:
        drift += [one for one in hashing.parallel(check, manifest.entries, report) if one]
    except OSError as error:
        raise WainError(error.filename or root, error.strerror or str(error)) from None
    report(len(manifest.entries))
    return sorted(drift)


def _difference(
    root: str, entry: Entry, store: Store, prefix: str, interpreter: Interpreter, deep: bool
) -> str:
    path = f"{root}/{entry.path}"
    status = os.lstat(path)
    if entry.kind == "link":
        if not stat.S_ISLNK(status.st_mode):
            return "type"
        wanted = _link_target(entry, store.read(*entry.key), interpreter)
        return "" if os.readlink(path) == wanted else "content"
    if not stat.S_ISREG(status.st_mode):
        return "type"
    size, digest = entry.size, entry.sha256
    if entry.kind != "file":
        data = render(entry.kind, store.read(*entry.key), prefix, interpreter)
        size, digest = len(data), sha256(data).hexdigest()
    if status.st_size != size:
        return "size"
    if (deep or status.st_mtime_ns != FIXED_NS) and hashing.hash_file(path)[0] != digest:
        return "content"
    modes = {EXECUTABLE_MODE if entry.executable else FILE_MODE}
    if status.st_nlink == 1:
        modes.add(OWN_EXECUTABLE_MODE if entry.executable else OWN_FILE_MODE)
    return "" if stat.S_IMODE(status.st_mode) in modes else "mode"


def _walk(root: str, known: set[str], expected: dict[str, Entry]) -> list[str]:
    """Paths that are neither entries nor folders of the image; an unknown folder as one."""
    added = []
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(f"{root}/{folder}" if folder else root) as items:
                for item in items:
                    path = f"{folder}/{item.name}" if folder else item.name
                    if item.is_dir(follow_symlinks=False):
                        if path in known:
                            pending.append(path)
                        elif path not in expected:
                            added.append(path)
                    elif path not in expected:
                        added.append(path)
        except OSError as error:
            raise WainError(error.filename or root, error.strerror or str(error)) from None
    return added


def _owner_near(path: str, expected: dict[str, Entry]) -> str:
    """Whose file this most likely is: the owner of the entries in the nearest folder."""
    folder = path.rpartition("/")[0]
    while folder:
        inside = folder + "/"
        owners = {entry.owner for name, entry in expected.items() if name.startswith(inside)}
        if owners:
            return owners.pop() if len(owners) == 1 else "-"
        folder = folder.rpartition("/")[0]
    return "-"
