"""Where `installer` writes a wheel to: objects of the store, and the rows that name them.

What comes out depends on the wheel's bytes alone, so places are named by scheme (the wheel
specification's ``.data`` folders), and RECORD is left to the image (assemble.py).
"""

from __future__ import annotations

import binascii
import io
import re
from collections.abc import Callable
from hashlib import sha256
from typing import IO, BinaryIO, NamedTuple

from installer.destinations import WheelDestination
from installer.records import Hash, RecordEntry

from images.errors import WainError
from images.manifest import path_problem
from images.store import Batch

# Files of a wheel up to here go into the store in one piece.
_ONE_PIECE = 8 << 20  # bytes
# No space at either end, no separator, and nothing that ends the name in entry_points.txt.
_ENTRY_NAME = re.compile(r"(?!\s)[^/\\=\x00-\x1f\x7f]+(?<!\s)")
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
# base64 as it stands in URLs.
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

_SCRIPT = """\
import sys

from {module} import {name}

if __name__ == "__main__":
    sys.argv[0] = sys.argv[0].removesuffix(".exe")
    sys.exit({call}())
"""


class Row(NamedTuple):
    """One file of a wheel: entry kind, mode, object, and its place within a scheme.

    scheme is ``lib`` (purelib and platlib are one folder here), ``scripts``, ``headers`` or
    ``data``; path is relative to the scheme's folder.
    """

    kind: str
    executable: bool
    sha256: str
    size: int
    scheme: str
    path: str


class WheelContentError(WainError):
    """A wheel that cannot be installed. ``where`` is its file name."""


class Destination(WheelDestination):
    """Takes one wheel's files; ``rows`` is what came of them.

    ``recorded`` gives the row of the wheel's own RECORD for the file that is being written;
    ``on_file`` gets each source file with its bytes, while they are at hand.
    """

    def __init__(
        self,
        filename: str,
        batch: Batch,
        recorded: Callable[[], tuple[str, str, str]],
        on_file: Callable[[Row, bytes], None],
    ) -> None:
        self._filename = filename
        self._batch = batch
        self._recorded = recorded
        self._on_file = on_file
        self.rows: list[Row] = []

    def write_script(self, name: str, module: str, attr: str, section: str) -> RecordEntry:
        """An entry point as a script without its first line (console and gui alike)."""
        for what, value, rule in (
            ("name", name, _ENTRY_NAME),
            ("module", module, _DOTTED),
            ("function", attr, _DOTTED),
        ):
            if not rule.fullmatch(value) or value in (".", ".."):
                raise WheelContentError(self._filename, f"entry point with the {what} {value!a}")
        text = _SCRIPT.format(module=module, name=attr.split(".")[0], call=attr)
        digest, size = self._batch.put(text.encode())
        self.rows.append(Row("script", True, digest, size, "scripts", name))
        return RecordEntry(name, None, None)

    def write_file(
        self, scheme: str, path: object, stream: BinaryIO, is_executable: bool
    ) -> RecordEntry:
        """One file of the wheel; checked against the wheel's RECORD as it passes."""
        name = str(path)
        problem = path_problem(name)
        if problem:
            raise WheelContentError(self._filename, f"{problem}: {name!a}")
        place = "lib" if scheme in ("purelib", "platlib") else scheme
        head = stream.read(_ONE_PIECE)
        if place == "scripts":
            row = self._script(name, head + stream.read())
        elif len(head) < _ONE_PIECE or name.endswith(".py"):
            head += stream.read()
            digest, size = self._batch.put(head, is_executable)
            row = Row("file", is_executable, digest, size, place, name)
        else:
            digest, size = self._batch.put_file(_Joined(head, stream), is_executable)
            row = Row("file", is_executable, digest, size, place, name)
        if row.kind == "file":
            self._compare(row)
        self.rows.append(row)
        if name.endswith(".py") and row.kind == "file":
            self._on_file(row, head)
        return RecordEntry(name, Hash("sha256", row.sha256), row.size)

    def _script(self, name: str, data: bytes) -> Row:
        first, _, rest = data.partition(b"\n")
        if re.match(rb"#!pythonw?(?=[\s]|$)", first):
            self._compare(Row("file", True, sha256(data).hexdigest(), len(data), "", name))
            digest, size = self._batch.put(rest)
            return Row("script", True, digest, size, "scripts", name)
        digest, size = self._batch.put(data, True)
        return Row("file", True, digest, size, "scripts", name)

    def _compare(self, row: Row) -> None:
        path, recorded, size = self._recorded()
        name, _, value = recorded.partition("=")
        if name == "sha256":
            wrong = value.rstrip("=") != record_hash(row.sha256)
        else:
            # A stronger hash than sha256 was checked when the wheel entered the wheelhouse.
            wrong = name not in ("sha384", "sha512")
        if wrong or (size and size != str(row.size)):
            raise WheelContentError(self._filename, f"{path!a} is not what the wheel's RECORD says")

    def finalize_installation(self, scheme: str, record_file_path: object, records: object) -> None:
        """Nothing: RECORD belongs to the image."""


class _Joined:
    """A stream whose first bytes were already read."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._parts: list[IO[bytes]] = [io.BytesIO(head), rest]

    def read(self, size: int, /) -> bytes:
        while self._parts:
            data = self._parts[0].read(size)
            if data:
                return data
            del self._parts[0]
        return b""


def record_hash(digest: str) -> str:
    """A hex sha256 as RECORD writes it: URL-safe base64 without padding."""
    text = binascii.b2a_base64(binascii.unhexlify(digest), newline=False)
    return text.translate(_URL_SAFE).rstrip(b"=").decode()
