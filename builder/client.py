"""What the configured places offer for a project: the reading end of package indexes.

An index page may be on the web or in a ``file:`` folder, as JSON or HTML; a find-links entry is
a folder or a page that lists files. A place that has never heard of a project is not an error,
a place that cannot be asked is.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from builder.pages import ACCEPT, IndexFile, of_project, parse_page
from builder.sources import Source, Sources, allowed, asked_for, shown
from builder.urls import file_url, is_file_url, mask, path_of, with_slash
from builder.web import Web, WebError
from images.errors import WainError


class Listing(NamedTuple):
    """The files of one project that count, in the order of the places.

    ``problems``: the places that could not be asked, and why.
    """

    name: str
    files: tuple[IndexFile, ...]
    problems: tuple[WainError, ...]


class IndexClient:
    """Asks every place that may serve a name, all at once. Safe to use from several threads."""

    def __init__(
        self, sources: Sources, web: Web | None = None, *, places: tuple[Source, ...] | None = None
    ) -> None:
        self._places = sources.all() if places is None else places
        self.web = web or Web(sources.settings, sources.addresses())
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="wain-index")
        self._links: dict[str, list[IndexFile]] = {}

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> IndexClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def project(self, name: str) -> Listing:
        """What the places offer for a normalised name.

        Raises AmbiguousError when the name is on an index it is not pinned to.
        """
        places = asked_for(name, self._places)
        answers = list(self._pool.map(lambda place: self._ask(place, name), places))
        found = {
            place: bool(answer)
            for place, answer in zip(places, answers, strict=True)
            if not isinstance(answer, WainError)
        }
        counting = allowed(name, found)
        files: dict[tuple[str, str], IndexFile] = {}
        for place, answer in zip(places, answers, strict=True):
            if place in counting and not isinstance(answer, WainError):
                for file in answer:
                    files.setdefault((file.filename, file.url), file)
        problems = tuple(answer for answer in answers if isinstance(answer, WainError))
        return Listing(name, tuple(files.values()), problems)

    def _ask(self, place: Source, name: str) -> list[IndexFile] | WainError:
        try:
            if place.links:
                files = self._linked(place)
            else:
                files = self._page(with_slash(with_slash(place.url) + name))
        except WainError as error:
            return error
        return of_project(files, name)

    def _page(self, url: str) -> list[IndexFile]:
        if is_file_url(url):
            return read_local_page(url)
        try:
            body, kind, final = self.web.get(url, ACCEPT)
        except WebError as error:
            if error.status in (404, 410):
                return []
            raise
        return parse_page(body, kind, final)

    def _linked(self, place: Source) -> list[IndexFile]:
        if place.url not in self._links:
            if is_file_url(place.url):
                self._links[place.url] = read_links(place.url)
            else:
                self._links[place.url] = self._page(place.url)
        return self._links[place.url]


def read_local_page(url: str) -> list[IndexFile]:
    """The files of a project's folder in a ``file:`` index; none when there is no such folder.

    Like pip, ``index.html`` in it is read; ``index.json`` is preferred, being more exact.
    """
    folder = path_of(url)
    for name, kind in (
        ("index.json", "application/vnd.pypi.simple.v1+json"),
        ("index.html", "text/html"),
    ):
        path = folder / name
        try:
            body = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise WainError(mask(url), f"cannot be read: {error.strerror}") from None
        return [_sized(file) for file in parse_page(body, kind, file_url(path))]
    return []


def read_links(url: str) -> list[IndexFile]:
    """The files a local find-links entry offers: those of a folder, or those a page links to.

    An entry that is not there offers nothing, as with pip.
    """
    path = path_of(url)
    if path.is_dir():
        return [
            _sized(IndexFile(entry.name, file_url(entry)))
            for entry in sorted(path.iterdir())
            if entry.suffix in (".whl", ".gz", ".zip")
        ]
    try:
        return [_sized(file) for file in parse_page(path.read_bytes(), "text/html", file_url(path))]
    except OSError:
        return []


def _sized(file: IndexFile) -> IndexFile:
    """A file on this machine with its size."""
    if not is_file_url(file.url):
        return file
    try:
        return file._replace(size=path_of(file.url).stat().st_size)
    except OSError:
        return file


def size_of(web: Web, url: str) -> int | None:
    """The size in bytes an address announces; None when it does not say."""
    if is_file_url(url):
        path = Path(path_of(url))
        return path.stat().st_size if path.is_file() else None
    with web.open(url, method="HEAD") as answer:
        length = answer.response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def sizes_of(web: Callable[[], Web], urls: list[str], jobs: int = 16) -> dict[str, int]:
    """The sizes of many addresses, asked for at once; those that do not say are left out."""
    sizes: dict[str, int] = {}
    remote = [url for url in urls if not is_file_url(url)]
    for url in urls:
        if is_file_url(url) and path_of(url).is_file():
            sizes[url] = path_of(url).stat().st_size
    if remote:
        client = web()

        def ask(url: str) -> tuple[str, int | None]:
            try:
                return url, size_of(client, url)
            except WainError:
                return url, None

        with ThreadPoolExecutor(min(jobs, len(remote))) as pool:
            sizes.update({url: size for url, size in pool.map(ask, remote) if size is not None})
    return sizes


def describe(places: tuple[Source, ...]) -> str:
    """The places for a message, without logins."""
    return ", ".join(shown(place) for place in places)
