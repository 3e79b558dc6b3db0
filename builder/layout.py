"""Where the files of packages stand in an image, and who may own which path. Pure.

``lib`` is site-packages, ``scripts`` is ``bin``, ``headers`` go to
``include/site/pythonX.Y/<package>``, ``data`` to the top, as pip does in an environment.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from builder import skeleton
from builder.bytecode import pyc_path
from builder.destination import Row, record_hash
from builder.prune import matcher
from images.errors import WainError
from images.manifest import Entry, folders

_INSTALLER = b"wain\n"

# Keeps an object and gives its sha256 and size.
Put = Callable[[bytes], tuple[str, int]]
# The object of the .pyc of a source with this sha256; None when it does not compile.
Compiled = Callable[[str], tuple[str, int] | None]


class ConflictError(WainError):
    """Two owners for one path. ``owners`` are package names, ``-`` the environment itself."""

    def __init__(self, path: str, owners: tuple[str, str], what: str) -> None:
        self.path = path
        self.owners = owners
        super().__init__(path, what, "leave one out: prune in [image], or drop a package")


_RecordRow = tuple[str, str, str]


class _Placed(NamedTuple):
    """A file of a package: its row in RECORD, its object, its bytecode's path if it gets any."""

    row: _RecordRow
    sha256: str
    bytecode: str


class Layout:
    """The tree of one image as it grows: add packages in the order of their names.

    First every package with `add`, then `check`; when the bytecode is known, `complete` each
    (and `prepare` it before, where there is time).

    ``python`` is the minor version (``3.13t`` for free-threaded), ``prune`` the patterns of
    what is left out; ``compiled`` is None for an image without bytecode.
    """

    def __init__(
        self,
        python: str,
        prune: tuple[str, ...],
        compiled: Compiled | None,
    ) -> None:
        self._python = python
        self._site = f"lib/python{python}/site-packages/"
        self._pruned = matcher(prune)
        self._compiled = compiled
        self._owned: dict[str, Entry] = {}
        self._placed: dict[str, list[_Placed]] = {}
        self._prepared: dict[str, bytes] = {}

    def compiles(self, row: Row) -> bool:
        """Whether this file of a wheel gets bytecode in the image."""
        if self._compiled is None or row.kind != "file" or row.scheme != "lib":
            return False
        if not row.path.endswith(".py"):
            return False
        path = self._site + row.path
        return not self._pruned(path) and not self._pruned(pyc_path(path, self._python))

    def add_skeleton(self, entries: Iterable[Entry]) -> None:
        """The environment's own files; first of all."""
        self._owned.update((entry.path, entry) for entry in entries)

    def add(self, owner: str, dist_info: str, rows: Iterable[Row], direct: bool, put: Put) -> None:
        """A package's files and what an installer adds to them. Raises ConflictError.

        What is not known yet, bytecode and RECORD, owns its path already.
        """
        placed = []
        for row in rows:
            path = self._place(row, owner)
            if self._pruned(path):
                continue
            bytecode = pyc_path(path, self._python) if self.compiles(row) else ""
            entry = Entry(row.kind, row.executable, row.sha256, row.size, owner, path)
            placed.append(_Placed(self._listed(entry), entry.sha256, bytecode))
            self._claim(entry)
            if bytecode:
                # Equal for equal sources, whose bytecode is equal too.
                self._claim(Entry("file", False, f"of {row.sha256}", 0, owner, bytecode))
        written = {"INSTALLER": _INSTALLER} | ({"REQUESTED": b""} if direct else {})
        for name, data in written.items():
            path = f"{self._site}{dist_info}/{name}"
            if not self._pruned(path):
                entry = Entry("file", False, *put(data), owner, path)
                placed.append(_Placed(self._listed(entry), entry.sha256, ""))
                self._claim(entry)
        record = self._record_path(dist_info)
        if not self._pruned(record):
            self._claim(Entry("file", False, f"of {owner}", 0, owner, record))
        self._placed[owner] = placed

    def check(self) -> None:
        """Raises ConflictError for a path that is a file here and a folder there."""
        owned = self._owned
        for path in sorted(folders(owned).intersection(owned)):
            inside = min(other for other in owned if other.startswith(f"{path}/"))
            owners = (owned[path].owner, owned[inside].owner)
            file, folder = map(_who, owners)
            raise ConflictError(path, owners, f"is a file of {file} and a folder of {folder}")

    def prepare(self, owner: str, dist_info: str) -> None:
        """Write a package's RECORD as it is when all its sources compile, as nearly all do.

        Saves time where `complete` is what everybody waits for.
        """
        self._prepared[owner] = self._record(owner, dist_info, frozenset())

    def complete(self, owner: str, dist_info: str, put: Put) -> None:
        """The bytecode and RECORD of a package that was added, once its sources are compiled."""
        missing = set()
        for _, source, path in self._placed[owner]:
            bytecode = self._compiled(source) if self._compiled and path else None
            if bytecode:
                self._replace(Entry("file", False, *bytecode, owner, path))
            elif path:
                self._owned.pop(path, None)
                missing.add(path)
        record = self._record_path(dist_info)
        if not self._pruned(record):
            data = None if missing else self._prepared.get(owner)
            data = data or self._record(owner, dist_info, missing)
            self._replace(Entry("file", False, *put(data), owner, record))

    def _record_path(self, dist_info: str) -> str:
        return f"{self._site}{dist_info}/RECORD"

    def _record(self, owner: str, dist_info: str, missing: Set[str]) -> bytes:
        """RECORD with a row for each bytecode that is not ``missing``."""
        rows = [(self._from_site(self._record_path(dist_info)), "", "")]
        for row, _, path in self._placed[owner]:
            rows.append(row)
            if path and path not in missing:
                rows.append((self._from_site(path), "", ""))
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(sorted(rows))
        return text.getvalue().encode()

    def entries(self) -> Iterable[Entry]:
        """All files of the image."""
        return self._owned.values()

    def _place(self, row: Row, owner: str) -> str:
        if row.scheme == "lib":
            return self._site + row.path
        if row.scheme == "scripts":
            return f"bin/{row.path}"
        if row.scheme == "headers":
            return f"include/site/python{self._python}/{owner}/{row.path}"
        return row.path

    def _listed(self, entry: Entry) -> _RecordRow:
        """A file in RECORD, as the specification of installed projects has it.

        No hash for scripts, whose bytes depend on the prefix, for bytecode, and for RECORD itself.
        """
        path = self._from_site(entry.path)
        if entry.kind != "file" or path.endswith(".pyc"):
            return path, "", ""
        return path, f"sha256={record_hash(entry.sha256)}", str(entry.size)

    def _from_site(self, path: str) -> str:
        """A path as RECORD has it: relative to site-packages."""
        if path.startswith(self._site):
            return path.removeprefix(self._site)
        return "../" * self._site.count("/") + path

    def _replace(self, entry: Entry) -> None:
        """What is known now, unless another package, added earlier, owns the same file."""
        if self._owned[entry.path].owner == entry.owner:
            self._owned[entry.path] = entry

    def _claim(self, entry: Entry) -> None:
        """Own a path, alone or with a package that brings the very same file."""
        other = self._owned.setdefault(entry.path, entry)
        if other.owner == "-" or skeleton.reserved(entry.path, self._python):
            what = f"{entry.owner} would replace a file of the environment itself"
            raise ConflictError(entry.path, (entry.owner, "-"), what)
        if (other.kind, other.executable, other.sha256) != (
            entry.kind,
            entry.executable,
            entry.sha256,
        ):
            what = f"{other.owner} and {entry.owner} both bring this file, with different bytes"
            raise ConflictError(entry.path, (other.owner, entry.owner), what)


def _who(owner: str) -> str:
    return "the environment itself" if owner == "-" else owner
