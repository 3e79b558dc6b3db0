"""Logins: where they come from, and to whom they go."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.pipconfig import PipSettings
from builder.web import Web, WebError
from tests.support.httpserver import Handler, Server, serving

CANARY = "c4n4ry"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as served:
        yield served


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """A `keyring` command that knows one login, and returns what it was asked."""
    log = tmp_path / "asked"
    command = tmp_path / "bin" / "keyring"
    command.parent.mkdir()
    command.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        f"if '127.0.0.1' in sys.argv[-1]: print('me'); print({CANARY!r})\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))

    def asked() -> list[list[str]]:
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    return asked


def test_keyring_is_asked_when_a_login_is_wanted(
    server: Server, keyring: Callable[[], list[list[str]]]
) -> None:
    server.login = ("me", CANARY)
    server.put("/page", b"hello")
    web = Web(PipSettings())
    assert web.get(server.url + "/page")[0] == b"hello"
    assert web.get(server.url + "/page")[0] == b"hello"
    assert keyring() == [["--mode", "creds", "get", server.url + "/page"]]
    with pytest.raises(WebError, match="401"):
        Web(PipSettings(keyring="disabled")).get(server.url + "/page")
    assert len(keyring()) == 1


@pytest.mark.parametrize("host", ["-h", "--help", "-x:80"])
def test_a_host_never_becomes_an_option(
    host: str, keyring: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of an address reaches the command, it is no option there."""

    def refused(*_: object) -> object:
        class Answer:
            status = 401
            reason = "no"
            headers: dict[str, str] = {}  # noqa: RUF012

            def close(self) -> None:
                pass

        return Answer()

    monkeypatch.setattr(Web, "_send", refused)
    for address in (f"http://{host}/x", f"http://me@{host}/x"):
        with pytest.raises(WebError, match="401"):
            Web(PipSettings()).get(address)
    assert len(keyring()) >= 1
    assert all(not words[-1].startswith("-") for words in keyring())


def test_netrc_knows_hosts_without_their_port(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text(f"machine 127.0.0.1 login me password {CANARY}\n")
    monkeypatch.setenv("NETRC", str(path))
    server.login = ("me", CANARY)
    server.put("/page", b"hello")
    assert Web(PipSettings()).get(server.url + "/page")[0] == b"hello"


@pytest.mark.row("L1")
def test_a_redirect_to_another_host_gets_no_login(server: Server) -> None:
    """Not the one of the index, and not one that was written into the redirect."""
    with serving() as other:
        other.put("/page", b"hello")
        place = other.url.replace("127.0.0.1", "localhost")

        def redirect(handler: Handler) -> None:
            handler.reply(302, b"", Location=place + "/page")

        server.behave["/page"] = redirect
        start = server.url.replace("://", f"://me:{CANARY}@") + "/page"
        web = Web(PipSettings(), [server.url.replace("://", f"://me:{CANARY}@")])
        body, _, final = web.get(start)
        assert (body, final) == (b"hello", place + "/page")
        wanted = "Basic " + base64.b64encode(f"me:{CANARY}".encode()).decode()
        assert server.asked("/page")[0]["authorization"] == wanted
        assert "authorization" not in {name.lower() for name in other.asked("/page")[0]}


@pytest.mark.row("I1")
def test_a_page_without_end(server: Server) -> None:
    """Also one that is small on the line and huge when it is unpacked."""
    import gzip

    packed = gzip.compress(b" " * (64 << 20))

    def answer(handler: Handler) -> None:
        handler.reply(200, packed, Content_Encoding="gzip")

    server.behave["/page"] = answer
    with pytest.raises(WebError, match="no page of an index is"):
        Web(PipSettings()).get(server.url + "/page", limit=1 << 20)
