"""Roll-outs over a real sshd: hosts that are down, refuse, changed their key, or freeze."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.store import Store
from tests.support.fleets import Project, Ran
from tests.support.hosts import until
from tests.support.sshd import Sshd, make_key, serving

pytestmark = pytest.mark.sshd

HOSTS = 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    folder = tmp_path / "sshd"
    folder.mkdir(mode=0o755)
    with serving(folder, HOSTS) as server:
        yield server


class Ssh(Project):
    """The project, with hosts behind the server."""

    server: Sshd

    def write_ssh(self, rollout: str = "", extra: str = "") -> None:
        text = self.server.fleet_toml(extra) + "\n[rollout]\n" + rollout + "\n"
        (self.folder / "fleet.toml").write_text(text)
        self.hosts = [f"h{at}" for at in range(1, HOSTS + 1)]

    def root(self, host: str) -> Path:
        return Path(self.server.root(int(host[1:])))


@pytest.fixture
def project(tmp_path: Path, server: Sshd) -> Ssh:
    folder = tmp_path / "shop"
    folder.mkdir()
    project = Ssh(folder, Store(os.environ["WAIN_STORE"]))
    project.server = server
    project.write_ssh()
    return project


def error_of(ran: Ran, host: str) -> str:
    text = str(ran.document["hosts"][host]["error"])
    assert "\n" not in text
    assert "Traceback" not in ran.text
    return text


def test_the_whole_way_over_ssh(project: Ssh) -> None:
    old, new = project.image("v1"), project.image("v2")
    project.write_ssh('waves = [1, "100%"]\nhealth = ["{release}/bin/app"]')
    assert project.wain("check").code == 0
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    ran = project.wain("rollout", "shop:v2", "--yes")
    assert (ran.code, set(project.currents().values())) == (0, {new})
    assert project.says("h4") == "v2"
    assert project.wain("rollout", "shop:v2", "--yes").document["result"] == "unchanged"
    back = project.wain("rollback", "--yes")
    assert (back.code, set(project.currents().values())) == (0, {old})
    assert project.wain("verify", "--deep").code == 0


@pytest.mark.row("H4")
def test_hosts_that_are_down_count_apart(project: Ssh, server: Sshd) -> None:
    image = project.image("v1")
    down = server.fleet_toml().replace('name = "h3"', 'name = "h3"\nport = 1')
    toml = project.folder / "fleet.toml"
    # None may be unreachable: nothing begins.
    toml.write_text(down)
    check = project.wain("check")
    assert (check.code, check.document["hosts"]["h3"]["ok"]) == (5, False)
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, ran.document["result"]) == (4, "halted")
    assert ran.states()["h3"] == "unreachable"
    assert set(project.currents().values()) == {None}
    # One may: the rest is done, and the exit code still tells.
    toml.write_text(down + "[rollout]\nmax-unreachable = 1\n")
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, ran.document["result"]) == (5, "succeeded")
    assert project.currents() == {"h1": image, "h2": image, "h3": None, "h4": image}
    assert project.wain("status").code == 5
    # All others are done: what is left is only unreachable, nothing was stopped.
    toml.write_text(down)
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, ran.document["result"]) == (5, "unchanged")
    # It comes back: the same command finishes.
    toml.write_text(server.fleet_toml())
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    assert project.current("h3") == image


@pytest.mark.row("H1")
def test_a_changed_host_key_is_a_failure_and_nothing_is_sent(
    project: Ssh, server: Sshd, tmp_path: Path
) -> None:
    image = project.image("v1")
    other = make_key(tmp_path / "other")
    lines = server.known_hosts.read_text().splitlines()
    lines[1] = f"[127.0.0.2]:{server.port} " + " ".join(other.split()[:2])
    server.known_hosts.write_text("\n".join(lines) + "\n")
    project.write_ssh("max-failures = 2")
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, ran.states()["h2"]) == (1, "failed")
    assert "key" in error_of(ran, "h2")
    assert not project.root("h2").exists()
    assert project.current("h1") == image


@pytest.mark.row("T6")
def test_a_host_without_a_usable_python(project: Ssh, server: Sshd) -> None:
    project.image("v1")
    text = server.fleet_toml().replace('name = "h2"', 'name = "h2"\npython = "/no/such/python"')
    (project.folder / "fleet.toml").write_text(text + "[rollout]\nmax-failures = 2\n")
    check = project.wain("check")
    assert (check.code, check.document["hosts"]["h2"]["kinds"]) == (3, ["no-python"])
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert ran.code == 1
    assert "/no/such/python did not start" in error_of(ran, "h2")
    assert [ran.states()[host] for host in project.hosts].count("succeeded") == 3


@pytest.mark.row("T3")
@pytest.mark.row("T4")
def test_one_frozen_host_delays_nobody(project: Ssh, server: Sshd) -> None:
    """Its sshd stops in the middle of the health check: the others finish, it gets a verdict."""
    old, new = project.image("v1"), project.image("v2")
    project.write_ssh("max-failures = 2")
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    # The check of h2 stops its own connection's sshd: the parent of the agent.
    freeze = (
        "test $(basename $(dirname {root})) != h2 || "
        "{ p=$(ps -o ppid= -p $PPID); echo $p > {root}/frozen; kill -STOP $p; sleep 1; }"
    )
    project.write_ssh(
        'max-failures = 2\nmax-unreachable = 1\nstep-timeout = "2s"\nconnect-timeout = "2s"\n'
        f'confirm-timeout = "2s"\nhealth = [{{ run = {json.dumps(freeze)}, timeout = "2s" }}]'
    )
    began = time.monotonic()
    ran = project.wain("rollout", "shop:v2", "--yes")
    took = time.monotonic() - began
    frozen = project.root("h2") / "frozen"
    until(frozen.exists)
    os.kill(int(frozen.read_text()), signal.SIGKILL)
    states = ran.states()
    assert [states[host] for host in ("h1", "h3", "h4")] == ["succeeded"] * 3, ran.text
    assert states["h2"] == "unreachable"
    assert took < 25
    # Its deadline is the check's, 2 s; contact, staging and the switch come before.
    report = project.wain("report", ran.document["rollout"]).text
    assert "health" in report
    others = [ran.document["hosts"][host]["seconds"] for host in ("h1", "h3", "h4")]
    assert max(others) < 10
    until(lambda: project.current("h2") == old, 20)
    assert project.current("h1") == new


@pytest.mark.row("H2")
def test_a_refused_key(project: Ssh, server: Sshd) -> None:
    project.image("v1")
    (server.folder / "authorized_keys").write_text("")
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert ran.code == 4
    assert set(ran.states().values()) == {"failed"}
    assert "key" in error_of(ran, "h1") or "refused" in error_of(ran, "h1")
