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
from images.worklist import WorkList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from typing import NamedTuple

    from images.manifest import Entry, Key, Manifest
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


def confine(path: str) -> None:
    """Raise WainError for a path that may not stand in an image."""
    problem = path_problem(path)
    if problem:
        raise WainError(path, problem)


def checkout(
    what: Manifest | WorkList,
    store: Store,
    staging_dir: str,
    prefix: str,
    interpreter: Interpreter,
    *,
    link: tuple[str, ...] = WAYS,
    fsync: bool = True,
    fresh: Container[str] = (),
    meanwhile: Callable[[], None] = lambda: None,
    on_progress: Progress | None = None,
) -> Checkout:
    """Make an image real in ``staging_dir``, which must not exist, to live at ``prefix``.

    ``link`` names the ways that may be tried; copying always may. With ``fsync`` all of it
    lasts before this returns; ``meanwhile`` is called when everything is in its place and waits
    for that. An object that was changed in place is not used: where its bytes
    are right, a fresh copy takes its place, else SuspectError. Raises WainError for whatever
    else fails. Objects named in ``fresh`` are linked without a look at them: whoever wrote them
    just now looks at the links. After any error the folder is gone again. For a work list that
    was read, the SuspectError names no packages.
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
            todo = what if isinstance(what, WorkList) else WorkList.of(what)
            descriptors.append(os.open(root, flags | os.O_NOFOLLOW))
            placer = Placer(descriptors[1], link)
            work = _Work(root, descriptors[2], todo, store, placer, fresh, on_progress)
            work.place_files()
            for entry in todo.rest.entries:
                _place_rendered(root, entry, store, prefix, interpreter)
            meanwhile()
            if fsync:
                make_last(descriptors[0], root)
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
    """The plain files of one check-out."""

    def __init__(
        self,
        root: str,
        folder: int,
        work: WorkList,
        store: Store,
        placer: Placer,
        fresh: Container[str],
        on_progress: Progress | None,
    ) -> None:
        self.root = root
        self.folder = folder  # a descriptor of it: long paths cost the kernel time
        self.work = work
        self.store = store
        self.placer = placer
        self.fresh = fresh
        self.on_progress = on_progress
        # An unusual umask asks for a second call for each folder.
        self.chmod = stat.S_IMODE(os.lstat(root).st_mode) != FOLDER_MODE
        if self.chmod:
            os.chmod(root, FOLDER_MODE)
        self.counts: dict[str, int] = {}

    def place_files(self) -> None:
        """Make all folders and all plain files. Raises OSError, SuspectError."""
        for folder in self.work.first:
            self.make_folder(folder)
        pieces = self.work.pieces
        ahead = [0]
        for piece in pieces:
            ahead.append(ahead[-1] + piece.count("\n") + 1)

        def place(numbers: Iterable[int]) -> tuple[dict[str, int], list[str], str]:
            self.counts = {}
            suspect: list[str] = []
            for number in numbers:
                suspect += self.place(pieces[number].split("\n"))
            return self.counts, suspect, self.placer.fallback

        if self.work.files < _FEW or not can_fork():
            done = [place(range(len(pieces)))]
        else:
            done = in_processes(place, len(pieces), lambda number: self.report(ahead[number]))
        self.counts = {way: sum(one.get(way, 0) for one, _, _ in done) for way in WAYS}
        self.placer.fallback = "".join([reason for _, _, reason in done if reason][:1])
        self.replace_suspects([line for _, lines, _ in done for line in lines])
        self.report(self.work.files)

    def make_folder(self, folder: str) -> None:
        try:
            os.mkdir(folder, FOLDER_MODE, dir_fd=self.folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{self.root}/{folder}") from None
        if self.chmod:
            os.chmod(f"{self.root}/{folder}", FOLDER_MODE)

    def place(self, lines: Iterable[str]) -> list[str]:
        """Do what the lines say; returns those that were not: their objects look changed."""
        count, suspect = self.counts, []
        root, placer, folder, fresh = self.root, self.placer, self.folder, self.fresh
        objects, only_links, links = placer.folder, placer.only_links, 0
        for line in lines:
            if line[0] == "/":
                self.make_folder(line[1:])
                continue
            source, size, path = line.split(" ", 2)
            executable = source[-1] == "x"
            if size == "0":
                write_own(f"{root}/{path}", b"", executable)
                continue
            if not only_links or source not in fresh:
                try:
                    status = os.stat(source, dir_fd=objects, follow_symlinks=False)
                except FileNotFoundError:
                    status = None
                if status is None or not is_sound(status, executable, int(size)):
                    suspect.append(line)
                    continue
            if only_links:
                try:
                    os.link(
                        source, path, src_dir_fd=objects, dst_dir_fd=folder, follow_symlinks=False
                    )
                except OSError:
                    only_links = False  # the placer knows what to do about it, and says why
                else:
                    links += 1
                    continue
            way = placer.place(source, f"{root}/{path}", executable)
            count[way] = count.get(way, 0) + 1
            only_links = placer.only_links
        if links:
            count["hardlink"] = count.get("hardlink", 0) + links
        return suspect

    def replace_suspects(self, lines: list[str]) -> None:
        if not lines:
            return
        bad = {one.key for one in self.store.heal(sorted(set(map(_key, lines))))}
        if not bad:
            # What is left is of another size than the manifest says.
            bad = set(map(_key, self.place(lines)))
        if bad:
            manifest = self.work.manifest
            entries = manifest.entries if manifest else ()
            owners = sorted({entry.owner for entry in entries if entry.key in bad})
            raise SuspectError(self.store.root, sorted(bad), owners)

    def report(self, done: int) -> None:
        if self.on_progress:
            self.on_progress("Checking out", done, self.work.files)

    def result(self) -> Checkout:
        reflinked, hardlinked, copied = (self.counts.get(way, 0) for way in WAYS)
        return Checkout(self.work.files, reflinked, hardlinked, copied, self.placer.fallback)


def _key(line: str) -> Key:
    name = line.partition(" ")[0].replace("/", "", 1)
    return name[:64], name.endswith(".x")


def _place_rendered(
    root: str, entry: Entry, store: Store, prefix: str, interpreter: Interpreter
) -> None:
    target = f"{root}/{entry.path}"
    data = store.read(*entry.key)
    if entry.kind == "link":
        os.symlink(link_target(entry, data, interpreter), target)
    else:
        write_own(target, render(entry.kind, data, prefix, interpreter), entry.executable)


def make_last(descriptor: int, root: str) -> None:
    """Make a tree last, through a folder of its file system opened before it was begun.

    Raises OSError.
    """
    if durable.sync_filesystem(descriptor):
        return
    for folder, _, files in os.walk(root):
        for name in files:
            path = f"{folder}/{name}"
            if not os.path.islink(path):
                durable.sync_file(path)
        durable.sync_folder(folder)
    os.fsync(descriptor)
