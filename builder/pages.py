"""Pages of the simple repository API: JSON and HTML, and plain folders of files.

Follows the simple repository API specification, versions 1.0 to 1.4 (PEP 503, 592, 629, 658,
691, 700, 714). A page of another major version is refused; what an entry leaves out is None.
``data-upload-time`` in HTML is no part of it, but some mirrors give it.

A page is foreign text. Entries that no installer could take are passed over: names that are no
file names, addresses that lead anywhere but to the web (from a folder: or to this machine).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urljoin

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from builder.urls import filename_of, is_file_url, mask
from images.errors import WainError

ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.01"
)
_JSON = "application/vnd.pypi.simple.v1+json"
_RUNS = re.compile(r"[-_.]+")
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+!\-]{0,254}")
_MAX_SIZE = 1 << 53
_SHA256 = re.compile(r"[0-9a-f]{64}")


class IndexFile(NamedTuple):
    """A file an index offers. ``url`` is absolute, without fragment; sizes are in bytes.

    ``yanked`` is None, or the reason (which may be empty). ``metadata`` is the sha256 of the
    ``.metadata`` file beside it, "" when it is there without a hash, None without one.
    """

    filename: str
    url: str
    sha256: str | None = None
    size: int | None = None
    upload_time: datetime | None = None
    requires_python: str | None = None
    yanked: str | None = None
    metadata: str | None = None

    @property
    def kind(self) -> str:
        """``wheel``, ``sdist``, or empty for anything else."""
        if self.filename.endswith(".whl"):
            return "wheel"
        return "sdist" if self.filename.endswith((".tar.gz", ".zip")) else ""


def parse_page(body: bytes, content_type: str, url: str) -> list[IndexFile]:
    """The files of a project's page. Raises WainError for what is no such page."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _JSON:
        return _parse_json(body, url)
    if kind in ("text/html", "application/vnd.pypi.simple.v1+html", ""):
        return _parse_html(body, url)
    raise WainError(
        mask(url), f"answered {kind!a}, expected a page of a package index", "is this an index?"
    )


def of_project(files: Iterable[IndexFile], name: str) -> list[IndexFile]:
    """Those files whose names begin with this normalised project name.

    Cheap, since pages are long: whether such a name is a good one shows when it is parsed.
    """
    prefix = f"{name}-"
    return [file for file in files if _RUNS.sub("-", file.filename.lower()).startswith(prefix)]


def name_and_version(filename: str) -> tuple[str, str] | None:
    """(normalised name, version) of a wheel's or sdist's file name; None when it is neither."""
    try:
        if filename.endswith(".whl"):
            name, version, _, _ = parse_wheel_filename(filename)
        else:
            name, version = parse_sdist_filename(filename)
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None
    return canonicalize_name(name), str(version)


def _parse_json(body: bytes, url: str) -> list[IndexFile]:
    try:
        page = json.loads(body)
        version = str(page.get("meta", {}).get("api-version", "1.0"))
        _check_version(version, url)
        return _usable((_json_file(entry, url) for entry in page["files"]), url)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WainError(
            mask(url), f"is no page of a package index: {type(error).__name__} in its JSON"
        ) from None


def _check_version(version: str, url: str) -> None:
    if version.partition(".")[0] != "1":
        raise WainError(
            mask(url),
            f"speaks version {version!a} of the simple repository API, expected 1.x",
            "a newer wainwright may know it",
        )


def _json_file(entry: Mapping[str, object], url: str) -> IndexFile:
    hashes = entry.get("hashes") or {}
    yanked = entry.get("yanked", False)
    size = entry.get("size")
    metadata = entry.get("core-metadata", entry.get("dist-info-metadata"))
    requires = entry.get("requires-python")
    return IndexFile(
        filename=str(entry["filename"]),
        url=_joined(url, str(entry["url"]))[0],
        sha256=_sha256(hashes.get("sha256")) if isinstance(hashes, Mapping) else None,
        size=size if type(size) is int and 0 <= size <= _MAX_SIZE else None,
        upload_time=_moment(entry.get("upload-time")),
        requires_python=requires if isinstance(requires, str) else None,
        yanked=(yanked if isinstance(yanked, str) else "") if yanked else None,
        metadata=_metadata(metadata),
    )


def _usable(files: Iterable[IndexFile], url: str) -> list[IndexFile]:
    """Those with a file name for a name, at an address this page may send anybody to."""
    schemes = ("http://", "https://") + (("file:",) if is_file_url(url) else ())
    return [
        file
        for file in files
        if _FILENAME.fullmatch(file.filename) and file.url.lower().startswith(schemes)
    ]


def _joined(base: str, address: str) -> tuple[str, str]:
    """The absolute address and its fragment; empty for one that cannot be taken apart."""
    try:
        joined, fragment = urldefrag(urljoin(base, address))
    except ValueError:
        return "", ""
    return joined, fragment


def _metadata(value: object) -> str | None:
    if isinstance(value, Mapping):
        return _sha256(value.get("sha256")) or ""
    return "" if value is True else None


class _Links(HTMLParser):
    """Collects the anchors of a page, its base address and its API version."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.base = ""
        self.version = "1.0"
        self.anchors: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.anchors.append(dict(attrs))
        elif tag == "base" and not self.base:
            self.base = dict(attrs).get("href") or ""
        elif tag == "meta" and dict(attrs).get("name") == "pypi:repository-version":
            self.version = dict(attrs).get("content") or "1.0"


def _parse_html(body: bytes, url: str) -> list[IndexFile]:
    links = _Links()
    links.feed(body.decode("utf-8", "replace"))
    links.close()
    _check_version(links.version, url)
    base = _joined(url, links.base)[0] or url
    files = []
    for anchor in links.anchors:
        href = anchor.get("href")
        if not href:
            continue
        address, fragment = _joined(base, href.strip())
        filename = filename_of(address)
        if not filename:
            continue
        metadata = anchor.get("data-core-metadata", anchor.get("data-dist-info-metadata"))
        files.append(
            IndexFile(
                filename=filename,
                url=address,
                sha256=_fragment_hash(fragment),
                upload_time=_moment(anchor.get("data-upload-time")),
                requires_python=anchor.get("data-requires-python"),
                yanked=(anchor["data-yanked"] or "") if "data-yanked" in anchor else None,
                metadata=None if metadata is None else _fragment_hash(metadata) or "",
            )
        )
    return _usable(files, url)


def _fragment_hash(fragment: str) -> str | None:
    for part in unquote(fragment).split("&"):
        name, _, value = part.partition("=")
        if name == "sha256":
            return _sha256(value)
    return None


def _sha256(value: object) -> str | None:
    text = value.lower() if isinstance(value, str) else ""
    return text if _SHA256.fullmatch(text) else None


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
