"""Hooks and health checks on a host."""

from __future__ import annotations

import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.session import HostError, Session
from images.manifest import Manifest
from tests.support.hosts import Host, until


@pytest.fixture
def session(host: Host, old: Manifest) -> Iterator[Session]:
    host.deploy(old)
    with host.open() as session:
        yield session


def alive(group: int) -> list[str]:
    """Processes of a group that are not only waiting to be reaped."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(name)
    return found


@pytest.mark.row("A6")
def test_a_failing_command(session: Session) -> None:
    result = session.run("echo out; echo err >&2; exit 3", 10)
    assert (result.status, result.output, result.ok) == (3, "out\nerr\n", False)


@pytest.mark.row("A6")
def test_a_hanging_command_is_ended_with_all_its_children(session: Session, host: Host) -> None:
    began = time.monotonic()
    result = session.run("trap '' TERM; sleep 77 & echo $$ > {root}/pid; sleep 78", 0.5)
    assert result.timed_out
    assert not result.ok
    assert time.monotonic() - began < 5
    group = int(Path(host.root, "pid").read_text())
    until(lambda: not alive(group))


def test_a_service_left_behind_lives_on(session: Session) -> None:
    result = session.run("sleep 60 & echo $!", 5)
    assert result.ok
    assert result.seconds < 2
    pid = int(result.output)
    os.kill(pid, 9)


@pytest.mark.row("K4")
def test_a_command_inherits_nothing(session: Session, host: Host) -> None:
    session.quarantine("0" * 64, "takes the lock")
    result = session.run("ls -l /proc/self/fd; cat", 5)
    assert host.root not in result.output.replace("releases", "")
    assert "pipe:" in result.output
    session.run("setsid sleep 5 < /dev/null > /dev/null 2>&1 & echo", 5)
    session.close()
    with host.open() as other:
        other.quarantine("1" * 64, "the lock is free")


def test_placeholders_and_settings(session: Session, host: Host, old: Manifest) -> None:
    settings = Path(host.root, "settings.env")
    settings.write_text("# local\nTOKEN = 'canary-token-42'\nMODE=dev\n\n")
    result = session.run(
        "echo {id} $WAIN_ID; cd {release} && pwd; echo {root} $MODE $TOKEN", 5,
        env_file=str(settings),
    )  # fmt: skip
    release = f"{host.root}/releases/{old.image_id}"
    assert result.output == f"{old.image_id} {old.image_id}\n{release}\n{host.root} dev ***\n"


@pytest.mark.row("L1")
def test_a_setting_never_leaves_the_host(session: Session, host: Host) -> None:
    settings = Path(host.root, "settings.env")
    settings.write_text('DATABASE_URL="postgres://app:canary-pw@db/app"\n')
    result = session.run("env; exit 1", 5, env_file=str(settings))
    assert "canary" not in result.output
    assert "DATABASE_URL=***" in result.output
    for path in Path(host.root).rglob("*"):
        if path.is_file() and path != settings:
            assert b"canary" not in path.read_bytes()


@pytest.mark.parametrize(
    ("text", "mode", "what"),
    [
        (None, 0o644, "No such file"),
        ("A=1", 0o666, "may be written by others"),
        ("just words", 0o644, "settings.env:1: expected NAME=value"),
    ],
)
def test_settings_that_cannot_be_used(
    session: Session, host: Host, text: str | None, mode: int, what: str
) -> None:
    settings = Path(host.root, "settings.env")
    if text is not None:
        settings.write_text(text)
        settings.chmod(mode)
    with pytest.raises(HostError, match=what):
        session.run("true", 5, env_file=str(settings))


@pytest.mark.row("W12")
def test_endless_output_is_capped(session: Session) -> None:
    result = session.run("echo begin; yes | head -c 30000000; echo end", 20)
    assert len(result.output) < 70000
    assert result.output.startswith("begin\n")
    assert result.output.endswith("end\n")
    assert "bytes left out" in result.output


def test_a_path_with_a_space_is_one_word(tmp_path: Path, host: Host, old: Manifest) -> None:
    (tmp_path / "a b").mkdir()
    host.root = str(tmp_path / "a b" / "app")
    host.deploy(old)
    with host.open() as session:
        assert session.run("{release}/bin/app", 5).output == "old\n"


@pytest.mark.row("C5")
def test_the_end_of_the_controller_ends_a_running_command(session: Session, host: Host) -> None:
    ready = Path(host.root, "ready")
    thread = threading.Thread(target=_quiet, args=(session, f"echo $$ > {ready}; sleep 60"))
    thread.start()
    until(lambda: ready.exists() and ready.read_text().strip())
    session._channel.close_write()
    thread.join(10)
    group = int(ready.read_text())
    until(lambda: not alive(group))


def _quiet(session: Session, command: str) -> None:
    with pytest.raises(HostError):
        session.run(command, 60)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(1.0)
        self.send_response({"/ok?x=1": 204, "/moved": 302}.get(self.path, 500))
        self.send_header("Location", "/ok?x=1")
        self.end_headers()
        if self.path == "/secrets":
            self.wfile.write(b"it is canary-token-42, pin1" + b"-" * 2015 + b"canary-token-42")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.row("A6")
@pytest.mark.row("L1")
def test_http_probes(session: Session, host: Host) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    assert session.http(f"{at}/ok?x=1", 5).ok
    assert "HTTP 302" in session.http(f"{at}/moved", 5).output
    assert not session.http(f"{at}/broken", 5).ok
    slow = session.http(f"{at}/slow", 0.2)
    assert slow.timed_out
    settings = Path(host.root, "settings.env")
    settings.write_text("TOKEN=canary-token-42\nPIN=pin1\nMODE=it\n")
    shown = session.http(f"{at}/secrets", 5, env_file=str(settings)).output
    assert shown.startswith("HTTP 500 Internal Server Error\nit is ***, ***---")
    assert shown.endswith("---***")  # half of one, where the answer is cut
    server.shutdown()
    server.server_close()
    assert "refused" in session.http(f"{at}/ok", 5).output
    with pytest.raises(HostError, match="no http address"):
        session.http("file:///etc/passwd", 5)


@pytest.mark.row("L1")
@pytest.mark.parametrize("shift", [1, 9, 16])
def test_half_a_secret_is_not_shown_where_output_is_cut(
    session: Session, host: Host, shift: int
) -> None:
    settings = Path(host.root, "settings.env")
    settings.write_text("TOKEN=canary-token-4242\n")
    size = 32768 - shift
    command = f"""printf %{size}s; printf %s "$TOKEN"; printf %90000s; printf %s "$TOKEN"
    printf %{32768 - shift}s"""
    result = session.run(command, 20, env_file=str(settings))
    assert "bytes left out" in result.output
    shown = result.output.partition("[")[0].strip() + result.output.partition("out]")[2].strip()
    assert shown == "******"
