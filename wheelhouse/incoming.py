"""A file on its way into the wheelhouse: brought to staging, hashed and checked there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from wheelhouse.entry import Entry, parse_filename
from wheelhouse.floor import check_promise
from wheelhouse.sdistcheck import check_sdist
from wheelhouse.staging import write_file
from wheelhouse.target import Target
from wheelhouse.verify import METADATA_SUFFIX
from wheelhouse.wheel import check_wheel, file_sha256
from wheelhouse.zipcheck import Limits

_BLOCK = 1 << 20


def take(source: Path | BinaryIO, staged: Path, move: bool) -> str:
    """Bring the source's bytes to ``staged``; their sha256."""
    if isinstance(source, Path):
        if not stat.S_ISREG(source.stat().st_mode):
            raise OSError(None, "not a regular file")
        # A link is never moved in: what it leads to is copied.
        if move and not source.is_symlink():
            with contextlib.suppress(OSError):
                source.replace(staged)
                handle = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    return file_sha256(handle)
                finally:
                    os.close(handle)
        with source.open("rb") as stream:
            digest = _copy(stream, staged)
        if move:
            source.unlink(missing_ok=True)
        return digest
    return _copy(source, staged)


def _copy(stream: BinaryIO, staged: Path) -> str:
    digest = hashlib.sha256()
    with staged.open("xb") as out:
        while block := stream.read(_BLOCK):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def checked(
    staged: Path,
    digest: str,
    upload_time: datetime | None,
    target: Target | None,
    limits: Limits | None,
) -> Entry:
    """Check a file in staging whose sha256 is ``digest``; what is to be noted of it.

    The copy of its METADATA is written beside it, and both are durable when this returns.
    Raises :class:`WheelError`.
    """
    metadata: bytes | None = None
    if parse_filename(staged.name).kind == "wheel":
        wheel = check_wheel(staged, target=target, sha256=digest, limits=limits)
        check_promise(staged, wheel.tags)
        metadata, requires_python = wheel.metadata, wheel.requires_python
        path = staged.with_name(staged.name + METADATA_SUFFIX)
        write_file(path, metadata, durable=True)
    else:
        requires_python = check_sdist(staged, limits=limits).requires_python
    handle = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(handle, 0o644)
        os.fsync(handle)
        status = os.fstat(handle)
    finally:
        os.close(handle)
    now = datetime.now(UTC)
    return Entry(
        filename=staged.name,
        sha256=digest,
        size=status.st_size,
        requires_python=requires_python,
        metadata_sha256=hashlib.sha256(metadata).hexdigest() if metadata else None,
        upload_time=upload_time.astimezone(UTC) if upload_time else now,
        first_seen=now,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
    )
