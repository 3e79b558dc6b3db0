"""Roll-outs over folders of this machine, with the real agent, through the real commands."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fleet.contact import Held
from fleet.inventory import Host
from fleet.session import Session
from fleet.transport import Channel, LocalTransport
from tests.support.fleets import Project

BAD = "test ! -e {release}/bad"


def test_a_first_rollout_then_nothing_to_do(project: Project) -> None:
    project.write(3, waves=["label:canary", "100%"])
    image = project.image("v1")
    ran = project.wain("rollout", "shop:v1", "--yes", "--reason", "because", "--ticket", "T-1")
    assert (ran.code, ran.document["result"]) == (0, "succeeded")
    assert set(project.currents().values()) == {image}
    assert [project.says(host) for host in project.hosts] == ["v1"] * 3
    assert [wave["hosts"] for wave in ran.document["waves"]] == [["h1"], ["h2", "h3"]]
    before = sorted((path, path.lstat().st_mtime_ns) for path in project.root("h1").rglob("*"))
    again = project.wain("rollout", "shop:v1", "--yes")
    assert (again.code, again.document["result"]) == (0, "unchanged")
    assert set(again.states().values()) == {"unchanged"}
    assert {host["bytes_sent"] for host in again.document["hosts"].values()} == {0}
    # Not one write on the host.
    after = sorted((path, path.lstat().st_mtime_ns) for path in project.root("h1").rglob("*"))
    assert after == before


def test_the_surveys_connection_is_gone_on_with_and_another_confirms(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    real = LocalTransport.open

    def count(self: LocalTransport, argv: list[str], deadline: float) -> Channel:
        opened.append(real(self, argv, deadline))
        return opened[-1]

    monkeypatch.setattr(LocalTransport, "open", count)
    project.write(2, waves=["label:canary", "100%"])
    image = project.image("v1")
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    # The survey of both, the second wave's own, and a confirmation of each.
    assert len(opened) == 5
    assert all(one.status() is not None for one in opened)
    # A connection that is lost meanwhile is made again.
    project.write(1)
    project.image("v2")
    monkeypatch.setattr(Held, "put", put_and_break(opened))
    ran = project.wain("rollout", "shop:v2", "--yes")
    assert (ran.code, ran.states()) == (0, {"h1": "succeeded"})
    assert project.currents()["h1"] not in (None, image)
    assert all(one.status() is not None for one in opened)


def put_and_break(opened: list[Any]) -> Any:
    real = Held.put

    def put(self: Held, host: Host, session: Session) -> bool:
        held = real(self, host, session)
        opened[-1].close()
        return held

    return put


def test_only_what_changed_is_sent_and_rollback_sends_nothing(project: Project) -> None:
    project.write(2)
    old, new = project.image("v1", count=300), project.image("v2", count=300)
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    plan = project.wain("plan", "shop:v2")
    assert plan.code == 0
    planned = plan.document["hosts"]["h1"]
    assert (planned["from"], planned["to"], planned["objects"]) == (old, new, 1)
    assert planned["files"] == {"added": 0, "removed": 0, "changed": 1}
    assert planned["needs"]["bytes"] > 8 << 20
    assert planned["needs"]["inodes"] > 300
    assert [one["to"] for one in planned["packages"]["changed"]] == ["v2"]
    ran = project.wain("rollout", "shop:v2", "--yes", "--plan", plan.document["plan"])
    assert ran.code == 0
    # Exactly what the plan said, for every host.
    assert {h["bytes_sent"] for h in ran.document["hosts"].values()} == {planned["bytes_to_send"]}
    assert planned["bytes_to_send"] < 500
    back = project.wain("rollback", "--yes")
    assert (back.code, back.document["result"]) == (0, "succeeded")
    assert {host["bytes_sent"] for host in back.document["hosts"].values()} == {0}
    assert set(project.currents().values()) == {old}


@pytest.mark.row("A8")
def test_a_second_rollback_goes_forward_again_and_a_first_release_has_none(
    project: Project,
) -> None:
    project.write(2)
    old, new = project.image("v1"), project.image("v2")
    project.wain("rollout", "shop:v1", "--yes")
    first = project.wain("rollback", "--yes")
    assert (first.code, first.document["result"]) == (1, "failed")
    assert set(first.states().values()) == {"failed"}
    assert "no previous release" in first.document["hosts"]["h1"]["error"]
    assert set(project.currents().values()) == {old}
    project.wain("rollout", "shop:v2", "--yes")
    for expected in (old, new, old):
        assert project.wain("rollback", "--yes").code == 0
        assert set(project.currents().values()) == {expected}
    # Named, and already there.
    ran = project.wain("rollback", "--to", "shop:v1", "--yes")
    assert (ran.code, ran.document["result"]) == (0, "unchanged")
    assert project.wain("rollback", "--to", "shop:v2", "--yes", "--hosts", "h2").code == 0
    assert project.currents() == {"h1": old, "h2": new}
    # Hosts on different releases: each goes to its own previous one.
    assert project.wain("rollback", "--yes").code == 0
    assert project.currents() == {"h1": new, "h2": old}


@pytest.mark.row("A7")
def test_a_damaged_rollback_target_is_refused_and_the_host_stays(project: Project) -> None:
    project.write(2)
    old, new = project.image("v1"), project.image("v2")
    project.wain("rollout", "shop:v1", "--yes")
    project.wain("rollout", "shop:v2", "--yes")
    target = project.root("h1") / "releases" / old
    (target / "bin" / "plain").unlink()
    ran = project.wain("rollback", "--yes")
    assert ran.code == 1
    assert ran.states() == {"h1": "failed", "h2": "succeeded"}
    assert "damaged" in ran.document["hosts"]["h1"]["error"]
    assert project.currents() == {"h1": new, "h2": old}
    # Same size, same time, other bytes: only --deep sees that.
    file = next((project.root("h2") / "releases" / new).rglob("app.py"))
    stat = file.stat()
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b"v2", b"vX"))
    file.chmod(stat.st_mode)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ran = project.wain("rollback", "--deep", "--yes", "--hosts", "h2")
    assert (ran.code, project.current("h2")) == (1, old)


@pytest.mark.row("A6")
@pytest.mark.row("C6")
def test_a_failing_health_check_on_the_canary_stops_and_reverts(project: Project) -> None:
    project.write(4, waves=["label:canary", "50%", "100%"], health=["true", BAD])
    old, bad = project.image("v1"), project.image("v2", bad=b"x")
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    ran = project.wain("rollout", "shop:v2", "--yes")
    assert (ran.code, ran.document["result"]) == (4, "reverted")
    assert ran.states() == {
        "h1": "reverted", "h2": "untouched", "h3": "untouched", "h4": "untouched",
    }  # fmt: skip
    assert "status 1" in ran.document["hosts"]["h1"]["error"]
    assert set(project.currents().values()) == {old}
    assert project.says("h1") == "v1"
    # The image failed: it is refused everywhere until somebody clears it, with a reason.
    again = project.wain("rollout", "shop:v2", "--yes", "--hosts", "h4")
    assert again.code == 1
    assert "quarantined" in again.text
    assert project.wain("quarantine", "shop:v2", "--clear").code == 2
    assert project.wain("quarantine", "shop:v2", "--clear", "--reason", "was the check").code == 0
    project.write(4, waves=["label:canary", "100%"])
    assert project.wain("rollout", "shop:v2", "--yes").code == 0
    assert set(project.currents().values()) == {bad}


@pytest.mark.row("A6")
def test_no_host_goes_back_to_an_image_that_failed_on_another(project: Project) -> None:
    waves = ["label:canary", "100%"]
    project.write(2, waves=waves)
    old, new = project.image("v1"), project.image("v2")
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    assert project.wain("rollout", "shop:v2", "--yes").code == 0
    project.write(2, waves=waves, health=["false"])
    assert project.wain("rollout", "shop:v1", "--yes").states() == {
        "h1": "reverted", "h2": "untouched",
    }  # fmt: skip
    project.write(2, waves=waves)
    ran = project.wain("rollback", "--yes")
    assert (ran.code, ran.states()) == (1, {"h1": "failed", "h2": "failed"})
    assert "quarantined" in ran.document["hosts"]["h2"]["error"]
    assert set(project.currents().values()) == {new}
    project.wain("quarantine", "shop:v1", "--clear", "--reason", "was the check")
    assert project.wain("rollback", "--yes").code == 0
    assert set(project.currents().values()) == {old}


@pytest.mark.row("A6")
def test_a_hanging_health_check_ends_at_its_deadline(project: Project) -> None:
    project.write(1, health=[{"run": "sleep 60", "timeout": "300ms"}])
    project.image("v1")
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert ran.code == 4
    assert "did not end within 0.3s" in ran.document["hosts"]["h1"]["error"]
    assert ran.document["hosts"]["h1"]["seconds"] < 10
    assert project.current("h1") is None


def test_hooks_run_for_the_new_release_and_again_for_the_old_one(project: Project) -> None:
    hook = "readlink {root}/current >> {root}/../calls"
    project.write(1, after_switch=[hook], health=[BAD])
    old, bad = project.image("v1"), project.image("v2", bad=b"x")
    project.wain("rollout", "shop:v1", "--yes")
    assert project.wain("rollout", "shop:v2", "--yes").code == 4
    calls = (project.root("h1").parent / "calls").read_text().split()
    assert calls == [f"releases/{image}" for image in (old, bad, old)]


@pytest.mark.parametrize(
    ("on_halt", "result", "back"),
    [("keep", "halted", 0), ("revert-wave", "halted", 1), ("revert-all", "reverted", 2)],
)
def test_what_happens_to_hosts_that_had_switched(
    project: Project, on_halt: str, result: str, back: int
) -> None:
    # h1 alone, then h2 and h3, where h3 fails; h4 is never begun.
    check = (
        "test $(basename $(dirname {root}))/$(basename {root}) != hosts/h3 -o ! -e {release}/new"
    )
    project.write(4, waves=["label:canary", 2, "100%"], parallel=1, on_halt=on_halt, health=[check])
    old, new = project.image("v1"), project.image("v2", new=b"x")
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    ran = project.wain("rollout", "shop:v2", "--yes")
    assert (ran.code, ran.document["result"]) == (4, result)
    states = ran.states()
    assert (states["h3"], states["h4"]) == ("reverted", "untouched")
    assert [states["h1"], states["h2"]].count("reverted") == back
    for host, state in states.items():
        assert project.current(host) == (new if state == "succeeded" else old)


def test_failures_below_the_limit_do_not_stop_it_but_are_no_success(project: Project) -> None:
    project.write(4, max_failures=2, health=["test $(basename {root}) != h2"])
    image = project.image("v1")
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, ran.document["result"]) == (1, "succeeded")
    assert ran.states() == {
        "h1": "succeeded", "h2": "reverted", "h3": "succeeded", "h4": "succeeded",
    }  # fmt: skip
    assert project.currents() == {"h1": image, "h2": None, "h3": image, "h4": image}


def test_stage_only_sends_and_switches_nothing(project: Project) -> None:
    project.write(2)
    old, new = project.image("v1"), project.image("v2")
    project.wain("rollout", "shop:v1", "--yes")
    ran = project.wain("rollout", "shop:v2", "--yes", "--stage-only")
    assert (ran.code, set(ran.states().values())) == (0, {"succeeded"})
    assert set(project.currents().values()) == {old}
    assert (project.root("h1") / "releases" / new).is_dir()
    ran = project.wain("rollout", "shop:v2", "--yes")
    assert set(project.currents().values()) == {new}
    # Everything was there: no pack, only the manifest as a delta.
    assert {host["bytes_sent"] < 300 for host in ran.document["hosts"].values()} == {True}


def test_a_soak_that_fails_takes_the_host_back(project: Project) -> None:
    project.write(2)
    old, new = project.image("v1"), project.image("v2")
    project.wain("rollout", "shop:v1", "--yes")
    # Passes once, then no more: a service that dies after a while.
    counter = f"{project.root('h1').parent}/count"
    project.write(
        2, waves=["label:canary", "100%"], soak="1500ms",
        health=[f"echo x >> {counter}; test $(wc -l < {counter}) -lt 2"],
    )  # fmt: skip
    ran = project.wain("rollout", "shop:v2", "--yes")
    assert (ran.code, ran.document["result"]) == (4, "reverted")
    assert ran.states() == {"h1": "reverted", "h2": "untouched"}
    assert "in its soak" in ran.document["hosts"]["h1"]["error"]
    assert project.currents() == {"h1": old, "h2": old}
    assert new in project.wain("status").document["quarantined"]


def test_without_a_terminal_and_without_yes_nothing_is_done(project: Project) -> None:
    project.write(1)
    project.image("v1")
    for words in (["rollout", "shop:v1"], ["rollback"], ["adopt"], ["forget", "h1"]):
        ran = project.wain(*words)
        assert (ran.code, "--yes" in ran.text) == (2, True)
    assert not project.root("h1").exists()


def test_a_plan_that_is_no_longer_so_is_refused(project: Project) -> None:
    project.write(2)
    project.image("v1")
    project.image("v2")
    plan = project.wain("plan", "shop:v2").document["plan"]
    assert project.wain("plan", "shop:v2").document["plan"] == plan
    project.wain("rollout", "shop:v1", "--yes", "--hosts", "h1")
    ran = project.wain("rollout", "shop:v2", "--yes", "--plan", plan)
    assert (ran.code, "a host moved or a setting changed" in ran.text) == (3, True)
    assert project.current("h2") is None


def test_problems_are_found_before_the_first_wave(project: Project) -> None:
    project.write(3)
    image = project.image("v1")
    (project.root("h3")).mkdir(parents=True, mode=0o777)
    project.root("h3").chmod(0o777)
    check = project.wain("check")
    assert check.code == 3
    assert [check.document["hosts"][host]["ok"] for host in project.hosts] == [True, True, False]
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, ran.document["result"]) == (4, "halted")
    assert ran.states() == {"h1": "untouched", "h2": "untouched", "h3": "failed"}
    assert "writable by everybody" in ran.document["hosts"]["h3"]["error"]
    project.root("h3").chmod(0o755)
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    assert set(project.currents().values()) == {image}


@pytest.mark.row("T6")
def test_what_hooks_need_is_looked_for_on_hosts_without_a_release(
    project: Project, tmp_path: Path
) -> None:
    env_file = tmp_path / "shop.env"
    env_file.write_text("MODE=restart-shop\n")
    project.write(
        2, labels=f'env-file = "{env_file}"', max_failures=2,
        after_switch=["restart-shop --now", "/no/such/tool x", "X=1 test -e {release}"],
        health=["{release}/bin/app", "bin/app", "cd / && true", "(true)"],
    )  # fmt: skip
    image = project.image("v1")
    check = project.wain("check")
    assert check.code == 3
    for host in project.hosts:
        assert check.document["hosts"][host]["problems"] == [
            f"there is no program '{tool}', which a hook or check starts"
            for tool in ("/no/such/tool", "restart-shop")
        ]
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, set(ran.states().values())) == (4, {"failed"})
    assert "no program 'restart-shop'" in ran.document["hosts"]["h1"]["error"]
    # Nothing was written on a host by looking, nor sent by the roll-out.
    assert not (project.root("h1") / "objects").exists()
    assert project.wain("rollout", "shop:v1", "--yes", "--stage-only").code == 0
    env_file.unlink()
    project.write(2, labels=f'env-file = "{env_file}"', health=["true"])
    check = project.wain("check")
    assert (check.code, check.document["hosts"]["h1"]["kinds"]) == (3, ["tools"])
    assert check.document["hosts"]["h1"]["problems"] == [
        f"env-file {env_file}: No such file or directory"
    ]
    # A host that has the image is not asked for what it would not run.
    env_file.write_text("MODE=x\n")
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    env_file.unlink()
    assert project.wain("rollout", "shop:v1", "--yes").document["result"] == "unchanged"
    assert set(project.currents().values()) == {image}


@pytest.mark.row("T5", "S1")
def test_a_damaged_object_of_this_machine_is_a_hosts_failure(project: Project) -> None:
    """Nothing of it is sent, and the books are closed."""
    project.write(2, parallel=1)
    old, new = project.image("v1"), project.image("v2")
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    entry = next(e for e in project.store.manifest(new).entries if e.path.endswith("m00003.py"))
    here = Path(project.store.object_path(*entry.key))
    there = project.root("h1") / here.relative_to(project.store.root)
    # The host lost it, so it asks for more than the plan could know.
    there.unlink()
    here.chmod(0o644)
    here.write_bytes(here.read_bytes()[::-1])
    ran = project.wain("rollout", "shop:v2", "--yes")
    assert (ran.code, ran.states()) == (4, {"h1": "failed", "h2": "untouched"}), ran.text
    assert entry.sha256[2:] in ran.document["hosts"]["h1"]["error"]
    assert "wain store verify --repair" in ran.document["hosts"]["h1"]["error"]
    assert project.currents() == {"h1": old, "h2": old}
    assert project.wain("status").document["rollout"] is None


@pytest.mark.row("T5", "S1")
def test_rot_that_no_stat_shows_is_found_by_the_host_and_named_here(project: Project) -> None:
    """For one host alone objects are not hashed here before they are sent."""
    project.write(1)
    entry = next(
        entry
        for entry in project.store.manifest(project.image("v1")).entries
        if entry.path.endswith("m00003.py")
    )
    here = Path(project.store.object_path(*entry.key))
    before = here.stat()
    here.chmod(0o644)
    here.write_bytes(here.read_bytes()[::-1])
    here.chmod(before.st_mode)
    os.utime(here, ns=(before.st_atime_ns, before.st_mtime_ns))
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, ran.states()) == (4, {"h1": "failed"}), ran.text
    error = ran.document["hosts"]["h1"]["error"]
    assert error == f"{here}: the object's bytes were changed (wain store verify --repair)"
    assert project.currents() == {"h1": None}


@pytest.mark.row("V3")
def test_a_root_belongs_to_one_application(project: Project, tmp_path: Path) -> None:
    """Another project with the same root does not roll out, go back, prune or forget there."""
    project.write(1)
    image, newer = project.image("v1"), project.image("v2")
    for tag in ("v1", "v2"):
        assert project.wain("rollout", f"shop:{tag}", "--yes").code == 0
    other = Project(tmp_path / "blog", project.store, name="blog")
    other.folder.mkdir()
    other.write(1)
    theirs = other.image("v1", "blog", more=b"x")
    before = json.dumps(json.loads((project.root("h1") / "state.json").read_text()))
    check = other.wain("check")
    assert (check.code, check.document["hosts"]["h1"]["kinds"]) == (3, ["root"])
    for words, code in (
        (["plan", "blog:v1"], 3), (["rollout", "blog:v1", "--yes"], 4),
        (["rollout", "blog:v1", "--yes", "--stage-only"], 4), (["rollback", "--yes"], 1),
        (["prune"], 1), (["forget", "h1", "--yes"], 1),
    ):  # fmt: skip
        ran = other.wain(*words)
        assert ran.code == code, (words, ran.text)
        said = ran.text + json.dumps(ran.document)
        assert "is the root of 'shop', expected 'blog'" in said, words
    assert project.current("h1") == newer
    assert not (project.root("h1") / "releases" / theirs).exists()
    assert json.dumps(json.loads((project.root("h1") / "state.json").read_text())) == before
    assert project.wain("rollback", "--yes").code == 0
    # Given away, in so many words: then it is the other's.
    ran = other.wain("adopt", "--yes")
    assert (ran.code, "the root of 'shop'" in ran.text) == (0, True)
    assert other.wain("rollout", "blog:v1", "--yes").code == 0
    assert project.current("h1") == theirs
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, "expected 'shop'" in json.dumps(ran.document)) == (4, True)
    assert image != newer


@pytest.mark.row("A4")
def test_something_foreign_is_left_alone_until_it_is_adopted(project: Project) -> None:
    project.write(2)
    image = project.image("v1")
    current = project.root("h2") / "current"
    current.mkdir(parents=True)
    (current / "precious").write_text("x")
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, ran.states()) == (4, {"h1": "untouched", "h2": "failed"})
    assert "wain fleet adopt" in ran.document["hosts"]["h2"]["error"]
    assert (current / "precious").exists()
    assert project.wain("adopt", "--yes", "--hosts", "h2").code == 0
    assert (current / "precious").exists()
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    assert set(project.currents().values()) == {image}


def test_prune_keeps_what_can_be_gone_back_to(project: Project) -> None:
    project.write(1, keep=2)
    ids = [project.image(f"v{at}") for at in range(5)]
    for at in range(5):
        assert project.wain("rollout", f"shop:v{at}", "--yes").code == 0
    kept = {path.name for path in (project.root("h1") / "releases").iterdir()}
    assert kept == set(ids[-2:])
    assert project.wain("rollback", "--yes").code == 0
    assert project.current("h1") == ids[3]
    assert project.wain("prune", "--keep", "1").code == 0
    assert {path.name for path in (project.root("h1") / "releases").iterdir()} == set(ids[3:])


def test_forget_removes_what_is_ours(project: Project) -> None:
    project.write(2)
    project.image("v1")
    project.wain("rollout", "shop:v1", "--yes")
    assert project.wain("forget", "h2", "--yes").code == 0
    assert not (project.root("h2") / "releases").exists()
    hosts = project.wain("query", "app").document["hosts"]
    assert [match["host"] for match in hosts] == ["h1"]
    assert project.wain("forget", "h9", "--yes").code == 1
    assert project.wain("forget", "h9", "--yes", "--gone").code == 0


@pytest.mark.row("T3")
def test_a_slow_line_is_not_a_dead_one(project: Project) -> None:
    """A step may take no longer than three seconds without a byte, but as long as bytes flow."""
    project.write(1, bandwidth="75kB/s", step_timeout="3s")
    image = project.image("v1", data=os.urandom(300_000))
    began = time.monotonic()
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, project.current("h1")) == (0, image), ran.text
    assert time.monotonic() - began > 3.5
