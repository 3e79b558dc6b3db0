"""One wheel into the store, its bytes checked against the lock as they are read."""

from __future__ import annotations

import configparser
import csv
import io
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from installer import install
from installer.destinations import WheelDestination
from installer.exceptions import InstallerError
from installer.records import InvalidRecordEntry, parse_record_file
from installer.sources import WheelContentElement, WheelFile

from builder.destination import Destination, Row, WheelContentError
from images.errors import WainError
from images.store import Batch

try:
    from isal import isal_zlib as inflating
except ImportError:
    import zlib as inflating  # type: ignore[no-redef]

# Wheels up to here are held in memory while they are read; larger ones in a private copy.
_IN_MEMORY = 64 << 20  # bytes
_BLOCK = 1 << 20
# Members up to here are inflated in one go.
_AT_ONCE = 8 << 20  # bytes
# A member's local header: its mark, flags, and how long name and extra field are.
_LOCAL_HEADER = struct.Struct("<4s2xH18xHH")
_UTF8 = 1 << 11
# Flags of a member that need nothing else: how hard it was packed, and the name's encoding.
_PLAIN_FLAGS = _UTF8 | 0b110
# An installer writes these itself; a wheel's own would claim an installation that never was.
_NOT_INSTALLED = frozenset(
    {"INSTALLER", "REQUESTED", "direct_url.json", "RECORD.jws", "RECORD.p7s"}
)

# All that reading a broken zip or broken metadata raises, here and in `installer`.
_UNSOUND = (
    InstallerError, InvalidRecordEntry, configparser.Error, zipfile.BadZipFile, zlib.error,
    zipfile.LargeZipFile, AssertionError, EOFError, LookupError, NotImplementedError, ValueError,
    RuntimeError, csv.Error, struct.error, cast("type[Exception]", inflating.error),
)  # fmt: skip


class Unpacked(NamedTuple):
    """What a wheel became: its dist-info folder and its files."""

    dist_info: str
    rows: list[Row]


class _Archive(zipfile.ZipFile):
    """Inflates with isal where it is there: in half the time.

    What is wrong with a member's bytes is found by its CRC and by RECORD, whoever inflates.
    ``data`` are all bytes of the archive, where they are in memory.
    """

    def __init__(self, stream: IO[bytes], data: bytes | None) -> None:
        super().__init__(stream)
        self._bytes = memoryview(data) if data is not None else None

    def open(self, *arguments: Any, **options: Any) -> IO[bytes]:
        """As ZipFile does."""
        stream: Any = super().open(*arguments, **options)
        if getattr(stream, "_compress_type", None) == zipfile.ZIP_DEFLATED:
            stream._decompressor = inflating.decompressobj(-zlib.MAX_WBITS)
        return cast("IO[bytes]", stream)

    def content(self, item: zipfile.ZipInfo) -> IO[bytes]:
        """What `open` gives; a small deflated member is inflated at once, in half the time."""
        if (
            self._bytes is None
            or item.compress_type != zipfile.ZIP_DEFLATED
            or item.flag_bits & ~_PLAIN_FLAGS
            or item.file_size > _AT_ONCE
        ):
            return self.open(item)
        at = item.header_offset
        mark, flags, name, extra = _LOCAL_HEADER.unpack_from(self._bytes, at)
        begin = at + _LOCAL_HEADER.size
        encoding = "utf-8" if flags & _UTF8 else "cp437"
        if mark != b"PK\3\4":
            raise zipfile.BadZipFile(f"no member where the directory has {item.filename!a}")
        if str(self._bytes[begin : begin + name], encoding) != item.orig_filename:
            raise zipfile.BadZipFile(f"the member has another name than {item.filename!a}")
        begin += name + extra
        inflate = inflating.decompressobj(-zlib.MAX_WBITS)
        data = inflate.decompress(
            self._bytes[begin : begin + item.compress_size], item.file_size + 1
        )
        if not inflate.eof or len(data) != item.file_size or inflating.crc32(data) != item.CRC:
            raise zipfile.BadZipFile(f"the bytes of {item.filename!a} are damaged")
        return io.BytesIO(data)


class _Source(WheelFile):
    """`installer`'s reader, and which row of the wheel's own RECORD is being read."""

    def __init__(self, archive: _Archive, filename: str) -> None:
        self.filename = filename
        self.row: tuple[str, str, str] = ("", "", "")
        self._archive = archive
        super().__init__(archive)

    @property
    def dist_info_filenames(self) -> list[str]:
        """As `installer` finds them, without splitting every path of the wheel."""
        base = f"{self.dist_info_dir}/"
        names = self._archive.namelist()
        return [name[len(base) :] for name in names if name.startswith(base) and name[-1] != "/"]

    def get_contents(self) -> Iterator[WheelContentElement]:
        """As `installer` does, but only what is installed, and only what RECORD lists, once."""
        rows = parse_record_file(self.read_dist_info("RECORD").splitlines())
        listed = {row[0]: row for row in rows}
        info = self.dist_info_dir
        seen = set()
        for item in self._archive.infolist():
            path = item.filename
            if path[-1:] == "/":
                continue
            if path in seen:
                raise WheelContentError(self.filename, f"holds {path!a} twice")
            seen.add(path)
            folder, _, name = path.rpartition("/")
            if folder == info and name in _NOT_INSTALLED:
                continue
            if "__pycache__" in folder.split("/"):
                # Bytecode comes from the source that stands beside it, never from a wheel.
                continue
            row = listed.get(path)
            if row is None:
                raise WheelContentError(self.filename, f"holds {path!a}, which RECORD lacks")
            self.row = row
            mode = item.external_attr >> 16
            with self._archive.content(item) as stream:
                executable = stat.S_ISREG(mode) and mode & 0o111 != 0
                yield row, cast("BinaryIO", stream), executable


def unpack(
    path: Path,
    digest: str,
    batch: Batch,
    scratch: str,
    on_file: Callable[[Row, bytes], None],
) -> Unpacked:
    """Put a wheel's files into a batch. Raises WheelContentError, also for a wrong hash.

    The very bytes that are hashed are unpacked: they are held in memory or in a private copy,
    so nobody can change the file in between. ``scratch`` is a folder for such a copy;
    ``on_file`` gets each source file and its bytes as they pass.
    """
    stream, data = _verified(path, digest, scratch)
    with stream:
        try:
            with _Archive(stream, data) as archive:
                archive.filename = path.name
                source = _Source(archive, path.name)
                destination = Destination(path.name, batch, lambda: source.row, on_file)
                install(source, cast("WheelDestination", destination), {})
                return Unpacked(source.dist_info_dir, sorted(destination.rows, key=_place))
        except WainError:
            raise
        except OSError as error:
            raise WheelContentError(path.name, f"cannot be read: {error.strerror}") from None
        except _UNSOUND as error:
            raise WheelContentError(path.name, f"is no sound wheel: {_line(error)}") from None


def _place(row: Row) -> tuple[str, str]:
    return row.scheme, row.path


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode()[:200]


def _verified(path: Path, digest: str, scratch: str) -> tuple[IO[bytes], bytes | None]:
    """The wheel as a stream of its own, and its bytes where it is small enough for memory."""
    copy: IO[bytes]
    data = None
    found = sha256()
    try:
        with path.open("rb") as file:
            if path.stat().st_size <= _IN_MEMORY:
                data = file.read()
                found.update(data)
                copy = io.BytesIO(data)
            else:
                copy = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
                while block := file.read(_BLOCK):
                    found.update(block)
                    copy.write(block)
    except OSError as error:
        raise WheelContentError(str(path), error.strerror or "cannot be read") from None
    if found.hexdigest() != digest:
        copy.close()
        raise WheelContentError(
            str(path),
            f"has the sha256 {found.hexdigest()[:16]}…, the lock says {digest[:16]}…",
            "wain build fetches it again",
        )
    copy.seek(0)
    return copy, data
