"""The wheelhouse: a flat folder of checked wheels and sdists that is also a static index.

Layout::

    <folder>/*.whl *.tar.gz          the files
    <folder>/*.whl.metadata          exact copies of their METADATA (PEP 658)
    <folder>/simple/                 the index's pages, HTML and JSON
    <folder>/.meta/files/<project>/  one small JSON file a file: hash, times, inode
    <folder>/.meta/format            "wain-wheelhouse 1"
    <folder>/pylock.*.toml           locks of wheels that lie here, for installers
    <folder>/.meta/lock              held (flock) while anything visible changes
    <folder>/.meta/users             held by whoever needs files here; see wheelhouse.use
    <folder>/.staging/               files on their way in; see wheelhouse.staging

What is seen is always whole: a file is checked in staging, renamed into place, noted, and
only then named by a page; on the way out the pages change first. Different processes may add
and read at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from wheelhouse import why
from wheelhouse.entry import Entry, in_order, parse_filename
from wheelhouse.errors import UsageError, WheelhouseError
from wheelhouse.files import sync_folder, write_atomically
from wheelhouse.lock import Lock, lock_bytes
from wheelhouse.locks_here import locks_naming
from wheelhouse.notes import Notes
from wheelhouse.site import Site
from wheelhouse.staging import INTENT, Stage, abandoned, locked, open_stage
from wheelhouse.target import Target
from wheelhouse.text import bare, shown
from wheelhouse.use import alone, shared
from wheelhouse.verify import METADATA_SUFFIX, Problem, Progress, verify
from wheelhouse.zipcheck import Limits, Refused

_FORMAT = b"wain-wheelhouse 1\n"


class HashMismatch(WheelhouseError):
    """A file whose bytes are not the expected ones: both hashes as data."""

    def __init__(self, filename: str, expected: str, found: str, hint: str = "") -> None:
        self.expected = expected
        self.found = found
        super().__init__(bare(filename), f"has sha256 {found}, expected {bare(expected)}", hint)


class Wheelhouse:
    """The wheelhouse in ``folder``; it is created by the first :meth:`add`."""

    def __init__(self, folder: Path | str, *, limits: Limits | None = None) -> None:
        self.folder = Path(folder)
        self._limits = limits
        self._notes = Notes(self.folder)
        self._site = Site(self.folder / "simple")
        self._format_known = False

    # --- places ----------------------------------------------------------------------------

    @property
    def partial(self) -> Path:
        """Where a fetcher may keep unfinished downloads; created when asked for."""
        folder = self.folder / ".staging" / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # --- reading ---------------------------------------------------------------------------

    def entry(self, filename: str) -> Entry | None:
        """What is known of this file, if it is there and unchanged.

        A file that looks different from the one that was hashed is hashed again: with the
        same bytes (a copied wheelhouse) it stays known, with others it is corrupt and None.
        """
        self._check_format()
        noted = self._notes.read(filename)
        entry = self._notes.look(noted) if noted is not None else None
        if entry is not None and entry != noted:
            self._save([entry])
        return entry

    def _save(self, entries: list[Entry]) -> None:
        """Note new times and inodes. A folder that cannot be written is only slower."""
        with contextlib.suppress(OSError, WheelhouseError), self._stage() as stage:
            for entry in entries:
                self._notes.write(stage, entry)

    def has(self, filename: str, sha256: str) -> bool:
        """Whether this file is here with exactly these bytes."""
        entry = self.entry(filename)
        return entry is not None and entry.sha256 == sha256

    def path(self, filename: str) -> Path:
        """Where a file of the wheelhouse lies. Raises :class:`WheelhouseError` without it."""
        if self.entry(filename) is None:
            raise WheelhouseError(
                bare(filename), f"is not in the wheelhouse {self.folder}", "run 'wain build'"
            )
        return self.folder / filename

    def files(self, project: str | None = None) -> tuple[Entry, ...]:
        """Every intact file by project, version and name, or those of one normalised project.

        Costs a stat and a small read a file; only what looks changed is hashed.
        """
        self._check_format()
        pairs = list(self._notes.current(project))
        changed = [entry for noted, entry in pairs if entry is not noted]
        if changed:
            self._save(changed)
        return in_order(entry for _, entry in pairs)

    def best(self, requirement: Requirement | str, target: Target) -> Entry | None:
        """The file that answers a requirement on a target, as an installer would choose."""
        wanted = parse_requirement(requirement)
        return why.best(self.files(_project(wanted)), wanted, target)

    def why(self, requirement: Requirement | str, target: Target) -> tuple[why.Verdict, ...]:
        """Every candidate for a requirement with the reason it was taken or refused."""
        wanted = parse_requirement(requirement)
        return why.judge(self.files(_project(wanted)), wanted, target)

    # --- adding ----------------------------------------------------------------------------

    def add(
        self,
        source: Path | BinaryIO,
        *,
        filename: str | None = None,
        sha256: str | None = None,
        upload_time: datetime | None = None,
        target: Target | None = None,
        move: bool = False,
    ) -> Entry:
        """Check a wheel or sdist and take it in; the same file again changes nothing.

        ``source`` is a path or an open binary stream (then ``filename`` is needed). ``move``
        takes the file at the path away instead of copying it, also when it is refused.
        ``sha256`` is what the bytes must have. Raises :class:`HashMismatch`,
        :class:`WheelError` for a refused file, :class:`WheelhouseError` when another file of
        this name is here already. Nothing but the message is left of what was refused.
        """
        # Here: an image is built of what was taken in and checked long before.
        from wheelhouse.incoming import checked, take
        from wheelhouse.wheel import WheelError

        name = filename or (source.name if isinstance(source, Path) else "")
        try:
            parse_filename(name)
        except Refused as refused:
            raise WheelError(name or "?", refused.rule, refused.what) from None
        if sha256 is not None and self.has(name, sha256):
            entry = self.entry(name)
            if entry is not None:
                if move and isinstance(source, Path):
                    source.unlink(missing_ok=True)
                return entry
        try:
            with self._stage() as stage:
                staged = stage.folder / name
                digest = take(source, staged, move)
                if sha256 is not None and digest != sha256:
                    raise HashMismatch(name, sha256, digest)
                entry = checked(staged, digest, upload_time, target, self._limits)
                with self._lock():
                    return self._publish(stage, entry)
        except OSError as error:
            raise WheelhouseError(
                bare(name), f"cannot be taken in: {error.strerror or error}"
            ) from None

    def _publish(self, stage: Stage, entry: Entry) -> Entry:
        """Make a checked file visible; the lock is held."""
        noted = self._notes.read(entry.filename)
        known = self._notes.look(noted) if noted is not None else None
        if known is not None:
            if known.sha256 == entry.sha256:
                self._notes.write(stage, known)
                return known
            raise HashMismatch(
                entry.filename,
                known.sha256,
                entry.sha256,
                "another file of this name is in the wheelhouse; remove that one first",
            )
        stage.write_intent(json.dumps({"add": entry.to_bytes().decode()}).encode())
        self._finish_add(stage, entry)
        stage.finished()
        return entry

    def _finish_add(self, stage: Stage, entry: Entry) -> None:
        """Steps that may be repeated: whatever of them was done before is done again."""
        for name in (entry.filename + METADATA_SUFFIX, entry.filename):
            staged = stage.folder / name
            if staged.exists():
                staged.replace(self.folder / name)
        self._notes.write(stage, entry, durable=True)
        sync_folder(self.folder)
        sync_folder(self._notes.path(entry.filename).parent)
        self._write_project(stage, entry.name)

    def write_lock(self, lock: Lock, name: str) -> Path:
        """Write ``pylock.<name>.toml`` beside the files it names; readers see all of it or none.

        Its paths are relative to itself, so it moves and is copied with the wheelhouse.
        Raises :class:`WheelhouseError`.
        """
        path = self.folder / f"pylock.{name}.toml"
        note = self.folder / ".meta" / "locks" / name
        asked = hashlib.sha256(repr(lock).encode()).hexdigest()
        with contextlib.suppress(OSError):
            # The text of a thousand packages takes longer than all else a build has to do then.
            if note.read_text() == _lock_note(asked, path.read_bytes()):
                return path
        data = lock_bytes(lock, path, self.folder)
        try:
            with self._stage() as stage:
                note.parent.mkdir(exist_ok=True)
                stage.publish(path, data, durable=True)
                stage.publish(note, _lock_note(asked, data).encode())
        except OSError as error:
            raise WheelhouseError(str(path), f"cannot be written: {error.strerror}") from None
        return path

    # --- removing --------------------------------------------------------------------------

    def prune(self, keep: Collection[str]) -> tuple[Entry, ...]:
        """Remove every known file whose name is not in ``keep``; what was removed.

        Locks beside the files that name one of these go with them, and so do unfinished
        downloads. Call it within :meth:`alone`, and decide there what to keep.
        """
        with self._stage() as stage, self._lock():
            gone = in_order(entry for entry in self._notes.all() if entry.filename not in keep)
            if gone:
                names = [entry.filename for entry in gone]
                stage.write_intent(json.dumps({"remove": names}).encode())
                self._finish_remove(stage, names)
                stage.finished()
            for path in (self.folder / ".staging" / "partial").glob("*"):
                path.unlink(missing_ok=True)
        return gone

    def _finish_remove(self, stage: Stage, names: list[str]) -> None:
        for project in sorted({parse_filename(name).name for name in names}):
            self._write_project(stage, project, leaving_out=frozenset(names))
        for path in locks_naming(self.folder, names):
            path.unlink(missing_ok=True)
        for name in names:
            for path in (self.folder / name, self.folder / (name + METADATA_SUFFIX)):
                path.unlink(missing_ok=True)
            note = self._notes.path(name)
            note.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                note.parent.rmdir()
        sync_folder(self.folder)

    # --- pages and checks ------------------------------------------------------------------

    def ensure_pages(self) -> None:
        """Write the pages where there are none yet."""
        if not (self.folder / "simple" / "index.json").exists():
            self.write_pages()

    def write_pages(self) -> None:
        """Write every page of the index anew, and remove pages of projects that left."""
        with self._stage() as stage, self._lock():
            for name in sorted({*self._notes.projects(), *self._site.projects()}):
                self._write_project(stage, name, root=False)
            self._site.write_root(stage)

    def _write_project(
        self,
        stage: Stage,
        project: str,
        *,
        leaving_out: frozenset[str] = frozenset(),
        root: bool = True,
    ) -> None:
        entries = in_order(
            entry for _, entry in self._notes.current(project) if entry.filename not in leaving_out
        )
        self._site.write_project(stage, project, entries, root=root)

    def verify(self, on_progress: Progress | None = None) -> tuple[Problem, ...]:
        """Hash every file and compare folder, notes and pages; everything found wrong.

        Changes no file, but what an interrupted process left is settled first.
        """
        self._check_format()
        if self.folder.is_dir():
            with contextlib.suppress(WheelhouseError, OSError), self._stage():
                pass
        return verify(self._notes, self._site, on_progress)

    # --- changes ---------------------------------------------------------------------------

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Hold this while files that are here are still to be read or named: none is removed."""
        return shared(self.folder / ".meta" / "users")

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Hold this to remove files. Raises :class:`InUseError` at once while one is needed."""
        self._check_format()
        return alone(self.folder / ".meta" / "users", bare(str(self.folder)))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with locked(self.folder / ".meta" / "lock"):
            yield

    @contextlib.contextmanager
    def _stage(self) -> Iterator[Stage]:
        """A staging folder; before that, whatever an earlier process left is settled."""
        self._check_format()
        try:
            self._notes.root.mkdir(parents=True, exist_ok=True)
            (self.folder / ".staging").mkdir(exist_ok=True)
            if not self._format_known:
                write_atomically(self.folder / ".meta" / "format", _FORMAT)
        except OSError as error:
            raise WheelhouseError(
                bare(str(self.folder)), f"cannot be created: {error.strerror}"
            ) from None
        with self._lock():
            self._settle()
            stage = open_stage(self.folder / ".staging")
        try:
            yield stage
        finally:
            stage.close()

    def _check_format(self) -> None:
        """Refuse a wheelhouse another version of wain has written in another form."""
        if self._format_known:
            return
        try:
            found = (self.folder / ".meta" / "format").read_bytes()
        except OSError:
            return
        if found != _FORMAT:
            raise WheelhouseError(
                bare(str(self.folder)),
                f"is a wheelhouse of the form {shown(found.decode('ascii', 'replace').strip())}, "
                f"expected {shown(_FORMAT.decode().strip())}",
                "another version of wain made it; use that one, or another folder",
            )
        self._format_known = True

    def _settle(self) -> None:
        """Finish or undo what interrupted processes began; the lock is held."""
        for left in abandoned(self.folder / ".staging"):
            try:
                self._settle_one(left)
            except OSError:
                # A full disk, say: it stays for later, and must not keep anyone from pruning.
                left.keep()
            left.close()

    def _settle_one(self, left: Stage) -> None:
        try:
            intent = json.loads((left.folder / INTENT).read_bytes())
        except (OSError, ValueError):
            return
        if "add" in intent:
            entry = Entry.from_bytes(str(intent["add"]).encode())
            if entry is not None:
                self._finish_add(left, entry)
        elif "remove" in intent:
            self._finish_remove(left, [str(name) for name in intent["remove"]])


def _lock_note(asked: str, data: bytes) -> str:
    """What is noted of a lock: the digest of what it says, and of its bytes."""
    return f"{asked} {hashlib.sha256(data).hexdigest()}\n"


def parse_requirement(requirement: Requirement | str) -> Requirement:
    """A requirement from its text. Raises :class:`UsageError` for what is none."""
    if isinstance(requirement, Requirement):
        return requirement
    try:
        return Requirement(requirement)
    except InvalidRequirement as error:
        raise UsageError(
            shown(requirement), f"is no requirement: {bare(str(error).splitlines()[0])}"
        ) from None


def _project(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)
