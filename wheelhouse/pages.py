"""The static pages of the wheelhouse's index: HTML and JSON, from entries alone.

Follows the simple repository API: PEP 503 (HTML), PEP 691 (JSON), PEP 700 (sizes, versions,
upload times) and PEP 658/714 (METADATA beside the file). Addresses are relative, so the
folder works from any place, also as ``file:``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from urllib.parse import quote

from wheelhouse.entry import Entry, write_time

API_VERSION = "1.1"
JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "application/vnd.pypi.simple.v1+html"
_TO_FILES = "../../"


def project_json(name: str, entries: Iterable[Entry]) -> bytes:
    """The JSON page of one project."""
    files = list(entries)
    document = {
        "meta": {"api-version": API_VERSION},
        "name": name,
        "versions": sorted({str(entry.version) for entry in files}),
        "files": [_json_file(entry) for entry in files],
    }
    return _dump(document)


def _json_file(entry: Entry) -> dict[str, object]:
    metadata: object = False
    if entry.metadata_sha256:
        metadata = {"sha256": entry.metadata_sha256}
    document: dict[str, object] = {
        "filename": entry.filename,
        "url": _TO_FILES + quote(entry.filename),
        "hashes": {"sha256": entry.sha256},
        "size": entry.size,
        "upload-time": write_time(entry.upload_time),
        "core-metadata": metadata,
        # The name PEP 658 first had; older pips look for this one.
        "dist-info-metadata": metadata,
        "yanked": False,
    }
    if entry.requires_python:
        document["requires-python"] = entry.requires_python
    return document


def project_html(name: str, entries: Iterable[Entry]) -> bytes:
    """The HTML page of one project."""
    lines = []
    for entry in entries:
        attributes = [f'href="{_TO_FILES}{quote(entry.filename)}#sha256={entry.sha256}"']
        if entry.requires_python:
            attributes.append(f'data-requires-python="{escape(entry.requires_python)}"')
        if entry.metadata_sha256:
            for key in ("data-core-metadata", "data-dist-info-metadata"):
                attributes.append(f'{key}="sha256={entry.metadata_sha256}"')
        lines.append(f"<a {' '.join(attributes)}>{escape(entry.filename)}</a><br>")
    return _html(f"Links for {name}", lines)


def root_json(names: Iterable[str]) -> bytes:
    """The JSON page that lists the projects."""
    return _dump({"meta": {"api-version": API_VERSION}, "projects": [{"name": n} for n in names]})


def root_html(names: Iterable[str]) -> bytes:
    """The HTML page that lists the projects."""
    return _html("Simple index", [f'<a href="{name}/">{name}</a><br>' for name in names])


def _html(title: str, lines: list[str]) -> bytes:
    head = (
        "<!DOCTYPE html>\n<html>\n<head>\n"
        f'<meta name="pypi:repository-version" content="{API_VERSION}">\n'
        f'<meta charset="utf-8">\n<title>{escape(title)}</title>\n</head>\n<body>\n'
    )
    body = "".join(f"{line}\n" for line in lines)
    return (head + body + "</body>\n</html>\n").encode()


def _dump(document: object) -> bytes:
    return (json.dumps(document, separators=(",", ":")) + "\n").encode()
