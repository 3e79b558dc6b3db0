"""A golden image as a text: which files it has, and the object that holds each one's bytes.

Travels to hosts. Pure: bytes in, values out. The rules, in order:

1. Five header lines (``wain-manifest 1``, ``python``, ``abi``, ``platform``, ``skeleton``), an
   empty line, then one line for each entry: ``<kind> <x|-> <sha256> <size> <owner> <path>``.
2. Entries are sorted by path, bytewise in UTF-8; no path comes twice.
3. A path is relative, has no empty, ``.`` or ``..`` part, no control character and no
   backslash; no file or link is used as a folder by another path.
4. Only this one form parses. So equal images have equal bytes, and the sha256 of the bytes is
   the image's identity.
"""

from __future__ import annotations

import gc
import re
from hashlib import sha256
from operator import itemgetter, lt

from images.errors import WainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple

    Key = tuple[str, bool]

    class _Fields(NamedTuple):
        kind: str
        executable: bool
        sha256: str
        size: int
        owner: str
        path: str
else:
    from collections import namedtuple

    _Fields = namedtuple("_Fields", "kind executable sha256 size owner path")

FORMAT = 1
MAX_NAME = 255  # bytes, of one part of a path: what Linux file systems take
MAX_PATH = 1024  # bytes, below the prefix: leaves room for the prefix in PATH_MAX

# Template kinds: the object's bytes are rendered at check-out; see images/render.py.
TEMPLATES = frozenset({"script", "sh", "csh", "fish", "plain", "python"})
KINDS = TEMPLATES | {"file", "link"}

_MAGIC = "wain-manifest"
_HEADER = ("python", "abi", "platform", "skeleton")
_HEADER_RULES = {
    "python": re.compile(r"[0-9]{1,2}\.[0-9]{1,3}"),
    "abi": re.compile(r"[a-z0-9_]{1,40}"),
    "platform": re.compile(r"[a-zA-Z0-9_]{1,80}"),
    "skeleton": re.compile(r"[a-zA-Z0-9_.+-]{1,80}"),
}
_HEX64 = re.compile(r"[0-9a-f]{64}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,14}")
_OWNER = re.compile(r"-|[a-z0-9]+(?:-[a-z0-9]+)*")
_UNSAFE_CHARACTER = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\\\\\ud800-\\udfff]")
_NO_NAMES = frozenset({"", ".", ".."})


class ManifestError(WainError):
    """Bytes that are no manifest. ``line`` counts from 1."""

    def __init__(self, where: str, line: int, what: str, hint: str = "") -> None:
        self.line = line
        super().__init__(f"{where}, line {line}" if line else where, what, hint)


class Entry(_Fields):
    """One file of an image.

    kind: ``file``, a template kind or ``link``. sha256 and size are the object's, which for a
    template is the text before rendering and for a link its target. executable is the mode of
    the file that stands in the tree. owner is a normalised package name, or ``-`` for what
    belongs to the environment itself.
    """

    __slots__ = ()

    @property
    def key(self) -> Key:
        """The object that holds the bytes: templates and links are never stored executable."""
        return (self.sha256, self.executable and self.kind == "file")

    @property
    def line(self) -> str:
        """This entry as its manifest line, without the end of line."""
        flag = "x" if self.executable else "-"
        return f"{self.kind} {flag} {self.sha256} {self.size} {self.owner} {self.path}"


def path_problem(path: str) -> str:
    """Why a path may not stand in an image; empty when it may."""
    if not path:
        return "an empty path"
    if path[0] == "/":
        return "an absolute path"
    if _UNSAFE_CHARACTER.search(path):
        return "a control character or a backslash in a path"
    for part in path.split("/"):
        if not part:
            return "an empty part in a path"
        if part in (".", ".."):
            return f"the part '{part}' in a path"
        if len(part) > MAX_NAME // 4 and len(part.encode()) > MAX_NAME:
            return f"a name of more than {MAX_NAME} bytes"
    if len(path) > MAX_PATH // 4 and len(path.encode()) > MAX_PATH:
        return f"a path of more than {MAX_PATH} bytes"
    return ""


class Manifest:
    """A target, the release of its skeleton, and the entries, sorted by path. Immutable.

    Building one sorts the entries and checks them by the same rules as parsing; a broken rule
    raises ManifestError.
    """

    __slots__ = ("_data", "_id", "_objects", "abi", "entries", "platform", "python", "skeleton")

    python: str
    abi: str
    platform: str
    skeleton: str
    entries: tuple[Entry, ...]
    _data: bytes | None
    _id: str | None
    _objects: dict[Key, int] | None

    def __init__(
        self, python: str, abi: str, platform: str, skeleton: str, entries: Iterable[Entry]
    ) -> None:
        header = (python, abi, platform, skeleton)
        # Lone surrogates pass here and are named by the parser as what they are.
        data = _text(header, sorted(entries, key=_path_of)).encode("utf-8", "surrogatepass")
        self._fill(data, "manifest")

    @classmethod
    def parse(cls, data: bytes, where: str = "manifest") -> Manifest:
        """Read canonical bytes; anything else raises ManifestError with the line."""
        manifest = cls.__new__(cls)
        collecting = gc.isenabled()
        # Thousands of tuples that all live on, looked through again and again.
        gc.disable()
        try:
            manifest._fill(data, where)
        finally:
            if collecting:
                gc.enable()
        return manifest

    def part(self, entries: Iterable[Entry]) -> Manifest:
        """The image of only these entries, which must be entries of this one."""
        part = Manifest.__new__(Manifest)
        part.python, part.abi = self.python, self.abi
        part.platform, part.skeleton = self.platform, self.skeleton
        # Some of what keeps the rules keeps them too, so nothing is checked again.
        part.entries = tuple(sorted(entries, key=_path_of))
        part._data = part._id = part._objects = None
        return part

    def _fill(self, data: bytes, where: str) -> None:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ManifestError(where, line, "bytes that are not UTF-8") from None
        head, separator, body = text.partition("\n\n")
        values = _header(where, head.split("\n"))
        if not separator:
            raise ManifestError(where, head.count("\n") + 2, "cut short: no empty line found")
        self.python, self.abi, self.platform, self.skeleton = values
        self.entries = _entries(where, body, head.count("\n") + 3)
        self._data = data
        self._id = self._objects = None

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        if self._data is None:
            header = (self.python, self.abi, self.platform, self.skeleton)
            self._data = _text(header, self.entries).encode()
        return self._data

    @property
    def image_id(self) -> str:
        """sha256 of the canonical bytes, 64 hex digits."""
        if self._id is None:
            self._id = sha256(self.to_bytes()).hexdigest()
        return self._id

    def sizes(self) -> dict[Key, int]:
        """Every object the image needs, once, as the paths need them, with its size in bytes."""
        return {
            (digest, executable and kind == "file"): size
            for kind, executable, digest, size, _, _ in self.entries
        }

    def objects(self) -> dict[Key, int]:
        """Every object the image needs, once, sorted by key, with its size in bytes.

        Worked out once: not to be changed.
        """
        if self._objects is None:
            sizes = self.sizes()
            # As sorting the pairs does, in half the time.
            keys = sorted(sizes, key=itemgetter(1))
            keys.sort(key=itemgetter(0))
            self._objects = {key: sizes[key] for key in keys}
        return self._objects

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def __repr__(self) -> str:
        return f"<Manifest {self.image_id[:12]} {len(self.entries)} entries>"


def sizes_in(data: bytes) -> dict[Key, int]:
    """``Manifest.parse(data).sizes()`` in a third of the time, checking nothing.

    For canonical bytes, such as those a store has kept.
    """
    found: dict[Key, int] = {}
    for line in data.decode().partition("\n\n")[2].split("\n")[:-1]:
        kind, flag, digest, size, _ = line.split(" ", 4)
        found[digest, flag == "x" and kind == "file"] = int(size)
    return found


def _text(header: Iterable[str], entries: Iterable[Entry]) -> str:
    lines = [f"{_MAGIC} {FORMAT}"]
    lines += [f"{name} {value}" for name, value in zip(_HEADER, header)]
    lines.append("")
    # As Entry.line has them, in half the time.
    lines += [
        f"{kind} {'x' if executable else '-'} {digest} {size} {owner} {path}"
        for kind, executable, digest, size, owner, path in entries
    ]
    lines.append("")
    return "\n".join(lines)


def _path_of(entry: Entry) -> str:
    # Code point order of str is byte order of UTF-8.
    return entry[5]


def _header(where: str, lines: list[str]) -> list[str]:
    magic, _, number = lines[0].partition(" ")
    if magic != _MAGIC or not number.isdecimal() or not number.isascii():
        raise ManifestError(where, 1, "this is no manifest")
    if number != str(FORMAT):
        raise ManifestError(
            where, 1, f"format {number[:20]} found, this wain reads format {FORMAT}",
            "use the release of wain that wrote it",
        )  # fmt: skip
    values = []
    for at, name in enumerate(_HEADER, 1):
        key, _, value = (lines[at] if at < len(lines) else "").partition(" ")
        if key != name or not _HEADER_RULES[name].fullmatch(value):
            raise ManifestError(where, at + 1, f"expected '{name}' and its value")
        values.append(value)
    if len(lines) != len(_HEADER) + 1:
        raise ManifestError(where, len(_HEADER) + 2, "expected an empty line")
    return values


def _entries(where: str, body: str, first: int) -> tuple[Entry, ...]:
    if not body:
        return ()
    lines = body.split("\n")
    if lines.pop():
        raise ManifestError(where, first + len(lines), "cut short: no end of line")
    rows = [line.split(" ", 5) for line in lines]
    if not _all_clean(body, rows):
        for at, line in enumerate(lines):
            problem = _line_problem(line)
            if problem:
                raise ManifestError(where, first + at, problem)
    kinds, flags, hashes, sizes, owners, paths = zip(*rows)
    _check_order(where, paths, first)
    executable = [flag == "x" for flag in flags]
    make = tuple.__new__
    return tuple(
        [
            make(Entry, fields)
            for fields in zip(kinds, executable, hashes, map(int, sizes), owners, paths)
        ]
    )


def _all_clean(body: str, rows: list[list[str]]) -> bool:
    """Whether every line is right, a column at a time; False means: look at each line.

    The same rules as _line_problem, several times faster for the thousands of good lines.
    """
    if not body.isascii() or "\\" in body or set(map(len, rows)) != {6}:
        return False
    kinds, flags, hashes, sizes, owners, paths = zip(*rows)
    digests = "".join(hashes)
    names = "".join(paths)
    try:
        numbers = list(map(int, sizes))
        # Reading and writing back what is not canonical gives another text.
        if bytes.fromhex(digests).hex() != digests or list(map(str, numbers)) != list(sizes):
            return False
    except ValueError:
        return False
    return (
        KINDS.issuperset(kinds)
        and {"x", "-"}.issuperset(flags)
        and ("link", "x") not in set(zip(kinds, flags))
        and set(map(len, hashes)) == {64}
        and min(numbers) >= 0
        and max(numbers) < 10**15
        and all(map(_OWNER.fullmatch, set(owners)))
        and max(map(len, paths)) <= MAX_NAME
        and names.isprintable()
        and _all_named(paths)
    )


def _all_named(paths: Iterable[str]) -> bool:
    """Whether all parts of all paths are names; each folder is looked at once."""
    level = paths
    seen: set[str] = set()
    while level:
        split = [path.rpartition("/") for path in level]
        if not _NO_NAMES.isdisjoint({name for _, _, name in split}):
            return False
        # Of "/x", unlike of "x", the part before the last slash is empty.
        if any(slash and not folder for folder, slash, _ in split):
            return False
        level = {folder for folder, _, _ in split} - seen
        level.discard("")
        seen |= level
    return True


def _line_problem(line: str) -> str:
    fields = line.split(" ", 5)
    if len(fields) != 6:
        return f"expected 6 fields, found {len(fields)}"
    kind, flag, digest, size, owner, path = fields
    if kind not in KINDS:
        return f"unknown kind {kind[:20]!a}"
    if flag not in ("x", "-") or (kind == "link" and flag != "-"):
        return f"expected 'x' or '-' as the mode, and '-' for a link, found {flag[:20]!a}"
    if not _HEX64.fullmatch(digest):
        return "expected 64 hex digits as the sha256"
    if not _SIZE.fullmatch(size):
        return f"expected a size, found {size[:20]!a}"
    if not _OWNER.fullmatch(owner):
        return f"expected a normalised package name or '-', found {owner[:40]!a}"
    problem = path_problem(path)
    return f"{problem}: {path[:200]!a}" if problem else ""


def _check_order(where: str, paths: tuple[str, ...], first: int) -> None:
    """Ascending without a duplicate, and no entry below another entry."""
    if not all(map(lt, paths, paths[1:])):
        for at in range(1, len(paths)):
            if paths[at - 1] >= paths[at]:
                word = "twice" if paths[at - 1] == paths[at] else "out of order"
                raise ManifestError(where, first + at, f"a path {word}: {paths[at]!a}")
    clash = folders(paths).intersection(paths)
    if clash:
        path = min(clash)
        raise ManifestError(
            where, first + paths.index(path), f"a file that is also a folder: {path!a}"
        )


def folders(paths: Iterable[str]) -> set[str]:
    """All folders that lead to these paths, the root itself excluded."""
    found = {path.rpartition("/")[0] for path in paths}
    level = found
    while level:
        level = {folder.rpartition("/")[0] for folder in level} - found
        found = found | level
    found.discard("")
    return found
