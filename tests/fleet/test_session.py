"""The verbs of one host, over the local transport: the same agent that runs everywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleet import agent_seal
from fleet.session import HostError
from images.delta import encode_delta
from images.manifest import Manifest
from images.store import Store
from tests.support.hosts import Host, until
from tests.support.small_images import SITE, small_image


def kind_of(error: pytest.ExceptionInfo[HostError]) -> str:
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("h1: ")
    return error.value.kind


def test_the_whole_way_and_back(host: Host, old: Manifest, new: Manifest) -> None:
    assert host.deploy(old) == 1
    with host.open() as session:
        facts = session.facts
        assert facts.state.current == old.image_id
        assert facts.state.generation == 1
        assert facts.state.previous is None
        assert facts.state.confirmed == (old.image_id,)
        assert facts.libc[0] in ("glibc", "musl")
        assert facts.magic
        assert host.stage(session, new) == 1  # only app.py differs
        assert host.current == old.image_id
        result = session.run("{release}/bin/app", 10, image_id=new.image_id)
        assert (result.status, result.output) == (0, "new\n")
        generation = host.switch(session, new)
    with host.open() as session:
        assert session.facts.state.pending
        session.confirm(generation)
    with host.open() as session:
        assert session.rollback(None, new.image_id) == (old.image_id, 3)
        assert session.bytes_sent == 0
    assert host.current == old.image_id
    assert subprocess.run([f"{host.root}/current/bin/app"], capture_output=True).stdout == b"old\n"


def test_a_console_script_keeps_its_own_release(host: Host, old: Manifest) -> None:
    host.deploy(old)
    head = Path(host.root, "current/bin/app").read_text().splitlines()[:2]
    assert any(f"{host.root}/releases/{old.image_id}/bin/python" in line for line in head)


def test_nothing_to_do_is_one_answer(host: Host, old: Manifest) -> None:
    host.deploy(old)
    before = {path: os.lstat(path).st_mtime_ns for path in Path(host.root).rglob("*")}
    with host.open() as session:
        assert session.facts.state.current == old.image_id
    assert session.bytes_sent == 0
    assert {path: os.lstat(path).st_mtime_ns for path in Path(host.root).rglob("*")} == before


def test_the_manifest_crosses_as_a_delta(host: Host, store: Store) -> None:
    one = small_image(store, "one", count=400)
    two = small_image(store, "two", count=400)
    host.deploy(one)
    with host.open() as session:
        delta = encode_delta(one.to_bytes(), two.to_bytes())
        assert len(session.begin(two, delta=delta, base=one.image_id)) == 1
        assert session.bytes_sent < 600
        with pytest.raises(HostError) as caught:
            session.begin(two, delta=delta, base="0" * 64)
        assert kind_of(caught) == "base"
        assert len(session.begin(two)) == 1


# The way back


@pytest.mark.row("A6")
def test_unconfirmed_goes_back_by_itself(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    with host.open() as session:
        host.stage(session, new)
        hook = "echo {id} > {root}/hooked"
        host.switch(session, new, 0.5, hooks=[hook])
        assert host.current == new.image_id
    until(lambda: host.current == old.image_id)
    until(lambda: not timers(host))
    assert Path(host.root, "hooked").read_text().strip() == old.image_id
    state = host.state()
    assert state.pending is None
    assert state.last["what"] == "reverted"
    assert state.last["reason"] == "not confirmed in time"
    assert state.quarantined == {}


@pytest.mark.row("C1")
@pytest.mark.row("T7")
def test_the_timer_survives_the_agent(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    session = host.open()
    host.stage(session, new)
    host.switch(session, new, 0.7)
    os.killpg(session._channel._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(HostError, match="signal 9") as caught:
        session.run("true", 5)
    assert kind_of(caught) == "agent-died"
    until(lambda: host.current == old.image_id)


@pytest.mark.row("K4")
@pytest.mark.row("C5")
def test_the_timer_is_all_that_stays(host: Host, old: Manifest) -> None:
    with host.open() as session:
        host.stage(session, old)
        generation = host.switch(session, old, 60)
    (timer,) = timers(host)
    fds = {os.readlink(f"/proc/{timer}/fd/{fd}") for fd in os.listdir(f"/proc/{timer}/fd")}
    assert fds == {"/dev/null", f"{host.root}/agent/timer"}
    assert os.getsid(timer) != os.getsid(0)
    with host.open() as session:
        session.confirm(generation)
    until(lambda: not timers(host))


def timers(host: Host) -> list[int]:
    """Agent processes of this root that are alive."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if host.root.encode() in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                found.append(int(name))
        except OSError:
            continue
    return found


def test_an_unconfirmed_switch_without_a_timer_is_settled(
    host: Host, old: Manifest, new: Manifest
) -> None:
    """As after a power cut: the record is there, the timer is not."""
    host.deploy(old)
    with host.open() as session:
        host.stage(session, new)
        host.switch(session, new, 60)
    for pid in timers(host):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not timers(host))
    with host.open(keep=False) as session:
        assert session.facts.state.pending
        assert not session.facts.state.pending.armed
        assert host.current == new.image_id
    with host.open() as session:
        assert "went back" in session.facts.settled
        assert session.facts.state.current == old.image_id
        assert session.facts.state.pending is None


@pytest.mark.row("A2")
def test_a_host_settles_by_itself_at_boot(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    (agent,) = Path(host.root, "agent").glob("*.pyz")
    command = [host.python, "-I", "-S", str(agent), "settle", host.root]

    def boot() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "nothing to settle" in boot()
    with host.open() as session:
        host.stage(session, new)
        host.switch(session, new, 60, hooks=["echo {id} > {root}/hooked"])
    assert "nothing to settle" in boot()  # its timer lives
    for pid in timers(host):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not timers(host))
    assert "went back" in boot()
    assert host.current == old.image_id
    assert Path(host.root, "hooked").read_text().strip() == old.image_id


def test_a_frozen_agent_does_not_hold_up_the_timer(
    host: Host, old: Manifest, new: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fleet import agent_timer

    host.deploy(old)
    session = host.open()
    host.stage(session, new)
    host.switch(session, new, 0.5)
    # A session that stops while it holds the lock; the one that armed the timer, too.
    session.quarantine("0" * 64, "takes the lock")
    agent = session._channel._process.pid  # type: ignore[attr-defined]
    os.kill(agent, signal.SIGSTOP)
    until(lambda: host.current == old.image_id, agent_timer.PATIENCE + 8)
    session.close()


def test_extending_only_moves_forward(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    with host.open() as session:
        host.stage(session, new)
        generation = host.switch(session, new, 0.6)
        session.extend(generation, 30)
        session.extend(generation, 0)
        time.sleep(1.0)
        assert host.current == new.image_id
        session.revert(generation, "enough")
    assert host.current == old.image_id


def test_a_slow_check_does_not_lose_to_the_timer(host: Host, old: Manifest) -> None:
    with host.open() as session:
        host.stage(session, old)
        generation = host.switch(session, old, 0.5)
        assert session.run("sleep 1.2; echo fine", 5).output == "fine\n"
    with host.open() as session:
        session.confirm(generation)


def test_a_first_release_goes_back_to_nothing(host: Host, old: Manifest) -> None:
    with host.open() as session:
        host.stage(session, old)
        generation = host.switch(session, old)
        session.revert(generation, "unhealthy")
    assert host.current is None
    assert host.state().previous is None
    host.deploy(old)
    assert host.current == old.image_id


def test_confirming_what_went_back_is_refused(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    with host.open() as session:
        host.stage(session, new)
        generation = host.switch(session, new)
        session.revert(generation, "unhealthy")
    with host.open() as session, pytest.raises(HostError, match="reverted, unhealthy") as caught:
        session.confirm(generation)
    assert kind_of(caught) == "moved"


# Guards


def test_the_switch_is_guarded_by_what_the_plan_saw(
    host: Host, old: Manifest, new: Manifest
) -> None:
    host.deploy(old)
    with host.open() as session:
        host.stage(session, new)
        for current, generation in ((None, 1), (new.image_id, 1), (old.image_id, 0)):
            with pytest.raises(HostError, match="the host moved since") as caught:
                session.switch(new.image_id, current, generation, 60)
            assert kind_of(caught) == "moved"
    assert host.current == old.image_id
    until(lambda: not timers(host), 2)


@pytest.mark.row("K1")
def test_the_second_controller_is_told_who_is_at_work(
    host: Host, old: Manifest, new: Manifest
) -> None:
    with host.open(by={"who": "anna@desk", "reason": "ticket 7"}) as first, host.open() as second:
        host.stage(first, old)
        with pytest.raises(HostError) as caught:
            second.begin(new)
        assert kind_of(caught) == "locked"
        assert caught.value.exit_code == 6
        assert "in progress: anna@desk, pid " in str(caught.value)
        assert "ticket 7" in str(caught.value)
        generation = host.switch(first, old)
        # Between switch and confirmation the record guards the host, not the lock.
        with pytest.raises(HostError, match="a switch by anna@desk waits") as caught:
            host.switch(second, new)
        assert kind_of(caught) == "pending"
        with pytest.raises(HostError, match="waits for its confirmation"):
            second.prune(1)
        second.close()
        first.confirm(generation)


@pytest.mark.row("K3")
def test_a_dead_holder_frees_the_lock(host: Host, old: Manifest) -> None:
    session = host.open()
    session.begin(old)
    os.killpg(session._channel._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    host.deploy(old)


@pytest.mark.row("A8")
def test_back_and_forth(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    with host.open() as session, pytest.raises(HostError, match="no previous release") as caught:
        session.rollback(None, old.image_id)
    assert kind_of(caught) == "missing"
    host.deploy(new)
    for wanted, seen in ((old, new), (new, old), (old, new)):
        with host.open() as session:
            assert session.rollback(None, seen.image_id)[0] == wanted.image_id
        assert host.current == wanted.image_id
    with host.open() as session:
        generation = session.facts.state.generation
        # To where it already is, and a switch to it: nothing happens.
        assert session.rollback(old.image_id, old.image_id) == (old.image_id, generation)
        assert host.switch(session, old) == generation
    assert host.state().pending is None


def test_rolling_back_to_what_never_was_confirmed(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    with host.open() as session:
        host.stage(session, new)
        with pytest.raises(HostError, match="never confirmed here"):
            session.rollback(new.image_id, old.image_id)


@pytest.mark.row("A7")
@pytest.mark.parametrize(("deep", "damage"), [(False, "remove"), (False, "grow"), (True, "flip")])
def test_a_damaged_target_is_refused(
    host: Host, old: Manifest, new: Manifest, deep: bool, damage: str
) -> None:
    host.deploy(old)
    host.deploy(new)
    victim = Path(host.root, "releases", old.image_id, SITE, "filler/m00003.py")
    if damage == "remove":
        victim.unlink()
    else:
        status = victim.stat()
        data = victim.read_bytes()
        victim.chmod(0o644)
        victim.write_bytes(data + b"#" if damage == "grow" else data.replace(b"3", b"4"))
        victim.chmod(status.st_mode & 0o777)
        os.utime(victim, ns=(status.st_mtime_ns, status.st_mtime_ns))
    with host.open() as session, pytest.raises(HostError, match=r"filler/m00003\.py") as caught:
        session.rollback(None, new.image_id, deep=deep)
    assert kind_of(caught) == "damaged"
    assert host.current == new.image_id
    assert host.state().pending is None


@pytest.mark.row("A7")
@pytest.mark.parametrize("how", ["collected", "removed by hand"])
def test_a_target_that_is_gone_is_refused(
    host: Host, store: Store, old: Manifest, new: Manifest, how: str
) -> None:
    first = small_image(store, "first")
    for image in (first, old, new):
        host.deploy(image)
    if how == "collected":
        with host.open() as session:
            assert session.prune(0)["removed"] == [first.image_id]
        target, says = first, "never confirmed here"
    else:
        shutil.rmtree(f"{host.root}/releases/{old.image_id}")
        target, says = old, "is not here any more"
    with host.open() as session, pytest.raises(HostError, match=says) as caught:
        session.rollback(target.image_id, new.image_id)
    assert kind_of(caught) == "missing"
    assert host.current == new.image_id
    with host.open() as session:
        assert session.facts.state.pending is None
        assert session.verify(new.image_id, deep=True) == []
    host.deploy(target)
    assert host.current == target.image_id


@pytest.mark.row("D1")
def test_a_history_that_does_not_fit_stops_nothing(
    host: Host, old: Manifest, new: Manifest, tmp_path: Path
) -> None:
    host.deploy(old)
    kept = Path(host.root, "history.jsonl").read_bytes()
    history = f"{host.root}/history.jsonl"
    rule = ["-P", history, "-e", "trace=write", "-e", "inject=write:error=ENOSPC"]
    trace = ["strace", "-qq", "-o", str(tmp_path / "trace"), *rule]
    with host.open(become=trace) as session:
        host.stage(session, new)
        generation = host.switch(session, new)
    with host.open(become=trace) as session:
        session.confirm(generation)
    assert host.current == new.image_id
    assert Path(history).read_bytes() == kept
    assert "ENOSPC" in (tmp_path / "trace").read_text()


@pytest.mark.row("A4")
@pytest.mark.parametrize("what", ["folder", "file", "outside", "dangling", "missing", "other"])
def test_something_else_in_the_place_of_current(
    host: Host, old: Manifest, new: Manifest, tmp_path: Path, what: str
) -> None:
    host.deploy(old)
    with host.open() as session:
        host.stage(session, new)
    link = Path(host.root, "current")
    link.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if what == "folder":
        link.mkdir()
        (link / "precious").write_text("mine")
    elif what == "file":
        link.write_text("mine")
    elif what != "missing":
        target = {
            "outside": str(elsewhere),
            "dangling": "releases/gone",
            "other": f"releases/{new.image_id}",
        }
        link.symlink_to(target[what])

    def shot() -> list[str]:
        return subprocess.run(["ls", "-lR", link], capture_output=True, text=True).stdout.split(
            "\n"
        )

    before = shot()
    with host.open() as session:
        state = session.facts.state
        assert state.foreign
        assert state.current is None
        for action in (
            lambda: session.switch(new.image_id, None, state.generation, 60),
            lambda: session.switch(new.image_id, old.image_id, state.generation, 60),
            lambda: session.rollback(None, None),
            lambda: session.forget(),
        ):
            with pytest.raises(HostError) as caught:
                action()
            assert kind_of(caught) == "foreign"
            assert "adopt" in str(caught.value)
        assert shot() == before
        assert session.adopt()
    with host.open() as session:
        assert session.facts.state.foreign == ""
        generation = host.switch(session, new)
        if what != "other":
            assert host.current == new.image_id
            session.revert(generation, "as it was")
    if what == "folder":
        assert (link / "precious").read_text() == "mine"
    elif what == "missing":
        assert not link.is_symlink()
    assert elsewhere.exists()


def test_a_release_removed_by_hand_leaves_a_dangling_link(host: Host, old: Manifest) -> None:
    host.deploy(old)
    shutil.rmtree(f"{host.root}/releases/{old.image_id}")
    assert "dangling" in host.state().foreign


def test_a_quarantined_image_is_refused_until_cleared(
    host: Host, old: Manifest, new: Manifest
) -> None:
    host.deploy(old)
    with host.open() as session:
        host.stage(session, new)
        session.quarantine(new.image_id, "health failed on web1")
    with host.open() as session:
        assert session.facts.state.quarantined == {new.image_id: "health failed on web1"}
        for action in (lambda: session.begin(new), lambda: host.switch(session, new)):
            with pytest.raises(HostError, match="health failed on web1") as caught:
                action()
            assert kind_of(caught) == "quarantined"
        with pytest.raises(HostError, match="needs a reason"):
            session.clear(new.image_id, "")
        assert session.clear(new.image_id, "it was the network") == "health failed on web1"
        host.switch(session, new)
    assert host.current == new.image_id


# History, keeping, processes


def test_history_is_kept_and_survives_a_torn_line(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    with Path(host.root, "history.jsonl").open("ab") as file:
        file.write(b'{"generation":1,"what":"conf')
    host.deploy(new)
    with host.open() as session:
        lines = session.history(50)
    assert [line["what"] for line in lines] == [
        "stage", "switch", "confirm", "stage", "switch", "confirm",
    ]  # fmt: skip
    assert [line["generation"] for line in lines] == sorted(line["generation"] for line in lines)
    assert lines[-1]["by"] == {"who": "tester"}
    with host.open() as session:
        assert session.history(2) == lines[-2:]


def test_pruning_keeps_what_is_needed(host: Host, store: Store) -> None:
    images = [small_image(store, f"v{number}") for number in range(6)]
    for image in images:
        host.deploy(image)
    with host.open() as session:
        done = session.prune(1, [images[1].image_id])
    kept = {images[index].image_id for index in (1, 4, 5)}  # pinned, previous, current
    assert set(host.state().releases) == kept
    assert set(done["removed"]) == {image.image_id for image in images} - kept
    assert done["objects"] == 3
    left = Store(host.root)
    wanted = {key for image in (1, 4, 5) for key in images[image].objects()}
    assert set(left.keys()) == wanted
    assert left.verify() == []
    with host.open() as session:
        assert session.rollback(None, images[5].image_id)[0] == images[4].image_id


def test_a_running_process_keeps_its_release(host: Host, store: Store) -> None:
    images = [small_image(store, f"v{number}") for number in range(4)]
    host.deploy(images[0])
    code = "import time; print('up', flush=True); time.sleep(60)"
    python = f"{host.root}/releases/{images[0].image_id}/bin/python"
    service = subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE)
    try:
        assert service.stdout
        service.stdout.readline()
        for image in images[1:]:
            host.deploy(image)
        with host.open() as session:
            assert session.processes() == [(images[0].image_id, service.pid)]
            assert images[1].image_id in session.prune(1)["removed"]
            assert images[0].image_id in host.state().releases
    finally:
        service.kill()
        service.wait()
    with host.open() as session:
        assert session.prune(1)["removed"] == [images[0].image_id]


def test_staged_ahead_is_not_pruned(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    with host.open() as session:
        host.stage(session, new)
    with host.open() as session:
        assert session.prune(1)["removed"] == []


def test_forgetting_leaves_what_is_not_ours(host: Host, old: Manifest) -> None:
    host.deploy(old)
    Path(host.root, "notes.txt").write_text("mine")
    with host.open() as session:
        assert session.forget() == ["notes.txt"]
    assert sorted(os.listdir(host.root)) == ["lock", "notes.txt"]
    host.deploy(old)
    assert host.current == old.image_id


@pytest.mark.row("A7")
def test_the_seal_notices_what_a_comparison_would(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    host.deploy(new)
    release = Path(host.root, "releases", old.image_id)
    victim = release / SITE / "filler/m00003.py"

    def intact() -> bool:
        return agent_seal.is_intact(host.root, old.image_id)

    assert intact()
    twin = release / "twin"
    twin.hardlink_to(victim)  # a name more
    assert not intact()
    twin.unlink()
    assert not intact()
    with host.open() as session:  # the long comparison finds nothing, and seals anew
        session.rollback(None, new.image_id)
        session.rollback(None, old.image_id)
    assert intact()
    victim.chmod(0o644)
    assert not intact()
    victim.chmod(0o444)
    assert intact()
    victim.chmod(0o644)
    data, status = victim.read_bytes(), victim.stat()
    victim.write_bytes(data)
    victim.chmod(0o444)
    assert not intact()
    os.utime(victim, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert intact()
    for damaged in (b"", b"{", b"[1]"):
        Path(host.root, "seals", old.image_id).write_bytes(damaged)
        assert not intact()
    with host.open() as session:
        assert session.rollback(None, new.image_id)[0] == old.image_id


def test_another_patch_release_of_python_is_no_drift(
    host: Host, old: Manifest, new: Manifest, tmp_path: Path
) -> None:
    """Links to interpreters stand for what a system update does to /usr/bin/python3."""
    host.deploy(old)
    host.deploy(new)
    state = Path(host.root, "state.json")
    document = json.loads(state.read_text())
    made = document["made"][old.image_id]
    assert made[0] == os.path.realpath(sys.executable)
    Path(host.root, "seals", old.image_id).unlink()
    config = Path(host.root, "releases", old.image_id, "pyvenv.cfg")
    config.write_text(config.read_text().replace(f"version = {made[1]}", "version = 3.11.0"))
    made[1] = "3.11.0"
    os.utime(config, (315_619_200, 315_619_200))
    state.write_text(json.dumps(document))
    with host.open() as session:
        assert session.verify(old.image_id, deep=True) == []
        assert session.rollback(None, new.image_id)[0] == old.image_id
        session.rollback(None, old.image_id)
    made[0] = str(tmp_path / "gone")
    document = json.loads(state.read_text())
    document["made"][old.image_id] = made
    state.write_text(json.dumps(document))
    with host.open() as session:
        with pytest.raises(HostError, match=r"interpreter of release \w+ is gone") as caught:
            session.rollback(None, new.image_id)
        assert kind_of(caught) == "damaged"
        paths = [one.path for one in session.verify(old.image_id, deep=True)]
        assert paths == ["pyvenv.cfg"]
        assert session.repair(old.image_id, paths) == []
        assert session.verify(old.image_id, deep=True) == []
        assert session.rollback(None, new.image_id)[0] == old.image_id


def test_a_release_made_anew_for_another_python_is_looked_at_as_such(
    host: Host, old: Manifest, new: Manifest
) -> None:
    """The host's Python was updated since, and the release was damaged, or removed by hand."""
    host.deploy(old)
    host.deploy(new)
    state = Path(host.root, "state.json")
    document = json.loads(state.read_text())
    document["made"][old.image_id][1] = "3.0.0"
    state.write_text(json.dumps(document))
    shutil.rmtree(f"{host.root}/releases/{old.image_id}")
    with host.open() as session:
        assert session.begin(old) == []
        assert session.checkout(old.image_id)["made"]
        assert session.verify(old.image_id, deep=True) == []


@pytest.mark.row("A3")
@pytest.mark.row("S3")
def test_pruning_what_cannot_be_listed_removes_nothing(
    host: Host, old: Manifest, new: Manifest
) -> None:
    """A folder that cannot be read is not an empty one."""
    host.deploy(old)
    host.deploy(new)
    for folder in ("releases", "manifests"):
        calls = Path(host.root).parent / "trace"
        rule = ["-P", f"{host.root}/{folder}", "-e", "inject=openat:error=EIO"]
        trace = ["strace", "-qq", "-o", str(calls), "-e", "trace=openat", *rule]
        with pytest.raises(HostError, match=folder), host.open(become=trace) as session:
            session.prune(0)
    assert host.current == new.image_id
    with host.open() as session:
        assert session.verify(new.image_id, deep=True) == []
    assert Store(host.root).manifests() == sorted([old.image_id, new.image_id])
