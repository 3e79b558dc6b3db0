"""What a host's own settings refuse: certificates, accounts, sessions, sudo; and no way there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.pack import Packs
from fleet.session import HostError, Session
from fleet.transport import LocalTransport, SshTransport
from images.manifest import Manifest
from images.store import Store
from tests.support.hosts import Host
from tests.support.sshd import Sshd, make_key

ROOT = Path(__file__).parents[2]


def refused(transport: SshTransport | LocalTransport, root: str, **more: object) -> HostError:
    """The error of a session that must not come to be, on one line; nothing was written."""
    with pytest.raises(HostError) as caught:
        Session.open(transport, root, sys.executable, timeout=10, **more)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{transport.name}: ")
    assert str(caught.value).isprintable()
    assert "Traceback" not in str(caught.value)
    assert not os.path.exists(root)
    return caught.value


@pytest.mark.row("H2")
@pytest.mark.sshd
@pytest.mark.xdist_group("sshd")
def test_a_certificate_that_has_expired(sshd: Sshd, tmp_path: Path) -> None:
    authority, key = tmp_path / "authority", tmp_path / "key"
    (tmp_path / "authority.pub").write_text(make_key(authority) + "\n")
    make_key(key)
    (sshd.folder / "authorized_keys").write_text("")
    sshd.stop()
    sshd.start([f"TrustedUserCAKeys {authority}.pub"])

    def certify(time: str) -> None:
        command = ["ssh-keygen", "-q", "-s", authority, "-I", "deploy", "-n", sshd.user, "-V", time]
        subprocess.run([*command, f"{key}.pub"], check=True)

    certify("-2d:-1d")
    error = refused(sshd.transport(1, key=str(key)), sshd.root(1))
    assert error.kind == "auth"
    assert f"offered: {key}" in str(error)
    assert sshd.log.read_text().count("Certificate invalid: expired") == 1
    assert "Accepted" not in sshd.log.read_text()
    certify("-1d:+1d")
    Session.open(sshd.transport(1, key=str(key)), sshd.root(1), sys.executable, timeout=10).close()


@pytest.mark.row("H2")
@pytest.mark.root
@pytest.mark.sshd
@pytest.mark.xdist_group("sshd")
def test_a_locked_account(sshd: Sshd, tmp_path: Path) -> None:
    """The server sees an account more than this machine has: two files are mounted for it alone."""
    for name, line in (
        ("passwd", f"locked:x:4711:4711::{tmp_path}:/bin/sh"), ("shadow", "locked:!:19000::::::"),
    ):  # fmt: skip
        (tmp_path / name).write_text(Path("/etc", name).read_text().rstrip() + f"\n{line}\n")
        (tmp_path / name).chmod(0o644)
    script = 'for n in passwd shadow; do mount --bind "$0/$n" /etc/$n || exit; done; exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", script, str(tmp_path)]
    sshd.stop()
    sshd.start(before=before)
    error = refused(sshd.transport(1, user="locked"), sshd.root(1))
    assert error.kind == "auth"
    log = sshd.log.read_text()
    assert log.count("User locked not allowed because account is locked") == 1
    assert log.count("Accepted") == 0


@pytest.mark.row("H4")
@pytest.mark.sshd
@pytest.mark.xdist_group("sshd")
def test_one_session_a_connection_is_enough(
    sshd: Sshd, store: Store, packs: Packs, old: Manifest
) -> None:
    sshd.stop()
    sshd.start(["MaxSessions 1"])
    host = Host(sshd.transport(1), sshd.root(1), store, packs)
    host.deploy(old)
    assert host.current == old.image_id


NO_ROUTE = """
import sys
from fleet.session import HostError, Session
from fleet.transport import SshTransport
try:
    Session.open(SshTransport("h1", "192.0.2.7", connect_timeout=5, ssh_config="/dev/null"),
                 sys.argv[1], "python3", timeout=5)
except HostError as error:
    print(error.kind, error)
"""


@pytest.mark.row("H4")
def test_no_route(tmp_path: Path) -> None:
    """A network of its own in which nothing leads anywhere."""
    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here")
    shown = subprocess.run(
        [*own, sys.executable, "-c", NO_ROUTE, str(tmp_path / "app")], cwd=ROOT,
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert shown.stdout == "unreachable h1: 192.0.2.7: no route to its network\n"
    assert not (tmp_path / "app").exists()


@pytest.mark.row("P3")
@pytest.mark.parametrize("kind", ["password", "no tty", "no such program"])
def test_a_way_to_another_user_that_asks(tmp_path: Path, kind: str) -> None:
    """`sudo -n` where a password is wanted, `sudo` where a terminal is; or none at all."""
    says = {"password": "sudo: a password is required",
            "no tty": "sudo: sorry, you must have a tty to run sudo"}  # fmt: skip
    sudo = tmp_path / "sudo"
    if kind in says:
        sudo.write_text(f"#!/bin/sh\necho '{says[kind]}' >&2\nexit 1\n")
        sudo.chmod(0o755)
    error = refused(LocalTransport("h1"), str(tmp_path / "app"), become=[str(sudo), "-n"])
    assert error.kind in ("no-python", "become")
    assert says.get(kind, "No such file") in str(error)


@pytest.mark.root
@pytest.mark.skipif(shutil.which("sudo") is None, reason="no sudo here")
def test_the_real_sudo_asks_for_a_password(tmp_path: Path) -> None:
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sudo", "-n"]
    error = refused(LocalTransport("h1"), str(tmp_path / "app"), become=become)
    assert "password" in str(error) or "sudo" in str(error)


def old_python(folder: Path) -> str:
    """An interpreter that says it is Python 3.6."""
    path = folder / "python3.6"
    code = "import sys; sys.version_info = (3, 6, 15); sys.version = '3.6.15 (made up)'; "
    code += "code = sys.argv[1]; sys.argv[:2] = ['-c']; exec(code, {'__name__': '__main__'})"
    path.write_text(
        f'#!/bin/sh\nwhile test "$1" != -c; do shift; done; shift\n'
        f'exec {sys.executable} -I -S -c "{code}" "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.row("T6")
def test_a_python_that_says_it_is_too_old(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"Python 3\.6\.15 found, 3\.9 or newer needed") as caught:
        Session.open(LocalTransport("h1"), str(tmp_path / "app"), old_python(tmp_path), timeout=9)
    assert caught.value.kind == "no-python"
    assert not (tmp_path / "app").exists()


@pytest.mark.row("T6")
@pytest.mark.sshd
@pytest.mark.xdist_group("sshd")
def test_sftp_is_not_needed(sshd: Sshd, store: Store, packs: Packs, old: Manifest) -> None:
    asked = subprocess.run(
        ["sftp", "-q", "-b", "/dev/null", "-P", str(sshd.port), "-i", sshd.key,
         "-o", f"UserKnownHostsFile={sshd.known_hosts}", f"{sshd.user}@{sshd.address(1)}"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert asked.returncode != 0
    Host(sshd.transport(1), sshd.root(1), store, packs).deploy(old)
