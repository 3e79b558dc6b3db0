"""The wheelhouse's memory of its files: one small JSON file each, so nothing is hashed twice."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from wheelhouse.entry import Entry, parse_filename
from wheelhouse.staging import Stage
from wheelhouse.wheel import file_sha256
from wheelhouse.zipcheck import Refused

_SUFFIX = ".json"


class Notes:
    """The notes under ``<folder>/.meta/files`` about the files in ``folder``.

    One folder a project, so that a project's files are found without reading the others'.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / ".meta" / "files"

    def path(self, filename: str) -> Path:
        """Where the note of a file lies. Raises :class:`Refused` for no wheel's or sdist's name."""
        return self.root / parse_filename(filename).name / (filename + _SUFFIX)

    def read(self, filename: str) -> Entry | None:
        """What was noted of a file, None without a readable note."""
        try:
            entry = Entry.from_bytes(self.path(filename).read_bytes())
        except (OSError, Refused):
            return None
        return entry if entry is not None and entry.filename == filename else None

    def write(self, stage: Stage, entry: Entry, *, durable: bool = False) -> None:
        """Note a file, in one step."""
        path = self.path(entry.filename)
        path.parent.mkdir(parents=True, exist_ok=True)
        stage.publish(path, entry.to_bytes(), durable=durable)

    def look(self, noted: Entry) -> Entry | None:
        """The entry as the file is now; None when the file is gone or has other bytes.

        A file that looks like the noted one is taken for it. One that looks different (a
        copied wheelhouse) is hashed.
        """
        path = self.folder / noted.filename
        try:
            if noted.describes(path.stat()):
                return noted
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size != noted.size:
                return None
            return noted.of_file(status) if file_sha256(handle) == noted.sha256 else None
        except OSError:
            return None
        finally:
            os.close(handle)

    def projects(self) -> list[str]:
        """The normalised names of the projects with notes, sorted."""
        try:
            return sorted(os.listdir(self.root))  # noqa: PTH208
        except FileNotFoundError:
            return []

    def all(self, project: str | None = None) -> Iterator[Entry]:
        """Every note, or those of one project, whether the file is still there or not."""
        for name in self.projects() if project is None else [project]:
            try:
                filenames = os.listdir(self.root / name)  # noqa: PTH208
            except (FileNotFoundError, NotADirectoryError):
                continue
            for filename in filenames:
                if filename.endswith(_SUFFIX):
                    entry = self.read(filename.removesuffix(_SUFFIX))
                    if entry is not None:
                        yield entry

    def current(self, project: str | None = None) -> Iterator[tuple[Entry, Entry]]:
        """What was noted of every intact file, and how the file is now."""
        for noted in self.all(project):
            entry = self.look(noted)
            if entry is not None:
                yield noted, entry
