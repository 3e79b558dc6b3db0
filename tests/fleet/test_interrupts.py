"""A roll-out whose process is stopped, killed, paused, or meets another one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.journal import Journal
from images.signature import sign_image
from tests.support.fleets import Project
from tests.support.hosts import until
from tests.support.mounts import tmpfs
from tests.support.sshd import make_key

# A check that waits for a file: a roll-out can be held at exactly this point.
GATE = "touch {root}/../at-$(basename {root}); while test -e {root}/../hold; do sleep 0.05; done"


@pytest.fixture
def project(project: Project, tmp_path: Path) -> Project:
    (tmp_path / "hosts").mkdir()
    return project


class Gate:
    """Holds hosts in their health check."""

    def __init__(self, project: Project) -> None:
        self._folder = project.folder.parent / "hosts"
        self.close()

    def close(self) -> None:
        (self._folder / "hold").touch()

    def open(self) -> None:
        (self._folder / "hold").unlink()

    def reached(self, host: str) -> bool:
        return (self._folder / f"at-{host}").exists()


def rolled_out(project: Project, **settings: object) -> tuple[str, str]:
    """Two images, the first on all hosts; and fleet.toml with the gate."""
    project.write(3, **settings)
    old, new = project.image("v1"), project.image("v2")
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    project.write(3, **{"health": [GATE], **settings})
    return old, new


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


@pytest.mark.row("C2")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_hosts_at_work_finish_and_resume_goes_on(
    project: Project, number: signal.Signals
) -> None:
    old, new = rolled_out(project, parallel=1, confirm_timeout="20s")
    gate = Gate(project)
    process = project.start("rollout", "shop:v2", "--yes", "--json")
    until(lambda: gate.reached("h1"), 30)
    process.send_signal(number)
    time.sleep(0.3)
    assert process.poll() is None
    gate.open()
    code, stdout, stderr = ended(process)
    assert code == 130, stderr
    document = json.loads(stdout)
    assert document["result"] == "interrupted"
    assert [document["hosts"][host]["state"] for host in project.hosts] == [
        "succeeded", "untouched", "untouched",
    ]  # fmt: skip
    assert "wain fleet resume" in stderr
    assert project.currents() == {"h1": new, "h2": old, "h3": old}
    ran = project.wain("resume", "--yes")
    assert (ran.code, ran.document["rollout"]) == (0, document["rollout"])
    assert set(ran.states().values()) == {"succeeded"}
    assert set(project.currents().values()) == {new}
    assert project.wain("resume", "--yes").code == 1


@pytest.mark.row("C2")
def test_a_second_signal_stops_the_hosts_at_work_too(project: Project) -> None:
    old, _ = rolled_out(project, confirm_timeout="1s")
    gate = Gate(project)
    process = project.start("rollout", "shop:v2", "--yes", "--json")
    until(lambda: gate.reached("h1"), 30)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = ended(process)
    assert code == 130, stderr + stdout
    until(lambda: project.currents() == dict.fromkeys(project.hosts, old), 30)
    gate.open()
    assert project.wain("rollout", "shop:v2", "--yes").code == 0


@pytest.mark.row("C2")
def test_a_reader_that_goes_away_stops_it_in_order(project: Project) -> None:
    old, new = rolled_out(project, parallel=1)
    gate = Gate(project)
    process = project.start("rollout", "shop:v2", "--yes")
    assert process.stdout
    until(lambda: gate.reached("h1"), 30)
    process.stdout.close()
    gate.open()
    assert process.wait(60) != 0
    assert project.current("h1") == new
    assert project.current("h3") in (old, new)
    with Journal.open(project.folder / ".wain" / "fleet.db") as journal:
        assert journal.rollouts(1)[0].state in ("interrupted", "done")
    assert project.wain("rollout", "shop:v2", "--yes").code == 0
    assert set(project.currents().values()) == {new}


@pytest.mark.row("C1")
@pytest.mark.parametrize("again", ["rollout", "resume"])
def test_after_sigkill_every_host_runs_a_whole_release_and_the_same_command_finishes(
    project: Project, again: str
) -> None:
    old, new = rolled_out(project, waves=["label:canary", "100%"])
    gate = Gate(project)
    process = project.start("rollout", "shop:v2", "--yes")
    until(lambda: gate.reached("h1"), 30)
    process.kill()
    process.wait()
    assert project.says("h1") in ("v1", "v2")
    gate.open()
    words = ["rollout", "shop:v2", "--yes"] if again == "rollout" else ["resume", "--yes"]
    ran = project.wain(*words)
    assert (ran.code, ran.document["result"]) == (0, "succeeded"), ran.text
    assert set(project.currents().values()) == {new}
    assert [project.says(host) for host in project.hosts] == ["v2"] * 3
    assert old in os.listdir(project.root("h1") / "releases")


@pytest.mark.row("C1")
def test_killed_at_many_moments(
    project: Project, sample: Callable[[list[int], int], list[int]]
) -> None:
    """Milliseconds after its start: wherever that is, hosts are whole and it can be finished."""
    project.write(3, waves=["label:canary", "100%"], confirm_timeout="2s", health=["true"])
    images = [project.image("v0"), project.image("v1")]
    assert project.wain("rollout", "shop:v0", "--yes").code == 0
    for at, moment in enumerate(sample(list(range(150, 1400, 25)), 2)):
        wanted = images[(at + 1) % 2]
        process = project.start("rollout", f"shop:v{(at + 1) % 2}", "--yes")
        time.sleep(moment / 1000)
        process.kill()
        process.communicate()
        for host in project.hosts:
            assert project.current(host) in images
            assert project.says(host) in ("v0", "v1")
        ran = project.wain("rollout", f"shop:v{(at + 1) % 2}", "--yes")
        assert ran.code == 0, ran.text
        assert set(project.currents().values()) == {wanted}


@pytest.mark.row("C2", "C1")
def test_a_rollback_that_is_stopped_says_how_to_go_on(project: Project) -> None:
    old, new = rolled_out(project, parallel=1)
    gate = Gate(project)
    gate.open()
    assert project.wain("rollout", "shop:v2", "--yes").code == 0
    for host in project.hosts:
        (project.folder.parent / "hosts" / f"at-{host}").unlink()
    gate.close()
    process = project.start("rollback", "--yes")
    until(lambda: gate.reached("h1"), 30)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    gate.open()
    code, stdout, _ = ended(process)
    assert code == 130
    assert "`wain fleet rollback --hosts 'h2, h3'` goes on" in stdout
    assert project.currents() == {"h1": old, "h2": new, "h3": new}
    gate.close()
    process = project.start("rollback", "--yes", "--hosts", "h2, h3")
    until(lambda: gate.reached("h2"), 30)
    process.kill()
    process.wait()
    status = project.wain("status")
    assert status.document["rollout"]["kind"] == "rollback"
    assert "h2, h3 may not be back: `wain fleet rollback --to A --hosts" in status.text
    assert project.wain("resume", "--yes").code == 1
    gate.open()
    ran = project.wain("rollback", "--to", "shop:v1", "--yes")
    assert (ran.code, ran.states()["h1"], ran.states()["h3"]) == (0, "unchanged", "succeeded")
    assert set(project.currents().values()) == {old}
    assert project.wain("status").document["rollout"] is None


@pytest.mark.row("K1")
@pytest.mark.row("K3")
def test_a_second_process_is_told_who_holds_the_lock(project: Project) -> None:
    rolled_out(project, parallel=1)
    gate = Gate(project)
    process = project.start("rollout", "shop:v2", "--yes", "--reason", "monday release")
    until(lambda: gate.reached("h1"), 30)
    for words in (["rollout", "shop:v2", "--yes"], ["rollback", "--yes"], ["unlock"]):
        ran = project.wain(*words)
        assert ran.code == 6
        assert f"pid {process.pid}" in ran.text
        assert "monday release" in ran.text
    # Looking is not locked.
    assert project.wain("status").document["rollout"]["state"] == "running"
    process.kill()
    process.wait()
    # A lock never outlives its holder.
    assert project.wain("unlock").code == 0
    gate.open()
    assert project.wain("rollout", "shop:v2", "--yes").code == 0


@pytest.mark.row("K1")
def test_two_controllers_on_the_same_hosts(project: Project, tmp_path: Path) -> None:
    """Another project folder is another journal and lock: then the hosts themselves decide."""
    _, new = rolled_out(project, parallel=1)
    other = Project(tmp_path / "other", project.store)
    other.folder.mkdir()
    other.image("v1")
    other.image("v3")
    other.write(3)
    gate = Gate(project)
    process = project.start("rollout", "shop:v2", "--yes", "--json")
    until(lambda: gate.reached("h1"), 30)
    # h1 waits for its confirmation: the other one is told whose switch that is.
    ran = other.wain("rollout", "shop:v3", "--yes", "--hosts", "h1")
    assert ran.code == 6, ran.text
    assert "is unconfirmed" in ran.document["hosts"]["h1"]["error"]
    # h2 is free, and moves away under the first one's plan.
    assert other.wain("rollout", "shop:v3", "--yes", "--hosts", "h2").code == 0
    gate.open()
    code, stdout, _ = ended(process)
    document = json.loads(stdout)
    assert code == 4
    assert document["hosts"]["h2"]["state"] == "failed"
    assert "moved since the plan" in document["hosts"]["h2"]["error"]
    assert project.current("h2") not in (new, None)


def test_pause_resume_and_abort_from_another_terminal(project: Project) -> None:
    old, new = rolled_out(project, parallel=1, waves=["label:canary", "100%"])
    gate = Gate(project)
    process = project.start("rollout", "shop:v2", "--yes", "--json")
    until(lambda: gate.reached("h1"), 30)
    assert project.wain("pause").code == 0
    time.sleep(0.8)  # longer than the process looks away
    gate.open()
    until(lambda: project.current("h1") == new, 30)
    until(lambda: project.wain("status").document["rollout"]["state"] == "paused", 30)
    assert (project.current("h2"), process.poll()) == (old, None)
    gate.close()
    assert project.wain("resume").code == 0
    until(lambda: gate.reached("h2"), 30)
    assert project.wain("abort").code == 0
    time.sleep(0.8)
    gate.open()
    code, stdout, stderr = ended(process)
    document = json.loads(stdout)
    assert (code, document["result"]) == (4, "halted"), stderr
    assert "aborted by" in document["halted_by"]
    # on-halt is revert-wave: the second wave went back, the canary stays, h3 never began.
    assert [document["hosts"][host]["state"] for host in project.hosts] == [
        "succeeded", "reverted", "untouched",
    ]  # fmt: skip
    assert project.currents() == {"h1": new, "h2": old, "h3": old}
    assert project.wain("pause").code == 1


def test_waves_wait_for_approval(project: Project) -> None:
    project.write(2, waves=["label:canary", "100%"])
    new = project.image("v1")
    process = project.start("rollout", "shop:v1", "--yes", "--approve", "--json")
    until(lambda: project.current("h1") == new, 30)
    time.sleep(1.0)
    assert (project.current("h2"), process.poll()) == (None, None)
    assert project.wain("approve").code == 0
    assert ended(process)[0] == 0
    assert project.current("h2") == new


@pytest.mark.row("C4")
@pytest.mark.row("V3")
def test_resume_refuses_when_the_inventory_or_the_image_changed(project: Project) -> None:
    old, new = rolled_out(project, parallel=1)
    gate = Gate(project)
    process = project.start("rollout", "shop:v2", "--yes")
    until(lambda: gate.reached("h1"), 30)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    gate.open()
    assert ended(process)[0] == 130
    toml = project.folder / "fleet.toml"
    right = toml.read_text()
    for before, after, message in (
        ("parallel = 1", "parallel = 1\nkeep = 7", "keep was 3, is 7"),
        ('name = "h3"', 'name = "h4"', "host h3 is gone"),
        (f"{project.root('h2')}", f"{project.root('hX')}", "host h2 is now"),
    ):
        toml.write_text(right.replace(before, after))
        ran = project.wain("resume", "--yes")
        assert (ran.code, message in ran.text) == (3, True), ran.text
    toml.write_text(right)
    project.image("v2", "another v2")
    ran = project.wain("resume", "--yes")
    assert (ran.code, "is another image now" in ran.text) == (3, True)
    project.catalog.tag("v2", new)
    # A host that somebody moved meanwhile is left alone.
    project.image("v3")
    project.wain("rollback", "--yes", "--hosts", "h1")
    ran = project.wain("resume", "--yes")
    assert ran.code == 0, ran.text
    assert set(project.currents().values()) == {new}
    assert old != new


@pytest.mark.row("C4", "G1")
def test_resume_asks_for_signatures_by_who_counts_now(project: Project, tmp_path: Path) -> None:
    old, new = rolled_out(project, parallel=1)
    for name in ("ann", "ben"):
        make_key(tmp_path / name)
    signers = project.folder / "allowed_signers"

    def trust(name: str) -> None:
        signers.write_text(f"{name} {(tmp_path / name).with_suffix('.pub').read_text()}")
        signers.chmod(0o644)

    trust("ann")
    toml = project.folder / "fleet.toml"
    toml.write_text(toml.read_text() + '[trust]\nsigners = "allowed_signers"\nrequired = true\n')
    sign_image(project.store, new, "shop", "shop", str(tmp_path / "ann"), "ann", days=1)
    gate = Gate(project)
    process = project.start("rollout", "shop:v2", "--yes")
    until(lambda: gate.reached("h1"), 30)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    gate.open()
    assert ended(process)[0] == 130
    trust("ben")
    ran = project.wain("resume", "--yes")
    assert ran.code == 1
    assert "(wrong key)" in ran.text
    assert ran.text.count("wain: error: ") == 1
    assert project.currents() == {"h1": new, "h2": old, "h3": old}
    trust("ann")
    assert project.wain("resume", "--yes").code == 0
    assert set(project.currents().values()) == {new}


@pytest.mark.row("C3")
def test_the_journal_of_another_project(project: Project, tmp_path: Path) -> None:
    """What it tells of hosts that are not ours is not gone on with; ours are asked themselves."""
    other = Project(tmp_path / "other" / "shop", project.store)
    other.folder.mkdir(parents=True)
    (tmp_path / "other" / "hosts").mkdir()
    rolled_out(other, parallel=1)
    gate = Gate(other)
    process = other.start("rollout", "shop:v2", "--yes")
    until(lambda: gate.reached("h1"), 30)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    gate.open()
    assert ended(process)[0] == 130
    project.write(3)
    project.image("v2")
    ours = project.image("v5", "ours")
    assert project.wain("rollout", "shop:v5", "--yes").code == 0
    for path in (project.folder / ".wain").glob("fleet.db*"):
        path.unlink()
    for path in (other.folder / ".wain").glob("fleet.db*"):
        (project.folder / ".wain" / path.name).write_bytes(path.read_bytes())
    ran = project.wain("resume", "--yes")
    assert (ran.code, "host h1 is now" in ran.text) == (3, True), ran.text
    assert set(project.currents().values()) == {ours}
    again = project.wain("rollout", "shop:v5", "--yes")
    assert (again.code, again.document["result"]) == (0, "unchanged")
    newer = project.image("v6", "newer")
    assert project.wain("rollout", "shop:v6", "--yes").code == 0
    assert set(project.currents().values()) == {newer}


@pytest.mark.row("D1")
@pytest.mark.root
def test_the_disk_of_the_journal_fills_up_midway(project: Project, tmp_path: Path) -> None:
    """It stops with the hosts settled; with room again, the same command finishes."""
    with tmpfs(tmp_path, "size=2m") as disk:
        (project.folder / ".wain").symlink_to(disk)
        old, new = rolled_out(project, parallel=1, confirm_timeout="5s")
        gate = Gate(project)
        process = project.start("rollout", "shop:v2", "--yes")
        until(lambda: gate.reached("h1"), 30)
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        gate.open()
        code, _, stderr = ended(process)
        assert code == 1, stderr
        assert "Traceback" not in stderr
        (error,) = [line for line in stderr.splitlines() if line.startswith("wain: error: ")]
        assert "fleet.db" in error
        assert "full" in error
        until(lambda: project.current("h1") == old or project.wain("check").code == 0, 20)
        assert [project.says(host) for host in ("h2", "h3")] == ["v1"] * 2
        assert project.says("h1") in ("v1", "v2")
        (disk / "filler").unlink()
        ran = project.wain("rollout", "shop:v2", "--yes")
        assert ran.code == 0, ran.text
        assert set(project.currents().values()) == {new}
