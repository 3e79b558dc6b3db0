"""Checking a wheel before it enters the wheelhouse (rules W1 to W10 and W13).

Stricter than any installer alone, because later steps trust what is in the wheelhouse: they
need not guard against paths, links or hashes again. Follows the binary distribution format
(PEP 427 and its successors), the RECORD and entry point specifications.
"""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from packaging.tags import Tag
from packaging.utils import BuildTag, NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

from wheelhouse.entry import parse_filename
from wheelhouse.errors import WheelhouseError
from wheelhouse.layout import check_layout
from wheelhouse.metadata import (
    Metadata,
    WheelFile,
    parse_entry_points,
    parse_metadata,
    parse_wheel_file,
)
from wheelhouse.record import Row, encoded, match_record, parse_record
from wheelhouse.target import Target
from wheelhouse.text import bare, shown
from wheelhouse.zipcheck import Limits, Member, Refused, read_directory
from wheelhouse.zipdata import contents, read_member

_METADATA_LIMIT = 32 << 20
_BATCH = 2 << 20
_BLOCK = 1 << 20


class WheelError(WheelhouseError):
    """A wheel or sdist that is refused: ``file``, the ``rule`` it breaks, the ``value`` found."""

    def __init__(self, file: str | os.PathLike[str], rule: str, value: str) -> None:
        self.file = Path(file).name
        self.rule = rule
        self.value = value
        super().__init__(bare(self.file), f"{rule}: {value}")


@dataclass(frozen=True, slots=True)
class WheelMember:
    """One file of a wheel: its path in the archive, size, sha256 (hex) and executable bit."""

    name: str
    size: int
    sha256: str
    executable: bool


@dataclass(frozen=True, slots=True)
class WheelInfo:
    """A wheel that was found good.

    ``name`` is normalised, ``sha256`` is of the file, ``size`` in bytes, ``metadata`` the
    exact bytes of METADATA, ``scripts`` the names its entry points make in ``bin``.
    """

    filename: str
    name: NormalizedName
    version: Version
    build: BuildTag
    tags: frozenset[Tag]
    sha256: str
    size: int
    metadata: bytes = field(repr=False)
    requires_python: str | None
    requires_dist: tuple[str, ...]
    members: tuple[WheelMember, ...] = field(repr=False)
    scripts: tuple[str, ...]
    kind: str = "wheel"


def check_wheel(
    path: Path,
    *,
    target: Target | None = None,
    sha256: str | None = None,
    limits: Limits | None = None,
    threads: int | None = None,
) -> WheelInfo:
    """Check everything about the wheel at ``path`` and say what is in it.

    With ``target`` the wheel must also fit it (W13). ``sha256`` is the file's digest where
    the caller has computed it just now. Nothing is written. Raises :class:`WheelError`
    naming the file, the rule and the value found.
    """
    try:
        parsed = parse_filename(path.name)
        if parsed.kind != "wheel":
            raise Refused("W9", f"file name {shown(path.name)} is no wheel's")
        name, version, build, tags = parsed.name, parsed.version, parsed.build, parsed.tags
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise Refused("W6", f"cannot be opened: {error.strerror}") from None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise Refused("W6", "is not a regular file")
            members = read_directory(handle, limits or Limits())
            if target is not None and target.rank(tags) is None:
                raise _wrong_target(tags, target)
            dist_info = _dist_info(members, name, version)
            parts = _DistInfo.read(handle, members, dist_info)
            _agree(parts, name, version, build, tags)
            check_layout(members, dist_info, parts.scripts)
            workers = threads or min(4, os.cpu_count() or 1)
            with ThreadPoolExecutor(workers) as pool:
                whole = pool.submit(file_sha256, handle) if sha256 is None else None
                files = _hashed(handle, members, parts.rows, pool)
                digest = sha256 or (whole.result() if whole else "")
        finally:
            os.close(handle)
    except Refused as refused:
        raise WheelError(path, refused.rule, refused.what) from None
    except OSError as error:
        raise WheelError(path, "W6", f"cannot be read: {error.strerror}") from None
    return WheelInfo(
        filename=path.name,
        name=name,
        version=version,
        build=build,
        tags=tags,
        sha256=digest,
        size=status.st_size,
        metadata=parts.metadata_bytes,
        requires_python=parts.metadata.requires_python,
        requires_dist=parts.metadata.requires_dist,
        members=files,
        scripts=parts.scripts,
    )


def file_sha256(handle: int) -> str:
    """The sha256 of an open file from its first byte, without moving its position."""
    digest = hashlib.sha256()
    position = 0
    while block := os.pread(handle, _BLOCK, position):
        digest.update(block)
        position += len(block)
    return digest.hexdigest()


def _wrong_target(tags: frozenset[Tag], target: Target) -> Refused:
    best = target.tags()[0]
    return Refused(
        "W13",
        f"is for {', '.join(sorted(map(str, tags)))}; target {target.name} takes {best} and older",
    )


# --- .dist-info ----------------------------------------------------------------------------


def _dist_info(members: list[Member], name: NormalizedName, version: Version) -> str:
    """The name of the one ``.dist-info`` folder, which must be this project's."""
    folders = sorted(
        {
            top
            for member in members
            for top, slash, _ in [member.name.partition("/")]
            if slash and top.lower().endswith(".dist-info")
        }
    )
    if len(folders) != 1:
        found = ", ".join(map(shown, folders)) or "none"
        raise Refused("W9", f"has {len(folders)} .dist-info folders ({found}), expected one")
    folder = folders[0]
    stem = folder.removesuffix(".dist-info")
    found_name, _, found_version = stem.rpartition("-")
    try:
        same = canonicalize_name(found_name) == name and Version(found_version) == version
    except InvalidVersion:
        same = False
    if not same or not folder.endswith(".dist-info"):
        raise Refused("W9", f"the file name says {name} {version}, the folder is {shown(folder)}")
    return folder


@dataclass(frozen=True, slots=True)
class _DistInfo:
    metadata_bytes: bytes
    metadata: Metadata
    wheel: WheelFile
    rows: dict[str, Row]
    scripts: tuple[str, ...]

    @classmethod
    def read(cls, handle: int, members: list[Member], folder: str) -> _DistInfo:
        """Read what decides how a wheel is installed, and match RECORD with the members."""
        by_name: dict[str, Member] = {}
        for member in members:
            if member.name in by_name:
                raise Refused("W5", f"member {shown(member.name)} is there twice")
            by_name[member.name] = member

        def get(name: str, rule: str) -> bytes:
            member = by_name.get(f"{folder}/{name}")
            if member is None:
                raise Refused(rule, f"has no {folder}/{name}")
            return read_member(handle, member, _METADATA_LIMIT)

        record = f"{folder}/RECORD"
        rows = match_record(members, parse_record(get("RECORD", "W4"), record), record)
        metadata = get("METADATA", "W9")
        points = f"{folder}/entry_points.txt"
        return cls(
            metadata_bytes=metadata,
            metadata=parse_metadata(metadata),
            wheel=parse_wheel_file(get("WHEEL", "W9")),
            rows=rows,
            scripts=parse_entry_points(get("entry_points.txt", "W10")) if points in by_name else (),
        )


def _agree(
    parts: _DistInfo, name: NormalizedName, version: Version, build: BuildTag, tags: frozenset[Tag]
) -> None:
    """The file name, METADATA and WHEEL must tell one story."""
    metadata = parts.metadata
    if canonicalize_name(metadata.name) != name:
        raise Refused("W9", f"the file name says {name}, METADATA {shown(metadata.name)}")
    if metadata.version != version:
        raise Refused("W9", f"the file name says version {version}, METADATA {metadata.version}")
    if parts.wheel.tags != tags:
        raise Refused(
            "W13",
            f"tags differ: only the file name has {_tag_list(tags - parts.wheel.tags)}, only "
            f"WHEEL has {_tag_list(parts.wheel.tags - tags)}",
        )
    written = parts.wheel.build
    if written is not None and written != "".join(map(str, build)):
        raise Refused(
            "W9",
            f"the file name has build tag {shown(''.join(map(str, build)))}, WHEEL "
            f"{shown(written)}",
        )


def _tag_list(tags: frozenset[Tag]) -> str:
    names = sorted(map(str, tags))
    shown_names = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return shown_names or "nothing"


# --- hashes --------------------------------------------------------------------------------


def _hashed(
    handle: int, members: list[Member], rows: dict[str, Row], pool: ThreadPoolExecutor
) -> tuple[WheelMember, ...]:
    """Unpack every member once, in threads, and compare its hash with RECORD's."""
    batches: list[list[Member]] = [[]]
    load = 0
    for member in members:
        batches[-1].append(member)
        load += member.size + 4096
        if load >= _BATCH:
            batches.append([])
            load = 0
    futures = [pool.submit(_hash_batch, handle, batch, rows) for batch in batches if batch]
    try:
        return tuple(found for future in futures for found in future.result())
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _hash_batch(handle: int, batch: list[Member], rows: dict[str, Row]) -> list[WheelMember]:
    found = []
    for member in batch:
        row = rows.get(member.name)
        digest = hashlib.sha256()
        if row is None or row.algorithm == "sha256":
            other = digest
            contents(handle, member, digest.update)
        else:
            other = hashlib.new(row.algorithm)
            parts: list[bytes] = []
            contents(handle, member, parts.append)
            for part in parts:
                digest.update(part)
                other.update(part)
        if row is not None and other.digest() != row.digest:
            raise Refused(
                "W4",
                f"member {shown(member.name)} has {row.algorithm} {encoded(row.digest)} in RECORD, "
                f"its content has {encoded(other.digest())}",
            )
        if not member.is_folder:
            found.append(
                WheelMember(member.name, member.size, digest.hexdigest(), bool(member.mode & 0o111))
            )
    return found
