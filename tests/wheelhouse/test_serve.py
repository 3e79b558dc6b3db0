"""The wheelhouse as an index: pip and uv install from it, served and from the folder."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wheels import make_sdist, make_wheel
from wheelhouse.errors import WheelhouseError
from wheelhouse.index import Wheelhouse
from wheelhouse.pages import HTML_TYPE, JSON_TYPE
from wheelhouse.serve import IndexServer, choose_type

PLAIN = "text/html; charset=utf-8"


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def server(tmp_path: Path, house: Wheelhouse, lines: list[str]) -> Iterator[IndexServer]:
    house.add(make_wheel(tmp_path, "Demo.One", "1.0", requires=["demo-two>=2; python_version>'3'"]))
    house.add(make_wheel(tmp_path, "demo-two", "2.0", requires_python=">=3.8,<4"))
    house.add(make_wheel(tmp_path, "demo-two", "3.0", requires_python=">=4"))
    house.add(make_wheel(tmp_path, "demo-two", "2.0.1+local", tag="cp27-cp27m-win32"))
    house.add(make_sdist(tmp_path, "demo-one", "0.9"))
    with IndexServer(house.folder, on_request=lines.append) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(
    server: IndexServer, path: str, accept: str | None = None, method: str = "GET"
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    headers = {} if accept is None else {"Accept": accept}
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", PLAIN),
        ("", PLAIN),
        ("text/html", PLAIN),
        (JSON_TYPE, JSON_TYPE),
        (HTML_TYPE, HTML_TYPE),
        # pip's, uv's and a browser's
        (f"{JSON_TYPE}, {HTML_TYPE}; q=0.1, text/html; q=0.01", JSON_TYPE),
        (f"{JSON_TYPE}, {HTML_TYPE};q=0.2, text/html;q=0.01", JSON_TYPE),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", PLAIN),
        (f"{JSON_TYPE};q=0.1, {HTML_TYPE}", HTML_TYPE),
        (f"{JSON_TYPE};q=0, text/html", PLAIN),
        (f"{JSON_TYPE};q=much", JSON_TYPE),
    ],
)
def test_content_types(accept: str, expected: str) -> None:
    assert choose_type(accept) == expected


def test_pages_and_files(server: IndexServer, house: Wheelhouse) -> None:
    status, headers, body = get(server, "/simple/", JSON_TYPE)
    assert (status, headers["Content-Type"]) == (200, JSON_TYPE)
    assert [p["name"] for p in json.loads(body)["projects"]] == ["demo-one", "demo-two"]
    status, headers, body = get(server, "/simple/demo-two/")
    assert (status, headers["Content-Type"]) == (200, PLAIN)
    assert b"demo_two-2.0-py3" in body
    entry = house.files("demo-two")[0]
    status, headers, body = get(server, f"/{entry.filename}")
    assert body == house.path(entry.filename).read_bytes()
    status, headers, body = get(server, "/demo_two-2.0.1%2Blocal-cp27-cp27m-win32.whl.metadata")
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    status, headers, body = get(server, f"/{entry.filename}", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(entry.size), b"")


def test_redirects_to_the_one_address(server: IndexServer) -> None:
    for path, where in [
        ("/", "/simple/"),
        ("/simple", "/simple/"),
        ("/simple/demo-two", "/simple/demo-two/"),
        ("/simple/Demo_Two/", "/simple/demo-two/"),
        ("/simple/x%2F..%2F..%2Fy", "/simple/x%2F"),
    ]:
        status, headers, _ = get(server, path)
        if where.endswith("%2F"):
            assert status == 404
        else:
            assert (status, headers["Location"]) == (301, where)


@pytest.mark.parametrize(
    "path",
    [
        "/.meta/lock",
        "/.staging/",
        "/.meta/files/demo-two/",
        "/simple/demo-two/index.json",
        "/simple/../.meta/lock",
        "/simple/%2e%2e/",
        "/simple/../",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/gone-1.0-py3-none-any.whl",
        "/simple/none/",
        "/\x00",
        "/secret.txt",
    ],
)
def test_nothing_else_is_served(path: str, server: IndexServer, house: Wheelhouse) -> None:
    (house.folder / "secret.txt").write_text("x")
    path = path.replace("\x00", "%00")
    assert get(server, path)[0] in (301, 404)
    status, headers, _ = get(server, path)
    if status == 301:
        assert get(server, headers["Location"])[0] == 404


def test_only_reading(server: IndexServer) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert get(server, "/simple/", method=method)[0] == 501


def test_a_client_that_goes_away(server: IndexServer) -> None:
    connection = socket.create_connection(("127.0.0.1", server.server_port))
    connection.sendall(b"GET /simple/ HTT")
    connection.close()
    assert get(server, "/simple/")[0] == 200


def test_requests_are_logged_escaped(server: IndexServer, lines: list[str]) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        connection.sendall(b"GET /\x1b]0;x HTTP/1.0\r\n\r\n")
        while connection.recv(4096):
            pass
    assert lines
    assert all(line.isprintable() for line in lines)


def test_a_port_in_use(server: IndexServer) -> None:
    with pytest.raises(WheelhouseError, match="cannot listen"):
        IndexServer(server.folder, port=server.server_port)
    with pytest.raises(WheelhouseError, match="cannot listen"):
        IndexServer(server.folder, port=70_000)


# --- installers ------------------------------------------------------------------------------


def install(tool: str, index: str, where: Path, *wanted: str) -> subprocess.CompletedProcess[str]:
    if tool == "pip":
        command = ["pip", "install", "--no-cache-dir", "--disable-pip-version-check"]
        command += ["--index-url", index, "--only-binary", ":all:", "--target", str(where)]
    else:
        pytest.importorskip("uv")
        command = ["uv", "pip", "install", "--no-cache", "--python", sys.executable]
        command += ["--default-index", index, "--only-binary", ":all:", "--target", str(where)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command, *wanted],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


def installed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.dist-info"))


@pytest.mark.parametrize("tool", ["pip", "uv"])
@pytest.mark.parametrize("place", ["served", "folder"])
def test_installers_use_it(
    tool: str, place: str, server: IndexServer, tmp_path: Path, lines: list[str]
) -> None:
    index = server.url if place == "served" else (server.folder / "simple").as_uri()
    result = install(tool, index, tmp_path / "x", "demo-one")
    assert result.returncode == 0, result.stderr
    # 3.0 needs a newer Python, 2.0.1+local another platform.
    assert installed(tmp_path / "x") == ["Demo.One-1.0.dist-info", "demo_two-2.0.dist-info"]
    if place == "served":
        # PEP 658: the choice was made on METADATA alone.
        assert any("Demo.One-1.0-py3-none-any.whl.metadata" in line for line in lines)
        assert not any(" 404 " in line for line in lines)


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_installers_refuse_a_corrupt_file(tool: str, server: IndexServer, tmp_path: Path) -> None:
    path = server.folder / "demo_two-2.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    result = install(tool, server.url, tmp_path / "x", "demo-two")
    assert result.returncode != 0
    assert installed(tmp_path / "x") == []
