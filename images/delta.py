"""A manifest as the change to another one. Travels to hosts. Pure: bytes in, bytes out.

Packed with zlib; unpacked it is ``wain-delta 1 <base sha256> <new sha256>``, then instructions
that make the new text line by line: ``=<from> <count>`` copies lines of the base, ``+<count>``
takes the lines that follow. Both texts are sorted, so copies only ever go forward, and the
result is never larger than base and delta together.
"""

from __future__ import annotations

import re
import zlib
from hashlib import sha256

from images.errors import WainError

MAX_UNPACKED = 64 << 20  # bytes
_MAGIC = b"wain-delta 1"
_COPY = re.compile(rb"=(0|[1-9][0-9]{0,8}) ([1-9][0-9]{0,8})")
_TAKE = re.compile(rb"\+([1-9][0-9]{0,8})")


class DeltaError(WainError):
    """Bytes that are no delta, or one to another base."""

    def __init__(self, what: str) -> None:
        super().__init__("manifest delta", what, "send the whole manifest")


def encode_delta(base: bytes, new: bytes) -> bytes:
    """The delta that makes the manifest bytes ``new`` from ``base``."""
    old_lines = base.split(b"\n")
    new_lines = new.split(b"\n")
    # The first place of each line: the only line that comes twice is the empty one.
    places: dict[bytes, int] = {}
    for place, line in enumerate(old_lines):
        places.setdefault(line, place)
    output = [b"%s %s %s" % (_MAGIC, _id(base), _id(new))]
    at = reached = 0
    while at < len(new_lines):
        start = at
        source = places.get(new_lines[at], -1)
        if source >= reached:
            reached = source
            while (
                at < len(new_lines)
                and reached < len(old_lines)
                and new_lines[at] == old_lines[reached]
            ):
                at += 1
                reached += 1
            output.append(b"=%d %d" % (source, at - start))
        else:
            while at < len(new_lines) and places.get(new_lines[at], -1) < reached:
                at += 1
            output.append(b"+%d" % (at - start))
            output += new_lines[start:at]
    return zlib.compress(b"\n".join(output), 9)


def apply_delta(base: bytes, delta: bytes) -> bytes:
    """The manifest bytes a delta makes from ``base``, its sha256 checked. Raises DeltaError."""
    lines = _unpack(delta).split(b"\n")
    magic, _, ids = lines[0].rpartition(b" ")[0].rpartition(b" ")
    wanted = lines[0].rpartition(b" ")[2]
    if magic != _MAGIC:
        raise DeltaError("this is no delta of a format known here")
    if ids != _id(base):
        raise DeltaError("it is one to another manifest")
    old_lines = base.split(b"\n")
    output: list[bytes] = []
    at, reached = 1, 0
    while at < len(lines):
        copy = _COPY.fullmatch(lines[at])
        take = _TAKE.fullmatch(lines[at])
        at += 1
        if copy:
            source, count = int(copy[1]), int(copy[2])
            if source < reached or source + count > len(old_lines):
                raise DeltaError("it copies lines that do not exist or goes back")
            reached = source + count
            output += old_lines[source:reached]
        elif take:
            count = int(take[1])
            if at + count > len(lines):
                raise DeltaError("it is cut short")
            output += lines[at : at + count]
            at += count
        else:
            raise DeltaError("it has an unknown instruction")
    data = b"\n".join(output)
    if _id(data) != wanted:
        raise DeltaError("its result is not the manifest it promises")
    return data


def _id(data: bytes) -> bytes:
    return sha256(data).hexdigest().encode()


def _unpack(delta: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(delta, MAX_UNPACKED)
    except zlib.error:
        raise DeltaError("it is damaged") from None
    if not unpacker.eof or unpacker.unused_data:
        raise DeltaError("it is cut short, too large, or has something after its end")
    return data
