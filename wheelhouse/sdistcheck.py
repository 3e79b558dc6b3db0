"""Checking an sdist before anything unpacks it (rule W11).

Only a gzipped tar whose members are files, folders and inward links under one top folder,
each at one path, is an sdist here. Nothing is written: the archive is walked once, with a cap
on what it may unpack to. Follows the source distribution format and what PEP 706 asks of a
reader, and stricter: a link may not pass through another.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from wheelhouse.entry import parse_filename
from wheelhouse.metadata import Metadata, parse_metadata
from wheelhouse.text import bare, shown
from wheelhouse.wheel import WheelError
from wheelhouse.zipcheck import Limits, Refused, name_problem

_METADATA_LIMIT = 32 << 20
_BLOCK = 1 << 20
# Two blocks of zeros end a tar.
_END_MARK = 1024
# Members that describe the next one; their bytes are read into memory at once.
_HEADERS = frozenset(b"xgXLK"[i : i + 1] for i in range(5))
_HEADER_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class SdistInfo:
    """An sdist that was found good; ``top`` is the one folder everything lies in."""

    filename: str
    name: NormalizedName
    version: Version
    size: int
    top: str
    requires_python: str | None
    metadata: bytes = field(repr=False)
    kind: str = "sdist"


def check_sdist(path: Path, *, limits: Limits | None = None) -> SdistInfo:
    """Check the sdist at ``path`` and say what it is. Raises :class:`WheelError` (W11, W9)."""
    try:
        name = parse_filename(path.name)
        if name.kind != "sdist" or not path.name.endswith(".tar.gz"):
            raise Refused("W11", "is no .tar.gz, the one format of sdists")
        top, data = _walk(path, limits or Limits())
        if data is None:
            raise Refused("W9", f"has no {shown(top + '/PKG-INFO')}")
        metadata = parse_metadata(data, "PKG-INFO")
        _agree(metadata, name.name, name.version)
        size = path.stat().st_size
    except Refused as refused:
        raise WheelError(path, refused.rule, refused.what) from None
    except OSError as error:
        raise WheelError(path, "W11", f"cannot be read: {error.strerror or error}") from None
    return SdistInfo(
        filename=path.name,
        name=name.name,
        version=name.version,
        size=size,
        top=top,
        requires_python=metadata.requires_python,
        metadata=data,
    )


def _agree(metadata: Metadata, name: NormalizedName, version: Version) -> None:
    if canonicalize_name(metadata.name) != name:
        raise Refused("W9", f"the file name says {name}, PKG-INFO {shown(metadata.name)}")
    if metadata.version != version:
        raise Refused("W9", f"the file name says version {version}, PKG-INFO {metadata.version}")


class _Unpacked:
    """The unpacked tar, no more of it than the caps allow.

    One gzip stream and nothing after it: readers differ in what they make of a second one.
    ``last`` is where the last byte that is not zero ends.
    """

    def __init__(self, raw: BinaryIO, limits: Limits) -> None:
        self._raw = raw
        self._packed = os.fstat(raw.fileno()).st_size
        self._limits = limits
        self._stream = zlib.decompressobj(31)
        self._ready = b""
        self.count = 0
        self.last = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at the end."""
        parts = [self._ready]
        have = len(self._ready)
        while have < size:
            piece = self._more()
            if not piece:
                break
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self._ready = data[size:]
        return data[:size]

    def _more(self) -> bytes:
        while not self._stream.eof:
            packed = self._stream.unconsumed_tail or self._raw.read(_BLOCK)
            if not packed:
                raise Refused("W11", "is damaged: the gzip stream is cut off")
            data = self._stream.decompress(packed, _BLOCK)
            if data:
                self._take(data)
                return data
        if self._stream.unused_data or self._raw.read(1):
            raise Refused("W11", "is damaged: data follows the gzip stream")
        return b""

    def _take(self, data: bytes) -> None:
        stripped = len(data.rstrip(b"\0"))
        if stripped:
            self.last = self.count + stripped
        self.count += len(data)
        limits = self._limits
        if self.count > limits.total or (
            self.count > limits.ratio_floor and self.count > limits.ratio * self._packed
        ):
            raise Refused("W8", f"unpacks {self._packed} bytes to more than {self.count}")


class _Member(tarfile.TarInfo):
    """A member whose extended headers are short."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > _HEADER_LIMIT:
            raise Refused("W8", f"has a header of {self.size} bytes, at most {_HEADER_LIMIT}")
        done: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return done


def _walk(path: Path, limits: Limits) -> tuple[str, bytes | None]:
    """The top folder and the bytes of PKG-INFO, after a look at every member."""
    tree = _Tree()
    found: bytes | None = None
    with path.open("rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            raise Refused("W11", "is not compressed by gzip")
        _refuse_zip(raw)
        unpacked = _Unpacked(raw, limits)
        try:
            with tarfile.open(  # type: ignore[call-overload]
                fileobj=unpacked, mode="r|", errorlevel=2, tarinfo=_Member
            ) as archive:
                for member in archive:
                    if len(tree.kinds) >= limits.members:
                        raise Refused("W8", f"has more than {limits.members} members")
                    if tree.take(member) == f"{tree.top}/PKG-INFO" and member.isreg():
                        found = _read(archive, member)
                end = archive.offset
            while unpacked.read(_BLOCK):
                pass
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise Refused("W11", f"is damaged: {bare(str(error))}") from None
    # tarfile takes a broken header after the first member for the end.
    if unpacked.last > end or unpacked.count < end + _END_MARK:
        raise Refused("W11", f"is damaged: the tar does not end at byte {end}")
    tree.check_links()
    if not tree.top:
        raise Refused("W11", "holds nothing")
    return tree.top, found


def _refuse_zip(raw: BinaryIO) -> None:
    """A file that is a tar to one reader and a ZIP to another is neither here."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(max(0, size - 22 - 0xFFFF))
    tail = raw.read()
    raw.seek(0)
    position = tail.find(b"PK\5\6")
    while position >= 0:
        if position + 22 <= len(tail):
            comment = int.from_bytes(tail[position + 20 : position + 22], "little")
            if position + 22 + comment == len(tail):
                raise Refused("W11", "is a ZIP archive as well")
        position = tail.find(b"PK\5\6", position + 1)


class _Tree:
    """The paths an sdist would make, checked one by one as they come."""

    def __init__(self) -> None:
        self.top = ""
        self.kinds: dict[str, str] = {}
        self._links: dict[str, str] = {}

    def take(self, member: tarfile.TarInfo) -> str:
        """Check one member; its path, "" for the archive's root."""
        name = member.name.removeprefix("./")
        if name in ("", ".") and member.isdir():
            return ""
        _check_name(name)
        self._check_kind(member, name)
        self._check_place(name, member.isdir())
        self.kinds[name] = "folder" if member.isdir() else "link" if member.issym() else "file"
        return name

    def _check_kind(self, member: tarfile.TarInfo, name: str) -> None:
        if member.issym():
            self._links[name] = member.linkname
        elif member.islnk():
            target = member.linkname.removeprefix("./")
            if self.kinds.get(target) != "file":
                raise Refused(
                    "W11", f"member {shown(name)} is a {_kind(member)}, no file before it"
                )
        elif not (member.isreg() or member.isdir()):
            raise Refused("W11", f"member {shown(name)} is a {_kind(member)}, expected a file")
        if member.issparse() or "size" in member.pax_headers:
            # A size of its own in the extended header is for files over 8 GiB, which no
            # sdist holds; for smaller ones two readers may see two archives.
            raise Refused("W11", f"member {shown(name)} has a second size in its header")
        if member.mode & 0o6000 and not member.isdir():
            raise Refused("W11", f"member {shown(name)} has a set-id bit")

    def _check_place(self, name: str, is_folder: bool) -> None:
        top = name.partition("/")[0]
        self.top = self.top or top
        if top != self.top:
            raise Refused("W11", f"member {shown(name)} lies outside the folder {shown(self.top)}")
        if top == name and not is_folder:
            raise Refused("W11", f"member {shown(name)} lies outside any folder")
        known = self.kinds.get(name)
        if known is not None and not (known == "folder" and is_folder):
            raise Refused("W11", f"member {shown(name)} is there twice")
        parent = name
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            kind = self.kinds.get(parent)
            if kind not in (None, "folder"):
                raise Refused("W11", f"member {shown(name)} lies under the {kind} {shown(parent)}")
            self.kinds.setdefault(parent, "folder")

    def check_links(self) -> None:
        """Symbolic links must stay inside, and lead there without passing another link.

        Only leading ``..`` are allowed in a target: after another component they may mean
        something else than they say, when that component is a link.
        """
        for name, target in self._links.items():
            what = f"member {shown(name)} is a symbolic link to {shown(target)}"
            parts = target.split("/")
            ups = 0
            while ups < len(parts) and parts[ups] == "..":
                ups += 1
            folder = name.split("/")[:-1]
            rest = [part for part in parts[ups:] if part not in ("", ".")]
            if target.startswith("/") or ups >= len(folder) or ".." in rest or not target:
                raise Refused("W11", f"{what}, which may lead outside")
            path = folder[: len(folder) - ups]
            for part in rest[:-1]:
                path.append(part)
                if self.kinds.get("/".join(path)) == "link":
                    raise Refused("W11", f"{what}, which passes another link")


def _check_name(name: str) -> None:
    try:
        problem = name_problem(name, name.encode())
    except UnicodeEncodeError:
        raise Refused("W11", f"member name {shown(name)} is not UTF-8") from None
    if problem is not None:
        raise Refused("W11", problem.what)


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym():
        return f"symbolic link to {shown(member.linkname)}"
    if member.islnk():
        return f"hard link to {shown(member.linkname)}"
    if member.isfifo():
        return "named pipe"
    if member.isdev():
        return "device"
    return f"member of the kind {shown(member.type.decode('latin-1'))}"


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _METADATA_LIMIT:
        raise Refused("W8", f"PKG-INFO has {member.size} bytes, more than {_METADATA_LIMIT}")
    stream = archive.extractfile(member)
    return stream.read() if stream is not None else b""
