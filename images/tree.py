"""An image as a real folder: check one out, and find where one no longer equals it.

Travels to hosts. Check-out makes every folder itself, below a folder that did not exist, so
nothing planted there before can be followed. Files share the store's inode where the file
system allows it, and then have the store's modes (0444, 0555); own copies have 0644 and 0755.
All have the store's fixed time. Empty files are never shared: one inode would serve every
``__init__.py``.
"""

from __future__ import annotations

import os
import stat

from images import durable
from images.errors import WainError
from images.layout import SuspectError, is_sound
from images.manifest import folders, path_problem
from images.parallel import parallel
from images.place import FOLDER_MODE, WAYS, Placer, write_own
from images.render import Interpreter, link_target, prefix_problem, render
from images.scan import Drift, scan
from images.store import object_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NamedTuple

    from images.manifest import Entry, Manifest
    from images.store import Store

    Progress = Callable[[str, int, int], None]

    class Checkout(NamedTuple):
        """What a check-out did. files: all of them, made in whatever way.

        ``fallback``: why files were copied although hard links were allowed, else empty.
        """

        files: int
        reflinked: int
        hardlinked: int
        copied: int
        fallback: str
else:
    from collections import namedtuple

    Checkout = namedtuple("Checkout", "files reflinked hardlinked copied fallback")

__all__ = ["Checkout", "Drift", "Interpreter", "SuspectError", "checkout", "confine", "scan"]

# Folders down to here (lib/python3.11/site-packages) are made first; each one below, with all
# that is in it, is one piece of work for a thread.
_TOP = 3


def confine(path: str) -> None:
    """Raise WainError for a path that may not stand in an image."""
    problem = path_problem(path)
    if problem:
        raise WainError(path, problem)


def checkout(
    manifest: Manifest,
    store: Store,
    staging_dir: str,
    prefix: str,
    interpreter: Interpreter,
    *,
    link: tuple[str, ...] = WAYS,
    fsync: bool = True,
    on_progress: Progress | None = None,
) -> Checkout:
    """Make an image real in ``staging_dir``, which must not exist, to live at ``prefix``.

    ``link`` names the ways that may be tried; copying always may. With ``fsync`` all of it
    lasts before this returns. An object that was changed in place is not used: where its bytes
    are right, a fresh copy takes its place, else SuspectError. Raises WainError for whatever
    else fails. After any error the folder is gone again.
    """
    problem = prefix_problem(prefix)
    if problem:
        raise WainError(prefix, problem)
    root = os.path.abspath(staging_dir)
    descriptors: list[int] = []
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        # Opened before the first write, so that the barrier reports every failed write.
        descriptors.append(os.open(os.path.dirname(root), flags))
        descriptors.append(os.open(store.objects, flags))
        os.mkdir(root, FOLDER_MODE)
        try:
            work = _Work(root, manifest, store, Placer(descriptors[1], link), on_progress)
            work.place_files()
            for entry in manifest.entries:
                if entry.kind != "file":
                    _place_rendered(root, entry, store, prefix, interpreter)
            if fsync:
                _make_last(descriptors[0], root)
        except BaseException:
            import shutil

            shutil.rmtree(root, ignore_errors=True)
            raise
    except OSError as error:
        # With two names, the second one is the file that was to be made.
        where = error.filename2 or error.filename or root
        if isinstance(where, str) and not where.startswith("/"):
            where = f"{store.objects}/{where}"
        raise WainError(where, error.strerror or str(error)) from None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return work.result()


class _Work:
    """The plain files of one check-out, in pieces that threads take."""

    def __init__(
        self,
        root: str,
        manifest: Manifest,
        store: Store,
        placer: Placer,
        on_progress: Progress | None,
    ) -> None:
        self.root = root
        self.manifest = manifest
        self.store = store
        self.placer = placer
        self.on_progress = on_progress
        # An unusual umask asks for a second call for each folder.
        self.chmod = stat.S_IMODE(os.lstat(root).st_mode) != FOLDER_MODE
        if self.chmod:
            os.chmod(root, FOLDER_MODE)
        self.counts: list[tuple[str, int]] = []
        self.suspect: list[Entry] = []

    def place_files(self) -> None:
        """Make all folders and all plain files. Raises OSError, SuspectError."""
        entries = self.manifest.entries
        inside: dict[str, list[Entry]] = {}
        for entry in entries:
            inside.setdefault(entry.path.rpartition("/")[0], []).append(entry)
        pieces: dict[str, list[str]] = {}
        for folder in sorted(folders(entry.path for entry in entries)):
            if folder.count("/") < _TOP:
                self.make_folder(folder)
                pieces[folder] = []
            else:
                pieces.setdefault("/".join(folder.split("/", _TOP + 1)[: _TOP + 1]), []).append(
                    folder
                )
        pieces[""] = []

        def place(piece: tuple[str, list[str]]) -> None:
            top, below = piece
            for folder in below:
                self.make_folder(folder)
                self.place_entries(inside.get(folder, ()))
            if not below:
                self.place_entries(inside.get(top, ()))

        # The largest first: the last one running decides how long it takes.
        order = sorted(pieces.items(), key=lambda piece: -len(piece[1]))
        parallel(place, order, self.report, chunk=1)
        self.replace_suspects()
        self.report(0)

    def make_folder(self, folder: str) -> None:
        path = f"{self.root}/{folder}"
        os.mkdir(path, FOLDER_MODE)
        if self.chmod:
            os.chmod(path, FOLDER_MODE)

    def place_entries(self, entries: Iterable[Entry]) -> None:
        count: dict[str, int] = {}
        root, placer = self.root, self.placer
        for entry in entries:
            kind, executable, sha256, size, _, path = entry
            if kind != "file":
                continue
            if not size:
                write_own(f"{root}/{path}", b"", executable)
                continue
            source = object_name(sha256, executable)
            try:
                status = os.stat(source, dir_fd=placer.folder, follow_symlinks=False)
            except FileNotFoundError:
                status = None
            if status is None or not is_sound(status, executable, size):
                self.suspect.append(entry)
                continue
            way = placer.place(source, f"{root}/{path}", executable)
            count[way] = count.get(way, 0) + 1
        self.counts += count.items()

    def replace_suspects(self) -> None:
        if not self.suspect:
            return
        entries, self.suspect = self.suspect, []
        bad = {one.key for one in self.store.heal(sorted({entry.key for entry in entries}))}
        if not bad:
            self.place_entries(entries)
            entries = self.suspect  # of another size than the manifest says
            bad = {entry.key for entry in entries}
        if bad:
            owners = sorted({entry.owner for entry in self.manifest.entries if entry.key in bad})
            raise SuspectError(self.store.root, sorted(bad), owners)

    def report(self, _: int) -> None:
        if self.on_progress:
            done = sum(count for _, count in list(self.counts))
            self.on_progress("Checking out", done, len(self.manifest.entries))

    def result(self) -> Checkout:
        reflinked, hardlinked, copied = (
            sum(count for made, count in self.counts if made == way) for way in WAYS
        )
        total = len(self.manifest.entries)
        return Checkout(total, reflinked, hardlinked, copied, self.placer.fallback)


def _place_rendered(
    root: str, entry: Entry, store: Store, prefix: str, interpreter: Interpreter
) -> None:
    target = f"{root}/{entry.path}"
    data = store.read(*entry.key)
    if entry.kind == "link":
        os.symlink(link_target(entry, data, interpreter), target)
    else:
        write_own(target, render(entry.kind, data, prefix, interpreter), entry.executable)


def _make_last(descriptor: int, root: str) -> None:
    if durable.sync_filesystem(descriptor):
        return
    for folder, _, files in os.walk(root):
        for name in files:
            path = f"{folder}/{name}"
            if not os.path.islink(path):
                durable.sync_file(path)
        durable.sync_folder(folder)
    os.fsync(descriptor)
