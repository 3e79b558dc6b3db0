"""A wheel's canonical form: the same content is the same bytes, whoever zipped it.

Members are sorted, the dist-info folder last and RECORD at the very end; times are the first
a zip can hold; modes are 0644 or 0755; RECORD is written anew with sha256; WHEEL carries
the tags of the file name. Follows the binary distribution format (PEP 427 and successors).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from images.errors import WainError
from wheelhouse.text import bare, shown

MAX_MEMBERS = 200_000
MAX_BYTES = 8 << 30
_TIME = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20
_DROPPED_SIGNATURES = ("/RECORD.jws", "/RECORD.p7s")


class WheelFormError(WainError):
    """A built file that cannot be put in canonical form, because it is no good wheel."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What goes into the canonical wheel: the members in order, and the dist-info's name."""

    members: tuple[zipfile.ZipInfo, ...]
    dist_info: str


def canonical_wheel(source: Path, folder: Path, build_tag: str = "") -> Path:
    """Write the canonical form of the wheel ``source`` into ``folder`` and return its path.

    With ``build_tag`` the result carries it in its name and in WHEEL. Raises
    :class:`WheelFormError`.
    """
    filename = tagged_name(source.name, build_tag)
    target = folder / filename
    try:
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
            plan = _plan(old, source.name)
            rows = [_copy(old, info, new, plan, filename) for info in plan.members]
            record = f"{plan.dist_info}/RECORD"
            rows.append((record, "", ""))
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            _write(new, record, text.getvalue().encode(), executable=False)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        target.unlink(missing_ok=True)
        raise WheelFormError(bare(source.name), f"is no readable wheel: {error}") from None
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def tagged_name(filename: str, build_tag: str) -> str:
    """The wheel's file name with this build tag (put before one it has already)."""
    try:
        _, _, build, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise WheelFormError(bare(filename), f"is no wheel file name: {error}") from None
    if not build_tag:
        return filename
    parts = filename.split("-")
    if build:
        parts[2] = f"{build_tag}_{parts[2]}"
    else:
        parts.insert(2, build_tag)
    return "-".join(parts)


def first_difference(one: Path, other: Path) -> str:
    """The first member (in order) that differs between two wheels, "" when none does.

    Compares bytes first; members only to say where the difference is.
    """
    if one.read_bytes() == other.read_bytes() and one.name == other.name:
        return ""
    if one.name != other.name:
        return f"the file name: {one.name}, then {other.name}"
    with zipfile.ZipFile(one) as left, zipfile.ZipFile(other) as right:
        names = [left.namelist(), right.namelist()]
        for name in sorted({*names[0], *names[1]}):
            if name not in names[1]:
                return f"{shown(name)} is only in the first"
            if name not in names[0]:
                return f"{shown(name)} is only in the second"
            # RECORD differs because something else does.
            if not name.endswith(".dist-info/RECORD") and left.read(name) != right.read(name):
                return shown(name)
        for a, b in zip(left.infolist(), right.infolist(), strict=True):
            if (a.filename, a.external_attr) != (b.filename, b.external_attr):
                return f"the mode or place of {shown(a.filename)}"
    return "the zip's own structure"


def _plan(old: zipfile.ZipFile, filename: str) -> _Plan:
    infos = old.infolist()
    if len(infos) > MAX_MEMBERS or sum(info.file_size for info in infos) > MAX_BYTES:
        raise WheelFormError(bare(filename), "is larger than any wheel: a zip bomb")
    seen: set[str] = set()
    members = []
    for info in infos:
        mode = info.external_attr >> 16
        if info.filename in seen:
            raise WheelFormError(bare(filename), f"holds {shown(info.filename)} twice")
        seen.add(info.filename)
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise WheelFormError(bare(filename), f"holds {shown(info.filename)}, no plain file")
        # Installers drop compiled files; they hold times and paths of the build.
        if info.is_dir() or "__pycache__" in info.filename.split("/"):
            continue
        members.append(info)
    found = {info.filename.split("/")[0] for info in members}
    folders = sorted(name for name in found if name.endswith(".dist-info"))
    if len(folders) != 1:
        raise WheelFormError(
            bare(filename), f"has {len(folders)} dist-info folders, expected exactly one"
        )
    dist_info = folders[0]
    signatures = {f"{dist_info}{name}" for name in _DROPPED_SIGNATURES}
    kept = [
        info
        for info in members
        if info.filename != f"{dist_info}/RECORD" and info.filename not in signatures
    ]
    kept.sort(key=lambda info: (info.filename.startswith(f"{dist_info}/"), info.filename))
    return _Plan(tuple(kept), dist_info)


def _copy(
    old: zipfile.ZipFile, info: zipfile.ZipInfo, new: zipfile.ZipFile, plan: _Plan, filename: str
) -> tuple[str, str, str]:
    """Copy one member; its RECORD row."""
    executable = bool((info.external_attr >> 16) & 0o111)
    if info.filename == f"{plan.dist_info}/WHEEL":
        data = wheel_document(old.read(info), filename)
        return _write(new, info.filename, data, executable=False)
    digest = hashlib.sha256()
    size = 0
    with (
        old.open(info) as source,
        new.open(
            _info(info.filename, executable), "w", force_zip64=info.file_size > 1 << 31
        ) as target,
    ):
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > info.file_size:
                raise WheelFormError(
                    bare(filename), f"{shown(info.filename)} is larger than it says"
                )
            digest.update(chunk)
            target.write(chunk)
    return info.filename, _record_hash(digest.digest()), str(size)


def wheel_document(data: bytes, filename: str) -> bytes:
    """WHEEL with the build tag and the tags of ``filename``; its other fields as they are."""
    _, _, build, tags = parse_wheel_filename(filename)
    lines = [
        line.rstrip("\r")
        for line in data.decode("utf-8", "surrogateescape").split("\n")
        if line.strip() and not line.lower().startswith(("tag:", "build:"))
    ]
    if build:
        lines.append(f"Build: {build[0]}{build[1]}")
    lines += sorted(f"Tag: {tag}" for tag in tags)
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _write(
    new: zipfile.ZipFile, name: str, data: bytes, *, executable: bool
) -> tuple[str, str, str]:
    new.writestr(_info(name, executable), data)
    return name, _record_hash(hashlib.sha256(data).digest()), str(len(data))


def _info(name: str, executable: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _TIME)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    return info


def _record_hash(digest: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
