"""A strict reader of ZIP archives: one meaning for every byte, or no archive at all.

Readers of ZIP files differ: some walk the local headers, some trust the central directory,
some take the last of two entries. An archive is accepted here only if they all must agree:
local headers and data cover the file from its first byte to the central directory without
gap or overlap, every local header says what its directory entry says, and nothing follows
the end record. Follows APPNOTE 6.3 as far as wheels use it (stored and deflated members,
ZIP64, no encryption).

Everything is read with ``pread`` from one open file: the bytes that were checked are the
bytes of this descriptor, and a file that shrinks meanwhile is a short read.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from wheelhouse.text import shown

_EOCD = struct.Struct("<4s4H2LH")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL_SIZE = 30
# APPNOTE 6.3; readers refuse what says it needs more.
_NEWEST_READER = 63
_EXTRA = struct.Struct("<2H")
MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF
ZIP64, _UNICODE_PATH = 0x0001, 0x7075
_FLAG_DESCRIPTOR, _FLAG_UTF8 = 0x0008, 0x0800
# Bits 1 and 2 say how hard the compressor tried; they change nothing for a reader.
_FLAGS_KNOWN = 0x0006 | _FLAG_UTF8
STORED, _DEFLATED = 0, 8
# Names made of these only, with no dot at the start of a component, need no closer look.
_PLAIN_NAME = re.compile(
    r"(?:[A-Za-z0-9_+\-][A-Za-z0-9_+\-. ]*/)*(?:[A-Za-z0-9_+\-][A-Za-z0-9_+\-. ]*)?"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Refused(Exception):
    """What is wrong with an archive: the rule it breaks and one line of explanation."""

    def __init__(self, rule: str, what: str) -> None:
        self.rule = rule
        self.what = what
        super().__init__(rule, what)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may hold: members, bytes unpacked, and unpacked bytes per byte.

    The ratio counts for the whole archive, and only above ``ratio_floor`` bytes: single
    members of good wheels reach hundreds.
    """

    members: int = 100_000
    total: int = 64 << 30
    ratio: int = 100
    ratio_floor: int = 64 << 20
    directory: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its name, size in bytes, and where its header and data lie in the file.

    ``mode`` is the Unix mode the archive gives, 0 where it gives none.
    """

    name: str
    size: int
    compressed: int
    method: int
    flags: int
    crc: int
    mode: int
    start: int
    end: int
    raw_name: bytes

    @property
    def is_folder(self) -> bool:
        """Whether the name ends in a slash."""
        return self.name.endswith("/")


def read_exactly(handle: int, length: int, offset: int) -> bytes:
    """``length`` bytes at ``offset``; :class:`Refused` when the file ends before."""
    data = os.pread(handle, length, offset)
    while len(data) < length:
        more = os.pread(handle, length - len(data), offset + len(data))
        if not more:
            raise Refused("W6", f"is cut off at byte {offset + len(data)}")
        data += more
    return data


def read_directory(handle: int, limits: Limits) -> list[Member]:
    """The members of the archive open at ``handle``, in the order they lie in the file.

    Checks all framing but the local headers and the data, which :mod:`wheelhouse.zipdata`
    checks when it reads a member. Raises :class:`Refused` (rules W6, W7, W8).
    """
    size = os.fstat(handle).st_size
    count, start, length = _find_directory(handle, size, limits)
    data = read_exactly(handle, length, start)
    entries = list(_entries(data, count, start))
    entries.sort(key=lambda entry: entry.start)
    before = entries[0].start if entries else start
    if before:
        raise Refused("W6", f"{before} bytes stand before the first member")
    members: list[Member] = []
    ends = [*(entry.start for entry in entries[1:]), start]
    for entry, end in zip(entries, ends, strict=False):
        if end < entry.start + _LOCAL_SIZE + len(entry.raw_name) + entry.compressed:
            raise Refused(
                "W8", f"member {shown(entry.name)} overlaps what follows it at byte {end}"
            )
        members.append(_with_end(entry, end))
    _check_amount(members, size, limits)
    return members


def _with_end(entry: Member, end: int) -> Member:
    return Member(
        entry.name, entry.size, entry.compressed, entry.method, entry.flags, entry.crc,
        entry.mode, entry.start, end, entry.raw_name,
    )  # fmt: skip


def _find_directory(handle: int, size: int, limits: Limits) -> tuple[int, int, int]:
    """(entries, start, length) of the central directory."""
    if size == 0:
        raise Refused("W6", "is empty")
    if size < _EOCD.size:
        raise Refused("W6", f"has {size} bytes, too few for a ZIP archive")
    end = size - _EOCD.size
    signature, disk, directory_disk, here, count, length, start, comment = _EOCD.unpack(
        read_exactly(handle, _EOCD.size, end)
    )
    if signature != b"PK\5\6" or comment:
        raise Refused("W6", "does not end with a ZIP end record (cut off, or data follows it)")
    fields = [disk, directory_disk, here, count, length, start]
    if end >= _LOCATOR.size + _EOCD64.size:
        locator = _LOCATOR.unpack(read_exactly(handle, _LOCATOR.size, end - _LOCATOR.size))
        if locator[0] == b"PK\6\7":
            end -= _LOCATOR.size + _EOCD64.size
            fields = _zip64_fields(handle, locator, end, fields)
    disk, directory_disk, here, count, length, start = fields
    if disk or directory_disk or here != count:
        raise Refused("W6", "is one part of an archive on several disks")
    if count > limits.members:
        raise Refused("W8", f"has {count} members, more than {limits.members}")
    if length > limits.directory:
        raise Refused("W8", f"has a directory of {length} bytes, more than {limits.directory}")
    if start + length != end:
        raise Refused(
            "W6", f"the directory ends at byte {start + length}, the end record is at {end}"
        )
    return count, start, length


def _zip64_fields(
    handle: int, locator: tuple[bytes, int, int, int], offset: int, short: list[int]
) -> list[int]:
    _, disk, where, disks = locator
    record = _EOCD64.unpack(read_exactly(handle, _EOCD64.size, offset))
    signature, length, _, _, *fields = record
    if disk or disks > 1 or where != offset or signature != b"PK\6\6" or length != 44:
        raise Refused("W6", "has a ZIP64 end record that contradicts its locator")
    limits = (_MAX16, _MAX16, _MAX16, _MAX16, MAX32, MAX32)
    for old, new, limit in zip(short, fields, limits, strict=True):
        if old not in (limit, new):
            raise Refused("W6", f"has two end records that differ ({old} and {new})")
    return [int(field) for field in fields]


def _entries(data: bytes, count: int, base: int) -> Iterator[Member]:
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(data):
            raise Refused("W6", f"the directory is cut off at byte {base + position}")
        (
            signature, _, needed, flags, method, _, _, crc, compressed, size,
            name_length, extra_length, comment_length, disk, _, attributes, start,
        ) = _CENTRAL.unpack_from(data, position)  # fmt: skip
        if signature != b"PK\1\2":
            raise Refused("W6", f"no directory entry at byte {base + position}")
        position += _CENTRAL.size
        stop = position + name_length + extra_length
        if stop > len(data):
            raise Refused("W6", f"the directory is cut off at byte {base + len(data)}")
        raw = data[position : position + name_length]
        name = _decoded(raw, flags)
        if extra_length or MAX32 in (size, compressed, start):
            extras = extra_fields(data[position + name_length : stop], name, raw)
            size, compressed, start = _zip64(extras, name, [size, compressed, start])
        check_version(name, needed)
        _check_kind(name, flags, method, disk, comment_length)
        problem = name_problem(name, raw)
        if problem is not None:
            raise problem
        position = stop
        yield Member(name, size, compressed, method, flags, crc, attributes >> 16, start, 0, raw)
    if position != len(data):
        raise Refused("W6", f"{len(data) - position} bytes follow the last directory entry")


def _decoded(raw: bytes, flags: int) -> str:
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        pass
    if not flags & _FLAG_UTF8:
        raise Refused("W7", f"member name {shown(raw)} is neither ASCII nor marked as UTF-8")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused("W7", f"member name {shown(raw)} is not UTF-8") from None


def check_version(name: str, needed: int) -> None:
    """Refuse a member that asks for a newer reader than any of wheels has to be."""
    if needed & 0xFF > _NEWEST_READER:
        raise Refused("W6", f"member {shown(name)} needs ZIP version {(needed & 0xFF) / 10}")


def _check_kind(name: str, flags: int, method: int, disk: int, comment: int) -> None:
    if flags & 0x2041:
        raise Refused("W6", f"member {shown(name)} is encrypted")
    if flags & _FLAG_DESCRIPTOR:
        # Its sizes follow the data: a reader of local headers has to guess where that ends.
        raise Refused("W6", f"member {shown(name)} has a data descriptor")
    if flags & ~_FLAGS_KNOWN:
        raise Refused("W6", f"member {shown(name)} has the unknown flags 0x{flags:04x}")
    if method not in (STORED, _DEFLATED):
        raise Refused(
            "W6",
            f"member {shown(name)} is compressed by method {method}, expected stored or deflated",
        )
    if disk:
        raise Refused("W6", f"member {shown(name)} is on another disk")
    if comment:
        raise Refused("W6", f"member {shown(name)} has a comment in the directory")


def extra_fields(data: bytes, name: str, raw: bytes) -> dict[int, bytes]:
    """The extra fields of a header by kind; ``raw`` is the member's name as bytes."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        if position + _EXTRA.size > len(data):
            raise Refused("W6", f"member {shown(name)} has a broken extra field")
        kind, length = _EXTRA.unpack_from(data, position)
        position += _EXTRA.size
        if position + length > len(data):
            raise Refused("W6", f"member {shown(name)} has an extra field longer than its space")
        if kind in found and kind in (ZIP64, _UNICODE_PATH):
            raise Refused("W6", f"member {shown(name)} has the extra field 0x{kind:04x} twice")
        found[kind] = data[position : position + length]
        position += length
    if _UNICODE_PATH in found and found[_UNICODE_PATH][5:] != raw:
        other = shown(found[_UNICODE_PATH][5:].decode("utf-8", "replace"))
        raise Refused("W6", f"member {shown(name)} has the second name {other}")
    return found


def _zip64(extras: dict[int, bytes], name: str, fields: list[int]) -> list[int]:
    """Fill in the fields whose 32 bits are all set from the ZIP64 extra field."""
    data = extras.get(ZIP64)
    wanted = [index for index, value in enumerate(fields) if value == MAX32]
    if data is None:
        if wanted:
            raise Refused("W6", f"member {shown(name)} lacks its ZIP64 sizes")
        return fields
    if len(data) != 8 * len(wanted):
        raise Refused("W6", f"member {shown(name)} has a ZIP64 field of {len(data)} bytes")
    result = list(fields)
    for index, (value,) in zip(wanted, struct.iter_unpack("<Q", data), strict=True):
        result[index] = value
    return result


def name_problem(name: str, raw: bytes) -> Refused | None:
    """What is wrong with a member's name (rules W1 and W7), or None."""
    if len(raw) <= 255 and name and _PLAIN_NAME.fullmatch(name):
        return None
    if not name:
        return Refused("W7", "a member has no name")
    if "\\" in name:
        return Refused("W7", f"member name {shown(name)} holds a backslash")
    if match := _CONTROL.search(name):
        return Refused("W7", f"member name {shown(name)} holds the control character {match[0]!a}")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return Refused("W1", f"member name {shown(name)} is absolute")
    parts = name.removesuffix("/").split("/")
    for part in parts:
        if part in ("", ".", ".."):
            return Refused("W1", f"member name {shown(name)} holds the component {shown(part)}")
        if len(part.encode()) > 255:
            return Refused("W7", f"member name {shown(name, 60)} has a component over 255 bytes")
    if len(raw) > 2048:
        return Refused("W7", f"member name {shown(name, 60)} has {len(raw)} bytes")
    return None


def _check_amount(members: list[Member], size: int, limits: Limits) -> None:
    total = sum(member.size for member in members)
    if total > limits.total:
        raise Refused("W8", f"declares {total} bytes unpacked, more than {limits.total}")
    if total > limits.ratio_floor and total > limits.ratio * size:
        raise Refused(
            "W8",
            f"declares {total} bytes unpacked from {size}, more than {limits.ratio} to 1",
        )
