"""What the wheelhouse remembers of one file, so that nothing is hashed or opened twice."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from packaging.tags import Tag
from packaging.utils import (
    BuildTag,
    InvalidSdistFilename,
    InvalidWheelFilename,
    NormalizedName,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from wheelhouse.text import shown
from wheelhouse.zipcheck import Refused

FORMAT = 1
_FILENAME = re.compile(r"[A-Za-z0-9_.+!\-]{1,255}")


@dataclass(frozen=True, slots=True)
class Filename:
    """What a wheel's or sdist's file name says; ``tags`` and ``build`` are empty for sdists."""

    kind: str
    name: NormalizedName
    version: Version
    build: BuildTag = ()
    tags: frozenset[Tag] = frozenset()


@functools.lru_cache(maxsize=8192)
def parse_filename(filename: str) -> Filename:
    """Take a wheel's or sdist's file name apart. Raises :class:`Refused` (W9)."""
    if _FILENAME.fullmatch(filename) is None or filename.startswith("."):
        raise Refused("W9", f"file name {shown(filename)} is no name of a wheel or sdist")
    try:
        if filename.endswith(".whl"):
            return Filename("wheel", *parse_wheel_filename(filename))
        return Filename("sdist", *parse_sdist_filename(filename))
    except (InvalidWheelFilename, InvalidSdistFilename):
        form = "name-version(-build)-python-abi-platform.whl"
        if not filename.endswith(".whl"):
            form = "name-version.tar.gz"
        raise Refused("W9", f"file name {shown(filename)} is not of the form {form}") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the wheelhouse.

    ``size`` in bytes, ``sha256`` hex. ``upload_time`` is the index's, or when the file was
    first seen here if its source gave none. ``mtime_ns`` and ``inode`` say for which file on
    the disk the hash was computed.
    """

    filename: str
    sha256: str
    size: int
    requires_python: str | None
    metadata_sha256: str | None
    upload_time: datetime
    first_seen: datetime
    mtime_ns: int
    inode: int

    @property
    def kind(self) -> str:
        """Either "wheel" or "sdist"."""
        return parse_filename(self.filename).kind

    @property
    def name(self) -> NormalizedName:
        """The normalised project name."""
        return parse_filename(self.filename).name

    @property
    def version(self) -> Version:
        """The version."""
        return parse_filename(self.filename).version

    @property
    def build(self) -> BuildTag:
        """The build tag, () without one."""
        return parse_filename(self.filename).build

    @property
    def tags(self) -> frozenset[Tag]:
        """The expanded tags; none for an sdist."""
        return parse_filename(self.filename).tags

    def describes(self, status: os.stat_result) -> bool:
        """Whether the hash is of the file with this status, as far as a stat can tell."""
        return (self.size, self.mtime_ns, self.inode) == (
            status.st_size,
            status.st_mtime_ns,
            status.st_ino,
        )

    def of_file(self, status: os.stat_result) -> Entry:
        """The same entry for a file with equal bytes and another status."""
        return dataclasses.replace(self, mtime_ns=status.st_mtime_ns, inode=status.st_ino)

    def to_bytes(self) -> bytes:
        """The entry as one line of JSON."""
        document = {
            "format": FORMAT,
            "filename": self.filename,
            "sha256": self.sha256,
            "size": self.size,
            "requires-python": self.requires_python,
            "metadata-sha256": self.metadata_sha256,
            "upload-time": write_time(self.upload_time),
            "first-seen": write_time(self.first_seen),
            "mtime-ns": self.mtime_ns,
            "inode": self.inode,
        }
        return (json.dumps(document, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry | None:
        """An entry back from its bytes; None when they are not an entry of this format.

        The entry is a cache: what cannot be read is as good as absent.
        """
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                return None
            entry = cls(
                filename=str(document["filename"]),
                sha256=str(document["sha256"]),
                size=int(document["size"]),
                requires_python=document["requires-python"],
                metadata_sha256=document["metadata-sha256"],
                upload_time=read_time(document["upload-time"]),
                first_seen=read_time(document["first-seen"]),
                mtime_ns=int(document["mtime-ns"]),
                inode=int(document["inode"]),
            )
            parse_filename(entry.filename)
        except (ValueError, KeyError, TypeError, Refused):
            return None
        return entry


def write_time(moment: datetime) -> str:
    """A time as the simple API writes it (PEP 700): UTC with microseconds and a Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read_time(text: str) -> datetime:
    """The inverse of :func:`write_time`."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Entries by project, version and file name."""
    return tuple(sorted(entries, key=lambda entry: (entry.name, entry.version, entry.filename)))
