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
from images.forks import can_fork, in_processes
from images.layout import SuspectError, is_sound
from images.manifest import path_problem
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

# A copy of the process costs a few milliseconds: fewer files than this are made without one.
_FEW = 2000
# A folder with more than this below it is divided, so that no process waits long for another.
_PIECE = 200


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
        self.counts: dict[str, int] = {}

    def place_files(self) -> None:
        """Make all folders and all plain files. Raises OSError, SuspectError."""
        first, pieces = _pieces(self.manifest.entries)
        for folder in first:
            self.make_folder(folder)
        total = len(self.manifest.entries)
        ahead = [0]
        for piece in pieces:
            ahead.append(ahead[-1] + sum(len(entries) for _, entries in piece))

        def place(numbers: Iterable[int]) -> tuple[dict[str, int], list[int], str]:
            self.counts.clear()
            suspect: list[int] = []
            for number in numbers:
                for folder, entries in pieces[number]:
                    if folder:
                        self.make_folder(folder)
                    suspect += self.place_entries(entries)
            return self.counts, suspect, self.placer.fallback

        if total < _FEW or not can_fork():
            done = [place(range(len(pieces)))]
        else:
            done = in_processes(place, len(pieces), lambda number: self.report(ahead[number]))
        counts = [dict(one) for one, _, _ in done]
        self.counts = {way: sum(one.get(way, 0) for one in counts) for way in WAYS}
        self.placer.fallback = "".join([reason for _, _, reason in done if reason][:1])
        self.replace_suspects([self.manifest.entries[at] for _, ats, _ in done for at in ats])
        self.report(total)

    def make_folder(self, folder: str) -> None:
        path = f"{self.root}/{folder}"
        os.mkdir(path, FOLDER_MODE)
        if self.chmod:
            os.chmod(path, FOLDER_MODE)

    def place_entries(self, entries: Iterable[tuple[int, Entry]]) -> list[int]:
        """Make these plain files; returns which were not: their objects look changed."""
        count, suspect = self.counts, []
        root, placer = self.root, self.placer
        for at, (_, executable, sha256, size, _, path) in entries:
            if not size:
                write_own(f"{root}/{path}", b"", executable)
                continue
            source = object_name(sha256, executable)
            try:
                status = os.stat(source, dir_fd=placer.folder, follow_symlinks=False)
            except FileNotFoundError:
                status = None
            if status is None or not is_sound(status, executable, size):
                suspect.append(at)
                continue
            way = placer.place(source, f"{root}/{path}", executable)
            count[way] = count.get(way, 0) + 1
        return suspect

    def replace_suspects(self, entries: list[Entry]) -> None:
        if not entries:
            return
        bad = {one.key for one in self.store.heal(sorted({entry.key for entry in entries}))}
        if not bad:
            left = self.place_entries(enumerate(entries))
            bad = {entries[at].key for at in left}  # of another size than the manifest says
        if bad:
            owners = sorted({entry.owner for entry in self.manifest.entries if entry.key in bad})
            raise SuspectError(self.store.root, sorted(bad), owners)

    def report(self, done: int) -> None:
        if self.on_progress:
            self.on_progress("Checking out", done, len(self.manifest.entries))

    def result(self) -> Checkout:
        reflinked, hardlinked, copied = (self.counts.get(way, 0) for way in WAYS)
        total = len(self.manifest.entries)
        return Checkout(total, reflinked, hardlinked, copied, self.placer.fallback)


def _pieces(
    entries: Iterable[Entry],
) -> tuple[list[str], list[list[tuple[str, list[tuple[int, Entry]]]]]]:
    """The folders to make first, in order, and pieces of work that need nothing else.

    A piece is a list of (folder to make or "", its plain files with their places in
    ``entries``), a folder before what is in it.
    """
    inside: dict[str, list[tuple[int, Entry]]] = {}
    for at, entry in enumerate(entries):
        files = inside.setdefault(entry[5].rpartition("/")[0], [])
        if entry[0] == "file":
            files.append((at, entry))
    below: dict[str, int] = {}  # what a folder costs, with all in it
    for folder in sorted(inside, reverse=True):
        cost = len(inside[folder]) + 3  # a folder costs about as much as three links
        while True:
            below[folder] = below.get(folder, 0) + cost
            if not folder:
                break
            folder = folder.rpartition("/")[0]
    first: list[str] = []
    pieces: dict[str, list[tuple[str, list[tuple[int, Entry]]]]] = {}
    roots: dict[str, str] = {}  # folder -> the one its piece begins with; none: made first
    for folder in sorted(below):
        parent = folder.rpartition("/")[0]
        root = roots.get(parent) if folder else None
        if root is not None:
            roots[folder] = root
            pieces[root].append((folder, inside.get(folder, [])))
        elif not folder or below[folder] > _PIECE:
            if folder:
                first.append(folder)
            pieces[f"{folder}/"] = [("", inside.get(folder, []))]
        else:
            roots[folder] = folder
            pieces[folder] = [(folder, inside.get(folder, []))]
    # The largest first: the last one running decides how long it takes.
    return first, sorted(pieces.values(), key=lambda piece: -sum(len(files) for _, files in piece))


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
