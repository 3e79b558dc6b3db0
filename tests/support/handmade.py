"""Wheels made by hand: any layout, right or wrong, with a RECORD that fits unless told not to."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from builder.assemble import Wheel

FOREVER = (1990, 1, 1, 0, 0, 0)


def record_row(path: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([path, f"sha256={digest}", len(data)])
    return text.getvalue()


def make_wheel(
    folder: Path,
    name: str,
    files: Mapping[str, str | bytes],
    *,
    version: str = "1.0",
    tag: str = "py3-none-any",
    purelib: bool = True,
    executable: tuple[str, ...] = (),
    record: Mapping[str, str] | None = None,
    entry_points: str = "",
    direct: bool = False,
) -> Wheel:
    """Write a wheel; ``record`` replaces the RECORD rows of some paths ("" leaves one out)."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    members = {
        path: data.encode() if isinstance(data, str) else data for path, data in files.items()
    }
    members[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    )
    members[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: handmade\nRoot-Is-Purelib: {str(purelib).lower()}\n"
        f"Tag: {tag}\n"
    ).encode()
    if entry_points:
        members[f"{info}/entry_points.txt"] = entry_points.encode()
    rows = {path: record_row(path, data) for path, data in members.items()}
    rows |= record or {}
    members[f"{info}/RECORD"] = ("".join(rows.values()) + f"{info}/RECORD,,\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            entry = zipfile.ZipInfo(member, FOREVER)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100775 if member in executable else 0o100664) << 16
            archive.writestr(entry, data)
    return wheel_at(path, direct=direct)


def wheel_at(path: Path, *, direct: bool = False) -> Wheel:
    """A wheel file as assemble() takes it."""
    name, version = path.name.split("-")[:2]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(name.lower().replace("_", "-").replace(".", "-"), version, path, digest, direct)
