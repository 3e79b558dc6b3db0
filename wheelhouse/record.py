"""RECORD: which members a wheel says it has, and their hashes (rule W4)."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
from dataclasses import dataclass

from wheelhouse.text import shown
from wheelhouse.zipcheck import Member, Refused, name_problem

# "sha256 or better", of those every Python can compute.
_LENGTHS = {"sha256": 32, "sha384": 48, "sha512": 64}
_BASE64 = re.compile(r"[A-Za-z0-9_\-]+")
_SIGNATURES = ("RECORD.jws", "RECORD.p7s")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of RECORD: the algorithm and digest, and the size in bytes where given."""

    algorithm: str
    digest: bytes
    size: int | None


def parse_record(data: bytes, record_name: str) -> dict[str, Row | None]:
    """Rows by path; None for a path without a hash, which only RECORD itself may be.

    Raises :class:`Refused` for anything but a well-formed list of plain relative paths.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Refused("W4", f"RECORD is not UTF-8 at byte {error.start}") from None
    unhashed = {record_name, *(_sibling(record_name, name) for name in _SIGNATURES)}
    rows: dict[str, Row | None] = {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            if not fields:
                continue
            if len(fields) != 3:
                raise Refused(
                    "W4", f"RECORD line {reader.line_num} has {len(fields)} fields, expected 3"
                )
            path, digest, size = fields
            problem = name_problem(path, path.encode())
            if problem is not None:
                raise Refused("W4", f"RECORD line {reader.line_num}: {problem.what}")
            if path in rows:
                raise Refused("W4", f"RECORD names {shown(path)} twice")
            rows[path] = _row(path, digest, size, optional=path in unhashed)
    except csv.Error as error:
        raise Refused("W4", f"RECORD line {reader.line_num}: {error}") from None
    return rows


def _sibling(record_name: str, name: str) -> str:
    return f"{record_name.rpartition('/')[0]}/{name}"


def _row(path: str, digest: str, size: str, *, optional: bool) -> Row | None:
    length: int | None = None
    if size:
        if re.fullmatch(r"[0-9]{1,18}", size) is None:
            raise Refused("W4", f"RECORD gives {shown(path)} the size {shown(size)}")
        length = int(size)
    if not digest:
        if optional:
            return None
        raise Refused("W4", f"RECORD gives no hash for {shown(path)}")
    algorithm, equals, value = digest.partition("=")
    if algorithm not in _LENGTHS or not equals:
        raise Refused(
            "W4", f"RECORD hashes {shown(path)} with {shown(algorithm)}, expected sha256 or better"
        )
    try:
        if _BASE64.fullmatch(value) is None:
            raise ValueError
        raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != _LENGTHS[algorithm] or encoded(raw) != value:
        raise Refused(
            "W4",
            f"RECORD gives {shown(path)} the hash {shown(value)}, expected {_LENGTHS[algorithm]} "
            f"bytes as urlsafe base64 without padding",
        )
    return Row(algorithm, raw, length)


def encoded(digest: bytes) -> str:
    """A digest as RECORD writes it."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def match_record(
    members: list[Member], rows: dict[str, Row | None], record_name: str
) -> dict[str, Row]:
    """The row of every member that has one to be checked against.

    Raises :class:`Refused` when a member is not in RECORD, a row has no member, or the sizes
    differ. RECORD and its signatures have no row that could be checked.
    """
    unlisted = {record_name, *(_sibling(record_name, name) for name in _SIGNATURES)}
    wanted: dict[str, Row] = {}
    names = set()
    for member in members:
        names.add(member.name)
        if member.is_folder:
            continue
        row = rows.get(member.name)
        if row is None:
            if member.name not in unlisted:
                raise Refused("W4", f"member {shown(member.name)} is not in RECORD")
            continue
        if member.name == record_name:
            raise Refused("W4", "RECORD gives a hash for itself")
        if row.size is not None and row.size != member.size:
            raise Refused(
                "W4",
                f"member {shown(member.name)} has {row.size} bytes in RECORD, {member.size} in "
                f"the archive",
            )
        wanted[member.name] = row
    for path in rows:
        if path not in names and path not in unlisted:
            raise Refused("W4", f"RECORD names {shown(path)}, which is not in the archive")
    return wanted
