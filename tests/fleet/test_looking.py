"""Looking after a fleet: drift, questions, reports, rehearsals, what a terminal gets to see."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fleet.journal import HostRow, Journal, Rollout, StepRow
from fleet.pack import Packs
from fleet.report import markdown
from fleet.transport import LocalTransport
from tests.support.fleets import Project


def edit(path: Path, data: bytes) -> None:
    """Other bytes of the same size, at the same time: what a look cannot see."""
    stat = path.stat()
    path.chmod(0o644)
    path.write_bytes(data.ljust(stat.st_size, b"#")[: stat.st_size])
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.row("M4")
@pytest.mark.row("S2")
def test_drift_is_found_by_host_and_package_and_repaired(project: Project) -> None:
    project.write(3)
    project.image("v1")
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    assert project.wain("verify").code == 0
    release = project.root("h2") / "current"
    (release / "bin" / "plain").unlink()
    app = next(release.rglob("app.py"))
    edit(app, b"TEXT = 'xx'\n")
    (release / "stray.txt").write_text("x")
    (project.root("h2") / "own.txt").write_text("not of the release")
    fast = project.wain("verify")
    assert fast.code == 3
    whats = {(one["path"], one["what"]) for one in fast.document["hosts"]["h2"]["drift"]}
    assert {("bin/plain", "missing"), ("stray.txt", "added")} <= whats
    deep = project.wain("verify", "--deep")
    assert deep.code == 3
    assert deep.document["packages"]["app"] == {"h2": 2}
    assert [deep.document["hosts"][host]["ok"] for host in project.hosts] == [True, False, True]
    repaired = project.wain("verify", "--deep", "--repair")
    assert repaired.code == 0, repaired.text
    assert repaired.document["hosts"]["h2"]["repaired"] == 3
    # Only the object that was edited through its hard link had to be sent.
    assert 0 < repaired.document["hosts"]["h2"]["bytes_sent"] < 300
    assert project.wain("verify", "--deep").code == 0
    assert project.says("h2") == "v1"
    assert (project.root("h2") / "own.txt").exists()
    assert not (release / "stray.txt").exists()


def test_queries_know_what_hosts_reported(project: Project) -> None:
    project.write(3)
    project.image("v1", "1.0")
    project.image("v2", "2.0")
    project.wain("rollout", "shop:v1", "--yes")
    project.wain("rollout", "shop:v2", "--yes", "--hosts", "h3")
    ran = project.wain("query", "app<2")
    assert [(one["host"], one["version"]) for one in ran.document["hosts"]] == [
        ("h1", "1.0"), ("h2", "1.0"),
    ]  # fmt: skip
    assert [
        one["host"] for one in project.wain("query", "--image", "shop:v2").document["hosts"]
    ] == ["h3"]
    everything = project.wain("query", "app", "--python", ">=3", "--libc", ">=2")
    assert len(everything.document["hosts"]) == 3
    assert project.wain("query", "absent").document["hosts"] == []
    assert project.wain("query").code == 2
    assert project.wain("query", "app<<2").code == 2
    # A rollback is known at once, without asking the hosts.
    project.wain("rollback", "--yes", "--hosts", "h3")
    assert len(project.wain("query", "app==1.0").document["hosts"]) == 3


@pytest.mark.row("S3")
def test_images_that_hosts_run_are_not_collected(project: Project) -> None:
    project.write(1)
    old, new = project.image("v1"), project.image("v2")
    project.wain("rollout", "shop:v1", "--yes")
    project.wain("rollout", "shop:v2", "--yes")
    lost = project.image("v3")
    for tag in ("v1", "v2", "v3"):
        project.catalog.untag(tag)
    project.catalog.collect()
    assert project.store.manifests() == sorted([old, new])
    assert lost not in project.store.manifests()


def test_history_and_report(project: Project) -> None:
    project.write(2, waves=["label:canary", "100%"], health=["echo look; test ! -e {release}/bad"])
    project.image("v1")
    project.image("v2", bad=b"x")
    project.wain("rollout", "shop:v1", "--yes", "--reason", "first", "--ticket", "T-1")
    project.wain("rollout", "shop:v2", "--yes", "--reason", "bad | <b>idea</b>")
    history = project.wain("history").document
    assert [(one["rollout"], one["result"]) for one in history["rollouts"]] == [
        ("r2", "reverted"), ("r1", "succeeded"),
    ]  # fmt: skip
    assert history["success_rate"] == 0.5
    assert history["rollouts"][1]["ticket"] == "T-1"
    report = project.wain("report", "r2")
    text = report.document["markdown"]
    for expected in ("**reverted**", "h1: reverted", "bad \\| \\<b\\>", "    look",
                     "on h1, h2:", "* app v1 → v2", "inodes free",
                     "| connect |", "| revert |", "| h2 |"):  # fmt: skip
        assert expected in text, expected
    steps = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    at = steps.index("connect")
    assert steps[at : at + 7] == [
        "connect", "send", "checkout", "switch", "health", "revert",
    ]  # fmt: skip
    assert project.wain("report", "-o", "r.md").code == 0
    assert (project.folder / "r.md").read_text() == text
    assert (project.wain("report", "r9").code, project.wain("report", "x").code) == (1, 2)
    # The same roll-out is in the host's own history.
    lines = (project.root("h1") / "history.jsonl").read_text().splitlines()
    assert {json.loads(line)["by"].get("rollout") for line in lines} == {"r1", "r2"}


@pytest.mark.row("L3")
def test_a_report_escapes_what_hosts_said() -> None:
    rollout = Rollout(1, "rollout", "a" * 64, "x", "d", {}, "me\x1b[0m", "here", "", "", "t", "t",
                      "done", "reverted", "")  # fmt: skip
    nasty = "\x1b]0;owned\x07 | <script> `x`"
    text = markdown(
        rollout, [HostRow("h1", 0, "failed", error=nasty)],
        [StepRow("h1", "health", "t", 1.0, nasty, nasty)], lambda image: "-",
    )  # fmt: skip
    assert not any(ord(c) < 32 and c != "\n" for c in text)
    assert "<script>" not in text.replace("    \\x1b]0;owned\\x07 | <script> `x`", "")


@pytest.mark.row("L3")
def test_what_hosts_say_cannot_drive_a_terminal(project: Project) -> None:
    project.write(1, health=["printf '\\033]0;owned\\007'; exit 1"])
    project.image("v1")
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert ran.code == 4
    assert "\x1b" not in ran.text + project.wain("report").text + project.wain("status").text


@pytest.mark.row("L1", "A6")
def test_values_of_the_env_file_appear_nowhere(project: Project, tmp_path: Path) -> None:
    secret = "canary-secret-4711"
    env_file = tmp_path / "shop.env"
    env_file.write_text(f"PASSWORD={secret}\n")
    env_file.chmod(0o600)
    check = 'test "$PASSWORD" = canary-secret-4711 && echo "it is $PASSWORD" && exit 3'
    check = check.replace(secret, "$(echo canary-secret-)4711")
    project.write(1, labels=f'env-file = "{env_file}"', health=[check])
    project.image("v1")
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert "status 3" in ran.document["hosts"]["h1"]["error"], ran.text
    report = project.wain("report")
    assert "it is ***" in report.document["markdown"]
    env_file.unlink()
    for folder in (project.folder, project.root("h1")):
        for path in folder.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path
    assert secret not in ran.text + json.dumps(ran.document) + report.text


def test_pins_stay_and_a_pin_of_nothing_is_refused_at_once(project: Project) -> None:
    project.write(1, keep=1, pins=["shop:v0"])
    pinned = project.image("v0")
    for tag in ("v0", "v1", "v2", "v3"):
        project.image(tag)
        assert project.wain("rollout", f"shop:{tag}", "--yes").code == 0
    kept = {path.name for path in (project.root("h1") / "releases").iterdir()}
    assert (len(kept), pinned in kept) == (3, True)
    project.write(1, pins=["shop:v9"])
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, "'shop:v9' is tagged" in ran.text) == (1, True)
    assert project.wain("status").document["rollout"] is None


def test_status_tells_of_processes_that_run_from_older_releases(project: Project) -> None:
    project.write(2)
    old = project.image("v1")
    project.image("v2")
    project.wain("rollout", "shop:v1", "--yes")
    release = project.root("h1") / "releases" / old
    with subprocess.Popen(["/bin/sleep", "60"], cwd=release) as process:
        try:
            assert project.wain("status").document["hosts"]["h1"]["old_processes"] == {}
            project.wain("rollout", "shop:v2", "--yes")
            status = project.wain("status")
            hosts = status.document["hosts"]
            assert hosts["h1"]["old_processes"] == {old: [process.pid]}
            assert hosts["h2"]["old_processes"] == {}
            said = f"h1: pid {process.pid} still runs from release {old[:12]}"
            assert said in status.text
            # Nor is that release taken away.
            assert project.wain("prune", "--keep", "1").code == 0
            assert release.is_dir()
        finally:
            process.kill()


def test_status_names_what_is_quarantined(project: Project) -> None:
    project.write(1)
    project.image("v1")
    assert project.wain("quarantine", "shop:v1", "--reason", "a leak").code == 0
    assert "quarantined: shop:v1" in project.wain("status").text
    assert ": a leak" in project.wain("status").text


def test_status_of_what_is_unconfirmed_or_adopted(project: Project) -> None:
    from tests.support.hosts import Host

    project.write(2)
    old, new = project.image("v1"), project.image("v2")
    project.wain("rollout", "shop:v1", "--yes")
    (project.root("h2") / "current").unlink()
    (project.root("h2") / "current").mkdir()
    assert project.wain("status").document["hosts"]["h2"]["state"] == "foreign"
    assert project.wain("adopt", "--hosts", "h2", "--yes").code == 0
    with Packs(project.store) as packs:
        host = Host(LocalTransport("h1"), str(project.root("h1")), project.store, packs)
        with host.open() as session:
            image = project.store.manifest(new)
            host.stage(session, image)
            host.switch(session, image)
        hosts = project.wain("status").document["hosts"]
        assert (hosts["h1"]["state"], hosts["h1"]["image"]) == ("unconfirmed", new)
        assert hosts["h1"]["previous"] == old
        assert (hosts["h2"]["state"], hosts["h2"]["image"]) == ("adopted", None)
        with host.open() as session:
            session.revert(session.facts.state.generation, "over")


def test_a_rehearsal_is_kept_with_its_plan(project: Project) -> None:
    project.write(
        3, waves=["label:canary", "100%"], health=["{release}/bin/app", "test ! -e {release}/bad"],
        after_switch=["touch {root}/../restarted"],
    )  # fmt: skip
    old = project.image("v1")
    project.image("v2")
    project.image("v3", bad=b"x")
    project.wain("rollout", "shop:v1", "--yes", "--hosts", "h1 | h2")
    restarted = project.root("h1").parent / "restarted"
    restarted.unlink()
    refused = project.wain("rollout", "shop:v2", "--yes", "--rehearsed")
    assert (refused.code, "was not rehearsed" in refused.text) == (3, True)
    ran = project.wain("rehearse", "shop:v2")
    assert (ran.code, ran.document["ok"]) == (0, True), ran.text
    # One clone for the hosts on v1, one for the host without a release.
    assert {(one["before"], one["hosts"]) for one in ran.document["clones"]} == {
        (old, 2),
        (None, 1),
    }
    assert ran.document["left_out"] == ["after-switch: touch {root}/../restarted"]
    assert not restarted.exists()
    assert project.currents() == {"h1": old, "h2": old, "h3": None}
    assert list((project.folder / ".wain").glob("rehearsal-*")) == []
    bad = project.wain("rehearse", "shop:v3")
    assert bad.code == 1
    assert "the new release" in bad.text
    assert project.wain("rollout", "shop:v3", "--yes", "--rehearsed").code == 3
    assert project.wain("rollout", "shop:v2", "--yes", "--rehearsed").code == 0
    # The hosts moved: what was rehearsed was another plan.
    assert project.wain("rollout", "shop:v1", "--yes", "--rehearsed").code == 3


def test_a_fleet_of_two_targets_gets_the_image_that_fits(project: Project) -> None:
    from dataclasses import replace

    project.write(2)
    fits = project.image("v1")
    document = project.catalog.document(fits)
    manifest = project.store.manifest(fits)
    other = type(manifest)("3.99", "cp399", manifest.platform, manifest.skeleton, manifest.entries)
    project.store.put_manifest(other.to_bytes())
    target = replace(document.target, name="next", python="3.99", abi="cp399")
    project.catalog.put_document(replace(document, id=other.image_id, target=target))
    project.catalog.tag("v1", other.image_id)
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, set(project.currents().values())) == (0, {fits})
    assert ran.document["images"] == {"default": fits, "next": other.image_id}
    # Wherever a name stands for one image, it stands for that of each target.
    assert len(project.wain("query", "--image", "shop:v1").document["hosts"]) == 2
    newer = project.image("v2")
    assert project.wain("rollout", "shop:v2", "--yes").code == 0
    back = project.wain("rollback", "--to", "shop:v1", "--yes")
    assert (back.code, set(project.currents().values())) == (0, {fits})
    put = project.wain("quarantine", "shop:v1", "--reason", "both of them")
    assert (put.code, sorted(put.document["images"])) == (0, sorted([fits, other.image_id]))
    assert project.wain("rollback", "--to", "shop:v2", "--yes").code == 0
    assert project.wain("rollback", "--to", "shop:v1", "--yes").code == 1
    assert project.wain("quarantine", "shop:v1", "--clear", "--reason", "done").code == 0
    assert set(project.currents().values()) == {newer}
    only = project.wain("rollout", other.image_id, "--yes")
    assert only.code == 4
    assert "the image is for 3.99" in only.document["hosts"]["h1"]["error"]


@pytest.mark.row("C3")
def test_a_lost_journal_is_read_anew_from_the_hosts(project: Project) -> None:
    project.write(2)
    image = project.image("v1", "1.0")
    project.wain("rollout", "shop:v1", "--yes")
    for path in (project.folder / ".wain").glob("fleet.db*"):
        path.unlink()
    status = project.wain("status")
    assert status.code == 0
    assert {host["image"] for host in status.document["hosts"].values()} == {image}
    assert len(project.wain("query", "app==1.0").document["hosts"]) == 2
    assert Journal.open(project.folder / ".wain" / "fleet.db").rollouts() == []
    (project.folder / ".wain" / "fleet.db").write_bytes(b"garbage" * 1000)
    ran = project.wain("status")
    assert (ran.code, "is no journal of wain" in ran.text, ran.text.count("\n")) == (1, True, 1)


@pytest.mark.row("G1")
def test_an_unsigned_image_is_refused_before_any_host_is_contacted(
    project: Project, tmp_path: Path
) -> None:
    from images.signature import sign_image
    from tests.support.sshd import make_key

    image = project.image("v1")
    key, stranger = tmp_path / "key", tmp_path / "stranger"
    public = make_key(key)
    make_key(stranger)
    signers = project.folder / "allowed_signers"
    signers.write_text(f"release {public}\n")
    signers.chmod(0o644)
    project.write(2)
    toml = project.folder / "fleet.toml"
    toml.write_text(toml.read_text() + '[trust]\nsigners = "allowed_signers"\nrequired = true\n')
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, "is not signed for fleet shop" in ran.text) == (1, True)
    assert not project.root("h1").exists()
    sign_image(project.store, image, "shop", "shop", str(stranger), "release", days=1)
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert ran.code == 1
    assert not project.root("h1").exists()
    sign_image(project.store, image, "shop", "shop", str(key), "release", days=1, again=True)
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
