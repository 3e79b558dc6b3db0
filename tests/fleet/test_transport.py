"""Hosts over a real sshd: what reaches them, and what every failure is called."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleet import ssh
from fleet.pack import Packs
from fleet.session import HostError, Session
from fleet.transport import SshTransport
from images.manifest import Manifest
from images.store import Store
from tests.support.hosts import Host, until
from tests.support.sshd import Sshd, free_port, make_key

pytestmark = [pytest.mark.sshd, pytest.mark.xdist_group("sshd")]


@pytest.fixture
def remote(sshd: Sshd, store: Store, packs: Packs) -> Host:
    return Host(sshd.transport(1), sshd.root(1), store, packs)


def refused(transport: SshTransport, timeout: float = 20) -> HostError:
    """The error of a session that must not come to be; nothing was left running or written."""
    root = f"{tempfile.gettempdir()}/wain-{os.urandom(6).hex()}/app"
    with pytest.raises(HostError) as caught:
        Session.open(transport, root, "/usr/bin/python3", timeout=timeout)
    assert str(caught.value).startswith(f"{transport.name}: ")
    assert "\n" not in str(caught.value)
    assert not os.path.exists(root)
    return caught.value


def test_the_whole_way_over_ssh(remote: Host, old: Manifest, new: Manifest) -> None:
    remote.deploy(old)
    remote.deploy(new)
    with remote.open() as session:
        assert session.run("{release}/bin/app; echo $HOME", 10).output.startswith("new\n")
        assert session.rollback(None, new.image_id)[0] == old.image_id
        assert session.bytes_sent == 0
    assert remote.current == old.image_id


def test_the_timer_survives_the_connection(
    remote: Host, old: Manifest, new: Manifest, sshd: Sshd
) -> None:
    remote.deploy(old)
    session = remote.open()
    remote.stage(session, new)
    remote.switch(session, new, 1.0)
    parent = int(session.run("cut -d' ' -f4 /proc/$PPID/stat", 1).output)
    os.kill(parent, signal.SIGKILL)
    with pytest.raises(HostError) as caught:
        session.run("true", 5)
    assert caught.value.kind == "agent-died"
    until(lambda: remote.current == old.image_id)


# Host keys


@pytest.mark.row("H1")
def test_an_unknown_host_key(sshd: Sshd, tmp_path: Path) -> None:
    empty = tmp_path / "none"
    empty.write_text("")
    error = refused(sshd.transport(1, known_hosts=str(empty)))
    assert error.kind == "hostkey"
    assert "is not in known_hosts" in str(error)
    assert fingerprint(sshd.folder / "host_key") in str(error)
    assert "Accepted publickey" not in sshd.log.read_text()


@pytest.mark.row("H1")
def test_a_changed_host_key_names_both(sshd: Sshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    sshd.know(other)
    error = refused(sshd.transport(1))
    assert error.kind == "hostkey"
    assert "changed" in str(error)
    assert fingerprint(sshd.folder / "host_key") in str(error)
    assert fingerprint(tmp_path / "other") in str(error)
    assert "Accepted publickey" not in sshd.log.read_text()


@pytest.mark.row("H1")
def test_a_key_of_another_type_and_a_revoked_one(sshd: Sshd, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "ecdsa"], check=True
    )
    sshd.know((tmp_path / "ecdsa.pub").read_text())
    assert "changed: it shows ssh-ed25519 SHA256:" in str(refused(sshd.transport(1)))
    sshd.know(sshd.host_key)
    with sshd.known_hosts.open("a") as file:
        file.write(f"@revoked * {sshd.host_key}\n")
    error = refused(sshd.transport(1))
    assert error.kind == "hostkey"
    assert "is revoked" in str(error)


def test_known_hosts_as_ssh_writes_them(sshd: Sshd, store: Store, packs: Packs) -> None:
    """Hashed, patterns, an alias, several keys of one type, a damaged line."""
    key = " ".join(sshd.host_key.split()[:2])
    wrong = " ".join(make_key(sshd.folder / "wrong").split()[:2])
    name = f"[127.0.0.1]:{sshd.port}"
    sshd.known_hosts.write_text(f"{name} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", sshd.known_hosts], check=True)
    hashed = sshd.known_hosts.read_text()
    assert hashed.startswith("|1|")
    config = sshd.folder / "config"
    config.write_text("Host 127.0.0.1\n  HostKeyAlias shop-web\n")
    for text, own in (
        (hashed, "/dev/null"),
        (f"[127.0.*]:{sshd.port} {key}\n", "/dev/null"),
        (f"127.0.0.1 {key}\n", "/dev/null"),
        (f"{name} {wrong}\n{name} {key}\n", "/dev/null"),
        (
            f"{name} ssh-ed25519 AAAA!!\n{name} what\n@cert-authority * {key}\n{name} {key}",
            "/dev/null",
        ),
        (f"shop-web {key}\n", str(config)),
    ):
        sshd.known_hosts.write_text(text)
        Host(sshd.transport(1, ssh_config=own), sshd.root(1), store, packs).open().close()
    for text, own in (
        (f"!{name},[127.*]:{sshd.port} {key}\n", "/dev/null"),
        (f"@cert-authority * {key}\n", "/dev/null"),
        (f"{name} {key}\n", str(config)),
    ):
        sshd.known_hosts.write_text(text)
        assert refused(sshd.transport(1, ssh_config=own)).kind == "hostkey"


def fingerprint(path: Path) -> str:
    shown = subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True)
    return shown.stdout.split()[1]


# Authentication


@pytest.mark.row("H2")
def test_a_refused_key_is_tried_once(sshd: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "wrong")
    error = refused(sshd.transport(1, key=str(tmp_path / "wrong")))
    assert error.kind == "auth"
    assert f"offered: {tmp_path / 'wrong'}" in str(error)
    log = sshd.log.read_text()
    assert log.count("Connection closed by authenticating user") <= 1
    assert log.count("Failed publickey") <= 1


@pytest.mark.row("H2")
def test_an_agent_full_of_keys_offers_only_a_few(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = subprocess.run(["ssh-agent", "-c"], capture_output=True, text=True, check=True).stdout
    words = shown.replace(";", " ").split()
    monkeypatch.setenv("SSH_AUTH_SOCK", words[2])
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        for number in range(20):
            make_key(tmp_path / f"k{number}")
            subprocess.run(["ssh-add", "-q", tmp_path / f"k{number}"], check=True)
        error = refused(sshd.transport(1, key=None))
        assert error.kind == "auth"
        assert str(error).count("agent: ") == 5
        assert "key = …" in error.hint
        assert "Too many authentication failures" not in sshd.log.read_text()
        subprocess.run(["ssh-add", "-q", "-D"], check=True)
        subprocess.run(["ssh-add", "-q", sshd.key], check=True)
        Session.open(sshd.transport(1, key=None), sshd.root(1), sys.executable, timeout=9).close()
    finally:
        os.kill(int(words[words.index("SSH_AGENT_PID") + 1]), signal.SIGTERM)


@pytest.mark.row("H2")
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_text("no key"), "no private key that can be used"),
        (
            lambda path: subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", path], check=True
            ),
            "has a passphrase and is not in the SSH agent",
        ),
    ],
)
def test_a_key_file_that_cannot_be_used(
    sshd: Sshd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], object],
    what: str,
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    make(tmp_path / "key")
    error = refused(sshd.transport(1, key=str(tmp_path / "key")))
    assert error.kind == "auth"
    assert what in str(error)


def test_keys_of_the_ssh_configuration(sshd: Sshd, store: Store, packs: Packs) -> None:
    config = sshd.folder / "config"
    config.write_text(
        f"Host shop\n  HostName 127.0.0.2\n  Port {sshd.port}\n  User {sshd.user}\n"
        f"  IdentityFile {sshd.key}\n  UserKnownHostsFile {sshd.known_hosts}\n"
    )
    transport = SshTransport("h2", "shop", ssh_config=str(config))
    Host(transport, sshd.root(2), store, packs).open().close()
    assert os.path.isdir(sshd.root(2))


def test_a_gateway_and_its_host_key(sshd: Sshd, store: Store, packs: Packs, old: Manifest) -> None:
    config = sshd.folder / "config"
    line = f"  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {sshd.key}\n"
    config.write_text(
        f"Host jump\n  HostName 127.0.0.3\n{line}  UserKnownHostsFile {sshd.folder}/jump_hosts\n"
        f"Host inner\n  HostName 127.0.0.2\n  ProxyJump jump\n{line}"
    )
    jump_hosts = sshd.folder / "jump_hosts"
    jump_hosts.write_text("")
    transport = SshTransport(
        "h2", "inner", ssh_config=str(config), known_hosts=str(sshd.known_hosts)
    )
    assert refused(transport).kind == "hostkey"
    jump_hosts.write_text(sshd.known_hosts.read_text())
    host = Host(transport, sshd.root(2), store, packs)
    host.deploy(old)
    assert host.current == old.image_id
    assert "127.0.0.3" in sshd.log.read_text() or sshd.log.read_text()


# Servers that are busy, silent, absent, or something else


@pytest.mark.row("H3")
def test_a_busy_server_is_tried_again(sshd: Sshd, store: Store, packs: Packs) -> None:
    sshd.stop()
    sshd.start(["MaxStartups 3:100:3", "LoginGraceTime 2"])
    idle: list[socket.socket] = []
    while len(idle) < 3:
        sock = socket.create_connection((sshd.address(1), sshd.port))
        if sock.recv(3) == b"SSH":
            idle.append(sock)
    error = refused(sshd.transport(1, connect_timeout=1.0))
    assert error.kind == "unreachable"
    assert "MaxStartups" in error.hint
    # When the idle ones are thrown out, the same host is reached.
    Host(sshd.transport(1), sshd.root(1), store, packs).open().close()
    for sock in idle:
        sock.close()


@pytest.mark.row("H4")
def test_every_way_of_not_being_there(sshd: Sshd) -> None:
    closed = refused(SshTransport("h1", "127.0.0.1", port=free_port(), ssh_config="/dev/null"))
    assert "the port is closed" in str(closed)
    name = refused(SshTransport("h1", "no-such-host.invalid", ssh_config="/dev/null"))
    assert "its name has no address" in str(name)
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        other = refused(
            SshTransport("h1", "127.0.0.1", port=port, connect_timeout=1.5, ssh_config="/dev/null")
        )
    assert "not SSH" in str(other)
    assert {closed.kind, name.kind, other.kind} == {"unreachable"}


@pytest.mark.row("T3")
def test_a_listener_that_says_nothing(sshd: Sshd) -> None:
    with listening(b"", hold=True) as port:
        began = time.monotonic()
        error = refused(
            SshTransport("h1", "127.0.0.1", port=port, connect_timeout=1.0, ssh_config="/dev/null")
        )
        assert time.monotonic() - began < 2.5
    assert error.kind == "unreachable"


@contextmanager
def listening(greeting: bytes, hold: bool = False) -> Iterator[int]:
    """A port that answers every connection with a greeting, then ends it, or holds it."""
    server = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve() -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                return
            line.sendall(greeting)
            if hold:
                kept.append(line)
            else:
                line.close()

    threading.Thread(target=serve, daemon=True).start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()


@pytest.mark.row("H4")
def test_no_session_is_allowed(sshd: Sshd) -> None:
    sshd.stop()
    sshd.start(["MaxSessions 0"])
    error = refused(sshd.transport(1))
    assert error.kind == "unreachable"
    assert "127.0.0.1" in str(error)


# Hosts that answer something else


@pytest.mark.row("T6")
def test_a_forced_command_is_shown(sshd: Sshd) -> None:
    sshd.stop()
    sshd.start(host_lines={2: ["ForceCommand echo this account is only for backups"]})
    error = refused(sshd.transport(2))
    assert error.kind in ("protocol", "no-python")
    assert "this account is only for backups" in str(error)


@pytest.mark.row("T6")
def test_a_noisy_shell_is_heard_over(sshd: Sshd, store: Store, packs: Packs) -> None:
    (sshd.folder / "home" / ".bashrc").write_text("echo welcome; echo motd >&2\n")
    wrapper = sshd.folder / "noisy"
    wrapper.write_text(
        '#!/bin/sh\necho "Last login: today"\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    wrapper.chmod(0o755)
    sshd.stop()
    sshd.start(host_lines={1: [f"ForceCommand {wrapper}"]})
    host = Host(sshd.transport(1), sshd.root(1), store, packs)
    host.open().close()
    host.open().close()


@pytest.mark.row("T6")
def test_no_python_and_no_shell(sshd: Sshd) -> None:
    with pytest.raises(
        HostError, match=r"/usr/bin/python9 did not start the agent \(exit 127\)"
    ) as caught:
        Session.open(sshd.transport(1), sshd.root(1), "/usr/bin/python9", timeout=10)
    assert caught.value.kind == "no-python"


@pytest.mark.row("V2")
def test_the_root_and_become_words_are_quoted(sshd: Sshd, store: Store, packs: Packs) -> None:
    root = f"{sshd.folder}/hosts/a $(touch {sshd.folder}/pwned); 'b'/app"
    os.makedirs(os.path.dirname(root))
    host = Host(sshd.transport(1), root, store, packs)
    with host.open(become=["/usr/bin/env", "A=$(touch x)"]) as session:
        assert session.facts.root == root
    assert not (sshd.folder / "pwned").exists()


# Lines that break


@pytest.mark.row("T3")
def test_a_frozen_session_ends_at_its_deadline(remote: Host) -> None:
    session = remote.open(timeout=1.0)
    server = int(session.run("cut -d' ' -f4 /proc/$PPID/stat", 5).output)
    processes = family(server)
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(HostError, match="no answer to history within its deadline") as caught:
            session.history()
        assert caught.value.kind == "timeout"
        assert time.monotonic() - began < 2.0
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


def family(pid: int) -> list[int]:
    """A process and its parents, up to those of the listening server."""
    found = [pid]
    while True:
        parent = int(Path(f"/proc/{found[-1]}/stat").read_text().rpartition(")")[2].split()[1])
        if b"sshd: " not in Path(f"/proc/{parent}/cmdline").read_bytes() or parent == 1:
            return found
        if b"[listener]" in Path(f"/proc/{parent}/cmdline").read_bytes():
            return found
        found.append(parent)


@pytest.mark.row("T1", "T7")
def test_a_line_that_breaks_under_paramiko_is_a_broken_line(sshd: Sshd) -> None:
    """It says EOFError then, which is no OSError, and says nothing."""
    deadline = time.monotonic() + 10
    channel = sshd.transport(1).open(["cat"], deadline)
    assert isinstance(channel, ssh.SshChannel)
    for sock in channel._line.sockets:
        sock.shutdown(socket.SHUT_WR)
    # Whichever of its threads noticed first.
    with pytest.raises(OSError, match=r"line broke|Socket is closed"):
        channel.write(bytes(1 << 20), deadline)
    channel.close()


@pytest.mark.row("C5")
def test_closing_the_session_ends_the_agent(remote: Host) -> None:
    session = remote.open()
    agent = int(session.run("echo $PPID", 5).output)
    session.close()
    until(lambda: not os.path.exists(f"/proc/{agent}"))


def test_connections_share_no_configuration() -> None:
    """One that is being made empties its own for a moment, and others read theirs then."""
    deadline = time.monotonic() + 30
    target = SshTransport("h", "127.0.0.1", ssh_config="/dev/null", known_hosts="/dev/null")
    one, other = (ssh._line(target, deadline).connection.config for _ in range(2))
    assert one is not other
    assert one.authentication is not other.authentication


@pytest.mark.row("H3")
def test_no_time_left_for_one_more_attempt(sshd: Sshd) -> None:
    """A pause may end behind the deadline: that too is a host that did not answer in time."""
    transport = sshd.transport(1)
    with pytest.raises(HostError, match="did not answer within") as caught:
        transport.open(["true"], time.monotonic() - 1)
    assert caught.value.kind == "unreachable"


def test_what_is_read_is_acknowledged_at_once() -> None:
    """A peer that waits for that before its second small packet would wait 40 ms each time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answer() -> None:
        while far.recv(1):
            far.sendall(b"a" * 50)
            far.sendall(b"b" * 50)

    thread = threading.Thread(target=answer)
    thread.start()
    prompt, took = ssh._Prompt(near), []
    for _ in range(15):
        began, left = time.monotonic(), 100
        prompt.sendall(b"?")
        while left:
            left -= len(prompt.recv(left))
        took.append(time.monotonic() - began)
    prompt.close()
    thread.join()
    far.close()
    assert statistics.median(took) < 0.02, took
