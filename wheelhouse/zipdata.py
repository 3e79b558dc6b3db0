"""Reading members of a ZIP archive, each checked against all its headers declare.

The second half of :mod:`wheelhouse.zipcheck`: local header, compressed stream,
length and CRC. Nothing is ever unpacked beyond the declared size.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator

from wheelhouse.text import shown
from wheelhouse.zipcheck import (
    MAX32,
    STORED,
    ZIP64,
    Member,
    Refused,
    check_version,
    extra_fields,
    read_exactly,
)

_LOCAL = struct.Struct("<4s5H3L2H")
_CHUNK = 1 << 20


def contents(handle: int, member: Member, sink: Callable[[bytes], object]) -> None:
    """Hand a member's bytes to ``sink`` piece by piece, never more than it declares.

    Checks its local header, the compressed stream, its length and its CRC on the way.
    Raises :class:`Refused`; what went to ``sink`` before is then worthless.
    """
    length = member.end - member.start
    small = length <= 4 * _CHUNK
    if small:
        head = read_exactly(handle, length, member.start)
    else:
        head = os.pread(handle, _LOCAL.size + 2 * 0xFFFF, member.start)
    data_start = _check_local(head, member)
    gap = length - data_start - member.compressed
    if gap:
        what = "overlap" if gap < 0 else "follow"
        raise Refused(
            "W8" if gap < 0 else "W6",
            f"{abs(gap)} bytes {what} the data of member {shown(member.name)}",
        )
    if small:
        stored = memoryview(head)[data_start : data_start + member.compressed]
        pieces: Iterator[bytes | memoryview] = iter((stored,))
    else:
        pieces = _pieces(handle, member.start + data_start, member.compressed)
    crc = count = 0
    for piece in pieces if member.method == STORED else _inflated(pieces, member):
        count += len(piece)
        crc = zlib.crc32(piece, crc)
        sink(piece)  # type: ignore[arg-type]
    if count != member.size:
        raise Refused(
            "W8", f"member {shown(member.name)} declares {member.size} bytes, holds {count}"
        )
    if crc != member.crc:
        raise Refused(
            "W6", f"member {shown(member.name)} has CRC {crc:08x}, declared {member.crc:08x}"
        )


def _pieces(handle: int, start: int, length: int) -> Iterator[bytes]:
    while length:
        piece = read_exactly(handle, min(length, _CHUNK), start)
        yield piece
        start += len(piece)
        length -= len(piece)


def _inflated(pieces: Iterator[bytes | memoryview], member: Member) -> Iterator[bytes]:
    stream = zlib.decompressobj(-15)
    left = member.size
    try:
        for piece in pieces:
            if stream.eof:
                raise Refused("W6", f"data follows the stream of member {shown(member.name)}")
            rest: bytes | memoryview = piece
            while rest:
                # One byte more than declared is allowed, to see that there is too much.
                data = stream.decompress(rest, min(left + 1, 4 * _CHUNK))
                left -= len(data)
                if left < 0:
                    raise Refused(
                        "W8",
                        f"member {shown(member.name)} declares {member.size} bytes, holds more",
                    )
                if data:
                    yield data
                if stream.eof:
                    break
                rest = stream.unconsumed_tail
    except zlib.error as error:
        raise Refused("W6", f"member {shown(member.name)} does not unpack: {error}") from None
    if not stream.eof:
        raise Refused("W6", f"the stream of member {shown(member.name)} is cut off")
    if stream.unused_data:
        raise Refused("W6", f"data follows the stream of member {shown(member.name)}")


def _check_local(head: bytes, member: Member) -> int:
    """Compare the local header with the directory entry; the offset of the data after it."""
    if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
        raise Refused("W6", f"no header of member {shown(member.name)} at byte {member.start}")
    (
        _, needed, flags, method, _, _, crc, compressed, size, name_length, extra_length,
    ) = _LOCAL.unpack_from(head)  # fmt: skip
    name = head[_LOCAL.size : _LOCAL.size + name_length]
    if name != member.raw_name:
        raise Refused(
            "W6",
            f"member {shown(member.name)} is called {shown(name.decode('utf-8', 'replace'))} "
            f"in its own header",
        )
    data_start: int = _LOCAL.size + name_length + extra_length
    check_version(member.name, needed)
    if extra_length:
        extras = extra_fields(head[_LOCAL.size + name_length : data_start], member.name, name)
        size, compressed = _local_zip64(extras, member, size, compressed)
    ours = (flags, method, crc, compressed, size)
    theirs = (member.flags, member.method, member.crc, member.compressed, member.size)
    if ours != theirs:
        fields = ("flags", "method", "CRC", "compressed size", "size")
        field, mine, other = next(
            (field, a, b) for field, a, b in zip(fields, ours, theirs, strict=True) if a != b
        )
        raise Refused(
            "W6",
            f"member {shown(member.name)} has {field} {mine} in its header and {other} in the "
            f"directory",
        )
    return data_start


def _local_zip64(
    extras: dict[int, bytes], member: Member, size: int, compressed: int
) -> tuple[int, int]:
    data = extras.get(ZIP64)
    if not data:
        return size, compressed
    if len(data) != 16:
        raise Refused("W6", f"member {shown(member.name)} has a ZIP64 field of {len(data)} bytes")
    long_size, long_compressed = struct.unpack("<2Q", data)
    if size not in (MAX32, long_size) or compressed not in (MAX32, long_compressed):
        raise Refused("W6", f"member {shown(member.name)} has two sizes in its header")
    return long_size, long_compressed


def read_member(handle: int, member: Member, limit: int) -> bytes:
    """All bytes of a member that must not be longer than ``limit``."""
    if member.size > limit:
        raise Refused("W8", f"{shown(member.name)} has {member.size} bytes, more than {limit}")
    parts: list[bytes] = []
    contents(handle, member, parts.append)
    return b"".join(parts)


def member_digest(handle: int, member: Member, algorithm: str) -> bytes:
    """The digest of a member's bytes, checked against everything its headers declare."""
    digest = hashlib.new(algorithm)
    contents(handle, member, digest.update)
    return digest.digest()
