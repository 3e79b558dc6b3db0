"""Wheels and sdists made by the tests: good ones in one call, bad ones byte by byte.

``make_wheel`` and ``make_sdist`` give a well-formed file. A ``Draft`` is a wheel before it is
written: its members, every field of their headers, RECORD and the archive's framing can be
changed one at a time, which is how each malformed kind differs from a good wheel in exactly
one thing. The same arguments always give the same bytes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Rows = list[list[str]]


def record_hash(data: bytes, algorithm: str = "sha256") -> str:
    """A hash as RECORD writes it."""
    digest = hashlib.new(algorithm, data).digest()
    return f"{algorithm}={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


@dataclass
class Raw:
    """One member. ``local`` and ``central`` override header fields by name."""

    name: str | bytes
    data: bytes = b""
    mode: int = 0o100644
    method: int = 8
    flags: int | None = None
    extra: bytes = b""
    comment: bytes = b""
    local: dict[str, object] = field(default_factory=dict)
    central: dict[str, object] = field(default_factory=dict)
    packed: bytes | None = None
    after: bytes = b""

    @property
    def raw_name(self) -> bytes:
        return self.name if isinstance(self.name, bytes) else self.name.encode()

    def fields(self) -> dict[str, object]:
        name = self.raw_name
        packed = self.payload()
        flags = self.flags
        if flags is None:
            flags = 0 if name.isascii() else 0x800
        return {
            "name": name,
            "flags": flags,
            "method": self.method,
            "crc": zlib.crc32(self.data),
            "packed": len(packed),
            "size": len(self.data),
            "extra": self.extra,
        }

    def payload(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.method == 8:
            stream = zlib.compressobj(6, zlib.DEFLATED, -15)
            return stream.compress(self.data) + stream.flush()
        return self.data


@dataclass
class Draft:
    """A wheel before it is written.

    ``members`` are in the order of the archive; RECORD is made from them when the bytes are,
    then changed by ``edit_record`` (None leaves it out). ``edit`` changes the finished bytes.
    """

    filename: str
    members: list[Raw]
    dist_info: str
    edit_record: Callable[[Rows], Rows | None] = lambda rows: rows
    record_bytes: bytes | None = None
    record_eol: str = "\n"
    edit: Callable[[bytes], bytes] = lambda data: data
    count: int | None = None
    comment: bytes = b""
    gap: bytes = b""
    order: Callable[[list[int]], list[int]] = lambda order: order

    def get(self, name: str) -> Raw:
        for member in self.members:
            if member.name == name or member.name == f"{self.dist_info}/{name}":
                return member
        raise KeyError(name)

    def add(self, name: str | bytes, data: bytes = b"x = 1\n", **options: object) -> Raw:
        member = Raw(name, data, **options)  # type: ignore[arg-type]
        self.members.append(member)
        return member

    def remove(self, name: str) -> None:
        self.members.remove(self.get(name))

    def rename(self, old: str, new: str) -> None:
        """Rename a folder in every member."""
        for member in self.members:
            if isinstance(member.name, str) and member.name.startswith(old + "/"):
                member.name = new + member.name[len(old) :]
        if self.dist_info == old:
            self.dist_info = new

    def record(self) -> bytes | None:
        if self.record_bytes is not None:
            return self.record_bytes
        rows: Rows | None = []
        for member in self.members:
            name = member.raw_name.decode("utf-8", "surrogateescape")
            if not name.endswith("/"):
                rows.append([name, record_hash(member.data), str(len(member.data))])
        rows.append([f"{self.dist_info}/RECORD", "", ""])
        rows = self.edit_record(rows)
        if rows is None:
            return None
        lines = (",".join(_quoted(cell) for cell in row) for row in rows)
        text = "".join(line + self.record_eol for line in lines)
        return text.encode("utf-8", "surrogateescape")

    def to_bytes(self) -> bytes:
        members = list(self.members)
        record = self.record()
        if record is not None:
            members.append(Raw(f"{self.dist_info}/RECORD", record))
        return self.edit(zip_bytes(members, self.comment, self.count, self.gap, self.order))

    def write(self, folder: Path) -> Path:
        path = folder / self.filename
        path.write_bytes(self.to_bytes())
        return path


def zip_bytes(
    members: Iterable[Raw],
    comment: bytes = b"",
    count: int | None = None,
    gap: bytes = b"",
    order: Callable[[list[int]], list[int]] = lambda order: order,
) -> bytes:
    """The archive of these members; ``order`` reorders the directory's entries."""
    body = bytearray()
    entries: list[bytes] = []
    for member in members:
        start = len(body)
        local = {**member.fields(), **member.local}
        body += struct.pack(
            "<4s5H3L2H", b"PK\3\4", local.get("version", 20), local["flags"], local["method"],
            0, 0x21, local["crc"], local["packed"], local["size"],
            len(local["name"]), len(local["extra"]),  # type: ignore[arg-type]
        )  # fmt: skip
        body += local["name"] + local["extra"] + member.payload() + member.after  # type: ignore[operator]
        central = {**member.fields(), "start": start, "mode": member.mode, **member.central}
        entries.append(
            struct.pack(
                "<4s6H3L5H2L", b"PK\1\2", 0x0314, 20, central["flags"], central["method"],
                0, 0x21, central["crc"], central["packed"], central["size"],
                len(central["name"]), len(central["extra"]), len(member.comment),  # type: ignore[arg-type]
                central.get("disk", 0), 0, central["mode"] << 16, central["start"],  # type: ignore[operator]
            )
            + central["name"] + central["extra"] + member.comment  # type: ignore[operator]
        )  # fmt: skip
    body += gap
    directory = b"".join(entries[index] for index in order(list(range(len(entries)))))
    total = len(entries) if count is None else count
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, total, total, len(directory), len(body), len(comment)
    )
    return bytes(body) + directory + end + comment


def _quoted(cell: str) -> str:
    if any(sign in cell for sign in ',"\n\r'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def draft(
    name: str = "demo",
    version: str = "1.0",
    *,
    tag: str = "py3-none-any",
    build: str = "",
    files: Mapping[str, bytes] | None = None,
    requires: Iterable[str] = (),
    requires_python: str | None = None,
    entry_points: str | None = None,
    purelib: bool = True,
) -> Draft:
    """A good wheel, to be changed. Without ``files`` it holds one small module."""
    stem = name.replace("-", "_")
    dist_info = f"{stem}-{version}.dist-info"
    if files is None:
        files = {f"{stem}/__init__.py": f"__version__ = {version!r}\n".encode()}
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    if requires_python is not None:
        metadata.append(f"Requires-Python: {requires_python}")
    metadata += [f"Requires-Dist: {line}" for line in requires]
    wheel = ["Wheel-Version: 1.0", "Generator: tests", f"Root-Is-Purelib: {str(purelib).lower()}"]
    if build:
        wheel.append(f"Build: {build}")
    pythons, abis, platforms = (part.split(".") for part in tag.split("-"))
    wheel += [f"Tag: {p}-{a}-{t}" for p in pythons for a in abis for t in platforms]
    members = [Raw(path, data) for path, data in files.items()]
    members.append(Raw(f"{dist_info}/METADATA", ("\n".join(metadata) + "\n\nText.\n").encode()))
    members.append(Raw(f"{dist_info}/WHEEL", ("\n".join(wheel) + "\n").encode()))
    if entry_points is not None:
        members.append(Raw(f"{dist_info}/entry_points.txt", entry_points.encode()))
    parts = [stem, version, *([build] if build else []), tag]
    return Draft("-".join(parts) + ".whl", members, dist_info)


def make_wheel(folder: Path, name: str = "demo", version: str = "1.0", **options: object) -> Path:
    """Write a good wheel into ``folder``; the options are those of :func:`draft`."""
    return draft(name, version, **options).write(folder)  # type: ignore[arg-type]


# --- sdists --------------------------------------------------------------------------------


def tar_member(
    name: str,
    data: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    mode: int = 0o644,
    pax: Mapping[str, str] | None = None,
) -> tuple[tarfile.TarInfo, bytes]:
    """A member for :func:`tar_bytes`."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    info.mode = mode
    info.size = len(data)
    info.pax_headers = dict(pax or {})
    return info, data


def tar_bytes(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A gzipped tar of these members, exactly as given, with a fixed time."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream:
        stream.write(raw.getvalue())
    return packed.getvalue()


_SETUP = """\
from setuptools import setup
setup(name={name!r}, version={version!r}, py_modules=[{module!r}])
"""
_PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
"""


def sdist_files(name: str = "demo", version: str = "1.0") -> dict[str, bytes]:
    """The files of a small sdist that setuptools can build."""
    module = name.replace("-", "_")
    info = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nText.\n"
    return {
        "PKG-INFO": info.encode(),
        "pyproject.toml": _PYPROJECT.encode(),
        "setup.py": _SETUP.format(name=name, version=version, module=module).encode(),
        f"{module}.py": f"__version__ = {version!r}\n".encode(),
    }


def make_sdist(
    folder: Path,
    name: str = "demo",
    version: str = "1.0",
    *,
    files: Mapping[str, bytes] | None = None,
    extra: Iterable[tuple[tarfile.TarInfo, bytes]] = (),
) -> Path:
    """Write an sdist into ``folder``; ``extra`` members follow the good ones as they are."""
    stem = f"{name.replace('-', '_')}-{version}"
    content = sdist_files(name, version) if files is None else files
    members = [tar_member(stem, kind=tarfile.DIRTYPE, mode=0o755)]
    members += [tar_member(f"{stem}/{path}", data) for path, data in content.items()]
    path = folder / f"{stem}.tar.gz"
    path.write_bytes(tar_bytes([*members, *extra]))
    return path
