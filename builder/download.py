"""One file by its sha256: hashed as it is read, resumed where it broke off, never spliced.

Rules, in order:

1. What a part file holds is hashed anew before it is continued.
2. A continuation counts only when the server says that it begins exactly there; otherwise the
   file is begun again.
3. Never more bytes are taken than the lock, or else the server, announced.
4. A source that stops, or that only drips, is given up for this attempt; the attempts are few.
5. Bytes with another hash never leave the part file: continued ones are begun again once, others
   are an error with both hashes, and the part is gone.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from io import BufferedRandom
from pathlib import Path

import urllib3

from builder.urls import mask
from builder.web import Web, WebError
from images.errors import WainError

# A file of unknown size may be this long. Bytes.
MAX_BYTES = 8 << 30
# Less than this many bytes in this many seconds is no download.
STALL_BYTES = 16 << 10
STALL_SECONDS = 60.0
# An attempt that brought this many bytes does not count against the limit.
_PROGRESS = 1 << 20
_BLOCK = 1 << 18
_PAUSE = 0.2
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

Counter = Callable[[int], None]


class HashError(WainError):
    """Bytes with another hash than the lock's: ``expected`` and ``found`` are sha256."""

    def __init__(self, filename: str, url: str, expected: str, found: str) -> None:
        self.filename = filename
        self.expected = expected
        self.found = found
        super().__init__(
            filename,
            f"{mask(url)} has sha256 {found}, the lock has {expected}",
            "the file was changed after it was locked; find out why before you lock it again",
        )


class Download:
    """One file from one address. ``size`` is the locked size in bytes, None when unknown."""

    def __init__(
        self,
        web: Web,
        url: str,
        filename: str,
        sha256: str,
        size: int | None,
        count: Counter = lambda _: None,
    ) -> None:
        self._web = web
        self._url = url
        self._filename = filename
        self._sha256 = sha256
        self._size = size
        self._count = count

    def to(self, stream: BufferedRandom, attempts: int = 6) -> None:
        """Bring the whole file into ``stream``, an open part file that is read and written.

        Raises WebError and HashError. After a WebError the part holds what came so far.
        """
        left = attempts
        clean = False
        while True:
            before = _length(stream)
            try:
                continued = self._attempt(stream)
            except WebError as error:
                if not error.passing:
                    raise
                if _length(stream) - before < _PROGRESS:
                    left -= 1
                if left <= 0:
                    raise
                time.sleep(_PAUSE * 2 ** max(0, attempts - left - 1))
                continue
            found = _digest(stream)
            if found == self._sha256:
                return
            self._count(-_length(stream))
            stream.truncate(0)
            if clean or not continued:
                raise HashError(self._filename, self._url, self._sha256, found)
            clean = True

    def _attempt(self, stream: BufferedRandom) -> bool:
        """One request; whether it continued bytes of an earlier one. Raises WebError."""
        begin = stream.seek(0, 2)
        if self._size is not None and begin >= self._size:
            if begin == self._size:
                return True
            self._restart(stream)
            begin = 0
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        try:
            with self._web.open(self._url, headers) as answer:
                response = answer.response
                if begin and _begins_at(response) != begin:
                    self._restart(stream)
                    begin = 0
                self._read(response, stream, begin)
        except WebError as error:
            # The part is as long as the whole, or longer: it is no beginning of this file.
            if error.status == 416:
                self._restart(stream)
                raise WebError(self._url, "would not continue the file", passing=True) from None
            raise
        return begin > 0

    def _restart(self, stream: BufferedRandom) -> None:
        self._count(-_length(stream))
        stream.seek(0)
        stream.truncate(0)

    def _read(self, response: urllib3.BaseHTTPResponse, stream: BufferedRandom, begin: int) -> None:
        announced = response.headers.get("content-length", "")
        whole = begin + int(announced) if announced.isdigit() else None
        if self._size is not None and whole is not None and whole != self._size:
            raise WebError(
                self._url, f"announces {whole} bytes, the lock has {self._size}", status=200
            )
        limit = self._size if self._size is not None else whole or MAX_BYTES
        position = begin
        window, received = time.monotonic(), 0
        while block := response.read1(_BLOCK):
            position += len(block)
            if position > limit:
                self._restart(stream)
                raise WebError(self._url, f"sends more than the announced {limit} bytes")
            stream.write(block)
            self._count(len(block))
            received += len(block)
            now = time.monotonic()
            if now - window >= STALL_SECONDS:
                if received < STALL_BYTES:
                    raise WebError(
                        self._url, f"sent {received} bytes in {now - window:.0f} s", passing=True
                    )
                window, received = now, 0
        wanted = self._size if self._size is not None else whole
        if wanted is not None and position < wanted:
            raise WebError(self._url, f"ended after {position} of {wanted} bytes", passing=True)


def _begins_at(response: urllib3.BaseHTTPResponse) -> int | None:
    """Where a partial answer says that it begins; None for a whole one."""
    if response.status != 206:
        return None
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    return int(match[1]) if match else None


def _length(stream: BufferedRandom) -> int:
    return stream.seek(0, 2)


def _digest(stream: BufferedRandom) -> str:
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def part_path(folder: Path, sha256: str) -> Path:
    """The part file of a hash."""
    return folder / f"{sha256}.part"
