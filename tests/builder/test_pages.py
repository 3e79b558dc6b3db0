"""Index pages in both forms, and what is no page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from builder.pages import IndexFile, name_and_version, of_project, parse_page
from images.errors import WainError

JSON = "application/vnd.pypi.simple.v1+json"
URL = "https://index.example/simple/demo/"
SHA = "a" * 64


def test_json() -> None:
    entry = {
        "filename": "demo-1.0-py3-none-any.whl",
        "url": "../../files/demo-1.0-py3-none-any.whl#x",
        "hashes": {"sha256": SHA, "md5": "b"},
        "size": 7,
        "upload-time": "2025-01-02T03:04:05.000006Z",
        "requires-python": ">=3.9",
        "yanked": "broken",
        "core-metadata": {"sha256": SHA},
    }
    plain = {"filename": "demo-1.0.tar.gz", "url": "/d.tar.gz", "hashes": {}, "yanked": False}
    body = json.dumps({"meta": {"api-version": "1.4"}, "files": [entry, plain]}).encode()
    assert parse_page(body, JSON + "; charset=utf-8", URL) == [
        IndexFile(
            "demo-1.0-py3-none-any.whl",
            "https://index.example/files/demo-1.0-py3-none-any.whl",
            SHA,
            7,
            datetime(2025, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
            ">=3.9",
            "broken",
            SHA,
        ),
        IndexFile("demo-1.0.tar.gz", "https://index.example/d.tar.gz"),
    ]


def test_html() -> None:
    body = f"""<!DOCTYPE html><html><head><base href="/files/">
    <meta name="pypi:repository-version" content="1.3"></head><body>
    <a href="demo-1.0%2Bx-py3-none-any.whl#sha256={SHA}" data-requires-python="&gt;=3.9"
       data-yanked data-core-metadata="sha256={SHA}">text</a>
    <a href="https://cdn.example/demo-1.0.tar.gz#md5=1" data-yanked="why">x</a>
    <a name="no-href">x</a><a href="/">up</a></body></html>""".encode()
    files = parse_page(body, "text/html", URL)
    assert files == [
        IndexFile(
            "demo-1.0+x-py3-none-any.whl",
            "https://index.example/files/demo-1.0%2Bx-py3-none-any.whl",
            SHA,
            requires_python=">=3.9",
            yanked="",
            metadata=SHA,
        ),
        IndexFile("demo-1.0.tar.gz", "https://cdn.example/demo-1.0.tar.gz", yanked="why"),
    ]


@pytest.mark.row("I1")
@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"{}", JSON, "no page"),
        (b"[1]", JSON, "no page"),
        (b"\xff", JSON, "no page"),
        (b'{"files": [{"url": 1}]}', JSON, "no page"),
        (b'{"files": ' + b"[" * 100_000, JSON, "no page"),
        (b'{"files": [], "x": ' + b'{"a":' * 100_000, JSON, "no page"),
        (b'{"files": [], "meta": {"api-version": ' + b"1" * 5000 + b"}}", JSON, "no page"),
        (b'{"meta": {"api-version": "2.0"}, "files": []}', JSON, "expected 1.x"),
        (b'<meta name="pypi:repository-version" content="2.1">', "text/html", "expected 1.x"),
        (b"PK", "application/zip", "expected a page of a package index"),
    ],
)
def test_no_page(body: bytes, kind: str, says: str) -> None:
    with pytest.raises(WainError, match=says) as caught:
        parse_page(body, kind, "https://me:c4n4ry@index.example/simple/demo/")
    assert "c4n4ry" not in str(caught.value)
    assert "index.example" in str(caught.value)


HOSTILE = [
    ("demo-1.0\x1b]0;x\x07-py3-none-any.whl", "ok"),
    ("demo-1.0\n-py3-none-any.whl", "ok"),
    ("../demo-1.0-py3-none-any.whl", "ok"),
    ("demo-1.0-py3-none-any/../../x.whl", "ok"),
    ("demo-" + "1" * 300 + ".tar.gz", "ok"),
    ("", "ok"),
    ("demo-1.0-py3-none-any.whl", "javascript:alert(1)"),
    ("demo-1.0-py3-none-any.whl", "file:///etc/passwd"),
    ("demo-1.0-py3-none-any.whl", "data:,x"),
    ("demo-1.0-py3-none-any.whl", "http://[bad"),
]


@pytest.mark.row("I1")
@pytest.mark.parametrize("kind", [JSON, "text/html"])
def test_hostile_entries_are_passed_over(kind: str) -> None:
    """A name that is none, an address that leaves the web: the others still count."""
    good = "demo-2.0-py3-none-any.whl"
    entries = [*HOSTILE, (good, "../files/" + good)]
    if kind == JSON:
        files = [
            {"filename": name, "url": address.replace("ok", f"../files/{good}"), "hashes": {},
             "size": 10**30, "upload-time": "0001-01-01T00:00:00+14:00"}
            for name, address in entries
        ]  # fmt: skip
        body = json.dumps({"files": files}).encode()
    else:
        links = [address.replace("ok", quote(f"../files/{name}")) for name, address in entries]
        body = "".join(
            f'<a data-upload-time="9999-12-31T23:59:59-14:00" href="{link}">x</a>' for link in links
        ).encode()
    found = parse_page(body, kind, "https://index.example/simple/demo/")
    assert {file.url for file in found} <= {
        f"https://index.example/simple/files/{good}",
        # HTML names a file by the end of its address, and these ends are good names.
        "https://index.example/simple/demo-1.0-py3-none-any.whl",
        "https://index.example/simple/x.whl",
    }
    assert good in {file.filename for file in found}
    for file in found:
        assert file.filename.isprintable()
        assert "/" not in file.filename
        assert (file.size, file.upload_time) == (None, None)
    # A folder on this machine may name its own files.
    place = "file:///mirror/simple/demo/index.json"
    local = json.dumps({"files": [{"filename": good, "url": f"file:///files/{good}"}]}).encode()
    assert parse_page(local, JSON, place) == [IndexFile(good, f"file:///files/{good}")]


def test_names() -> None:
    files = [
        IndexFile(name, "")
        for name in ("Demo_X-1.0.tar.gz", "demo.x-2-py3-none-any.whl", "demo-1.0.tar.gz", "x.txt")
    ]
    assert [file.filename for file in of_project(files, "demo-x")] == [
        "Demo_X-1.0.tar.gz",
        "demo.x-2-py3-none-any.whl",
    ]
    assert name_and_version("Demo_X-1.0.tar.gz") == ("demo-x", "1.0")
    assert name_and_version("x.txt") is None
    assert [file.kind for file in files] == ["sdist", "wheel", "sdist", ""]
