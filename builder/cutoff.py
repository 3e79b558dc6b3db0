"""``exclude-newer``: the world as it was at a moment, also where an index gives no times.

A file counts when it is known to have been there before the cut-off: by the index's upload time;
else, for a file on this machine, by its own time; else by the ``Last-Modified`` its server gives.
A file of which nothing is known is left out, and the user is told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from builder.pages import IndexFile, name_and_version
from builder.urls import is_file_url, path_of
from builder.web import Web
from images.errors import WainError
from wheelhouse.target import Target

# So many files of a project are asked for their time, those of the newest versions first.
_ASKED = 400
_JOBS = 16


class CutOff:
    """The cut-off of one resolution. ``moment`` is aware; files from it on are left out."""

    def __init__(self, moment: datetime, target: Target, web: Callable[[], Web]) -> None:
        self._moment = moment.astimezone(UTC)
        self._target = target
        self._web = web
        self._lock = threading.Lock()
        self._served: set[str] = set()
        self._unknown: dict[str, int] = {}

    def filter(self, name: str, files: Iterable[IndexFile]) -> tuple[IndexFile, ...]:
        """The files from before the cut-off, each with the time that says so."""
        listed = list(files)
        times = self._times(name, [file for file in listed if file.upload_time is None])
        kept = []
        for file in listed:
            time = file.upload_time or times.get(file.url)
            if time is not None and time < self._moment:
                kept.append(file._replace(upload_time=time))
        return tuple(kept)

    def notes(self) -> tuple[str, ...]:
        """What to tell the user about files without upload times."""
        notes = [
            f"{place} gives no upload times: exclude-newer went by the time of each file there"
            for place in sorted(self._served)
        ]
        if self._unknown:
            names = ", ".join(sorted(self._unknown))
            count = sum(self._unknown.values())
            notes.append(f"{count} files without any time were left out by exclude-newer: {names}")
        return tuple(notes)

    def _times(self, name: str, files: list[IndexFile]) -> dict[str, datetime]:
        times: dict[str, datetime] = {}
        remote = []
        for file in files:
            if is_file_url(file.url):
                time = _local_time(file.url)
                if time is not None:
                    times[file.url] = time
            elif self._usable(file):
                remote.append(file)
        remote.sort(key=_version_key, reverse=True)
        if remote:
            with ThreadPoolExecutor(_JOBS) as pool:
                found = pool.map(self._remote_time, [file.url for file in remote[:_ASKED]])
                times.update(
                    {
                        file.url: time
                        for file, time in zip(remote, found, strict=False)
                        if time is not None
                    }
                )
        unknown = sum(file.url not in times for file in remote)
        with self._lock:
            self._served |= {_place(file.url) for file in files if file.url in times}
            if unknown:
                self._unknown[name] = unknown
        return times

    def _usable(self, file: IndexFile) -> bool:
        if file.kind != "wheel":
            return file.kind == "sdist"
        try:
            return self._target.rank(parse_wheel_filename(file.filename)[3]) is not None
        except InvalidWheelFilename:
            return False

    def _remote_time(self, url: str) -> datetime | None:
        try:
            with self._web().open(url, method="HEAD") as answer:
                text = answer.response.headers.get("last-modified", "")
            return parsedate_to_datetime(text).astimezone(UTC) if text else None
        except (WainError, ValueError):
            return None


def _place(url: str) -> str:
    if is_file_url(url):
        return str(path_of(url).parent)
    return urlsplit(url).netloc.rpartition("@")[2]


def _local_time(url: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(path_of(url).stat().st_mtime, UTC)
    except OSError:
        return None


def _version_key(file: IndexFile) -> Version:
    parsed = name_and_version(file.filename)
    return Version(parsed[1]) if parsed else Version("0")
