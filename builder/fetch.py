"""Lock to wheelhouse: every file by its hash, from wherever the project may take files.

Bytes get into the wheelhouse only when their hash is the locked one and the wheelhouse has
checked them. Files come in parallel; what broke off is continued by the same command again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import BufferedRandom
from pathlib import Path
from typing import NamedTuple

from builder.client import IndexClient, describe
from builder.download import Download, HashError, part_path
from builder.pages import IndexFile
from builder.sources import Sources
from builder.urls import is_file_url, mask, path_of
from images.errors import WainError
from wheelhouse.errors import WheelhouseError
from wheelhouse.index import HashMismatch, Wheelhouse
from wheelhouse.lock import Lock, LockedPackage

Progress = Callable[[str, int, int], None]

_JOBS = 8


class Fetched(NamedTuple):
    """A file of the wheelhouse. ``source``: ``index`` (just fetched) or ``kept``."""

    file: str
    sha256: str
    source: str
    seconds: float


class FetchError(WainError):
    """Files that could not be had. ``failures``: file name → why."""

    def __init__(self, failures: Mapping[str, str], first: Exception) -> None:
        self.failures = dict(failures)
        where = getattr(first, "where", "") or next(iter(failures))
        what = getattr(first, "what", str(first))
        if len(failures) > 1:
            what += f"; and {len(failures) - 1} more files failed: "
            what += ", ".join(list(failures)[1:6])
        super().__init__(where, what, getattr(first, "hint", ""))


class _Missing(WainError):
    pass


def fetch(
    locks: Lock | Iterable[Lock],
    wheelhouse: Wheelhouse,
    sources: Sources,
    *,
    jobs: int = 0,
    places: Mapping[str, str] | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> list[Fetched]:
    """Bring every file of the locks into the wheelhouse; each once, in the order of its name.

    ``places``: sha256 → address where it was found before. Raises FetchError when any file
    cannot be had; all others are there then.
    """
    packages = _unique([locks] if isinstance(locks, Lock) else locks)
    kept, wanted = [], []
    for package in packages:
        file = package.file
        if wheelhouse.has(file.filename, file.sha256):
            kept.append(Fetched(file.filename, file.sha256, "kept", 0.0))
        else:
            wanted.append(package)
    if not wanted:
        return kept
    with _Fetcher(wheelhouse, sources, places or {}, wanted, on_progress) as fetcher:
        fetched = fetcher.run(jobs or _JOBS)
    return sorted([*kept, *fetched], key=lambda one: one.file)


def _unique(locks: Iterable[Lock]) -> list[LockedPackage]:
    found = {(p.file.filename, p.file.sha256): p for lock in locks for p in lock.packages}
    return [found[key] for key in sorted(found)]


class _Fetcher:
    """One run: its client, its counter of bytes, its failures."""

    def __init__(
        self,
        wheelhouse: Wheelhouse,
        sources: Sources,
        places: Mapping[str, str],
        wanted: list[LockedPackage],
        on_progress: Progress,
    ) -> None:
        self._wheelhouse = wheelhouse
        self._sources = sources
        self._places = places
        self._wanted = wanted
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._client: IndexClient | None = None
        self._done = 0
        sizes = [package.file.size for package in wanted]
        self._total = sum(size for size in sizes if size) if all(sizes) else 0
        self._stop = threading.Event()

    def __enter__(self) -> _Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def run(self, jobs: int) -> list[Fetched]:
        """Fetch all. Raises FetchError after the others are done."""
        failures: dict[str, Exception] = {}
        fetched: list[Fetched] = []
        with ThreadPoolExecutor(min(jobs, len(self._wanted))) as pool:
            tasks = {pool.submit(self._fetch, package): package for package in self._wanted}
            try:
                for task in as_completed(tasks):
                    try:
                        fetched.append(task.result())
                    except (WainError, WheelhouseError, OSError) as error:
                        failures[tasks[task].file.filename] = error
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if failures:
            ordered = dict(sorted(failures.items()))
            first = next(iter(ordered.values()))
            raise FetchError({name: mask(str(why)) for name, why in ordered.items()}, first)
        return fetched

    def _fetch(self, package: LockedPackage) -> Fetched:
        begun = time.monotonic()
        file = package.file
        problem: Exception | None = None
        for url in self._addresses(package):
            try:
                self._from(url, package)
            except (WainError, WheelhouseError, OSError) as error:
                # A changed file is worse news than a place that does not answer.
                if problem is None or isinstance(error, HashError | HashMismatch):
                    problem = error
                continue
            return Fetched(file.filename, file.sha256, "index", time.monotonic() - begun)
        if problem is None:
            problem = _Missing(file.filename, "is on none of the configured places", "wain lock")
        raise problem

    def _addresses(self, package: LockedPackage) -> Iterator[str]:
        """Where to try, the likeliest first; the places are asked only when that fails."""
        tried = set()
        for url in (self._places.get(package.file.sha256), package.file.url):
            if url and url not in tried:
                tried.add(url)
                yield url
        listing = self._index().project(package.name)
        named = [file for file in listing.files if file.filename == package.file.filename]
        matching = [file for file in named if file.sha256 in (None, package.file.sha256)]
        for file in matching:
            if file.url not in tried:
                tried.add(file.url)
                yield file.url
        if not matching:
            raise self._not_there(package, named, listing.problems)

    def _not_there(
        self, package: LockedPackage, named: list[IndexFile], problems: tuple[WainError, ...]
    ) -> WainError:
        file = package.file
        if named:
            return HashError(file.filename, named[0].url, file.sha256, named[0].sha256 or "")
        if problems:
            return problems[0]
        return _Missing(
            file.filename,
            f"is no longer on any of {describe(self._sources.all())}",
            f"was {package.name} {package.version} deleted? wain lock --upgrade {package.name}",
        )

    def _index(self) -> IndexClient:
        with self._lock:
            if self._client is None:
                self._client = IndexClient(self._sources)
            return self._client

    def _from(self, url: str, package: LockedPackage) -> None:
        file = package.file
        if is_file_url(url):
            self._add(path_of(url), package, move=False)
            self._count(file.size or 0)
            return
        web = self._index().web
        with _part(self._wheelhouse.partial, file.sha256) as (path, stream):
            self._count(stream.seek(0, 2))
            download = Download(web, url, file.filename, file.sha256, file.size, self._count)
            try:
                download.to(stream, self._sources.settings.retries + 1)
            except HashError:
                path.unlink(missing_ok=True)
                raise
            stream.flush()
            self._add(path, package, move=True)

    def _add(self, path: Path, package: LockedPackage, *, move: bool) -> None:
        file = package.file
        self._wheelhouse.add(
            path,
            filename=file.filename,
            sha256=file.sha256,
            upload_time=file.upload_time,
            move=move,
        )

    def _count(self, length: int) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        with self._lock:
            self._done += length
            stage = f"fetching {len(self._wanted)} files, kB"
            self._on_progress(stage, self._done // 1000, self._total // 1000)


@contextlib.contextmanager
def _part(folder: Path, sha256: str) -> Iterator[tuple[Path, BufferedRandom]]:
    """The part file of a hash, ours alone: a second process fetches into one of its own."""
    path = part_path(folder, sha256)
    stream = path.open("a+b")
    private = False
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its holder may have moved it into the wheelhouse between open and lock.
        private = not path.exists() or not os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except OSError:
        private = True
    if private:
        stream.close()
        path = folder / f"{sha256}.{secrets.token_hex(6)}.part"
        stream = path.open("a+b")
    try:
        yield path, stream
    finally:
        stream.close()
        if private:
            path.unlink(missing_ok=True)
