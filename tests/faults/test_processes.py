"""What runs across a switch, and two who want the same host."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fleet.journal import Journal
from fleet.pack import Packs
from fleet.transport import LocalTransport
from images.manifest import Manifest
from images.store import Store
from tests.support.cutting import stop_timers, whole
from tests.support.fleets import ROOT, Project
from tests.support.hosts import Host
from tests.support.small_images import SITE, small_image

Sample = Callable[[Sequence[int], int], Sequence[int]]

# Imports one module at its start, and one when it is told to.
SERVICE = b"""import sys
print(sys.prefix, flush=True)
sys.stdin.readline()
import late
TEXT = late.WHO
"""


@pytest.fixture
def host(tmp_path: Path, store: Store, packs: Packs) -> Iterator[Host]:
    folder = tmp_path / "host"
    folder.mkdir(mode=0o755)
    host = Host(LocalTransport("h1"), str(folder / "app"), store, packs)
    yield host
    stop_timers(host.root)


@pytest.mark.row("A5")
@pytest.mark.row("S3")
def test_a_process_keeps_the_release_it_began_with(host: Host, store: Store) -> None:
    """Through `current/bin/…` too: what it imports after the switch is still its own release's."""
    images = [
        small_image(
            store, who, {f"{SITE}/app.py": SERVICE, f"{SITE}/late.py": f"WHO = {who!r}\n".encode()}
        )
        for who in ("old", "new", "newer")
    ]
    host.deploy(images[0])
    service = subprocess.Popen(
        [f"{host.root}/current/bin/app"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert service.stdin
        assert service.stdout
        release = f"{host.root}/releases/{images[0].image_id}"
        assert service.stdout.readline().strip() == release
        host.deploy(images[1])
        host.deploy(images[2])
        with host.open() as session:
            assert (images[0].image_id, service.pid) in session.processes()
            # Neither current nor previous, nor to be kept: yet somebody runs from it.
            assert session.prune(0)["removed"] == []
        assert host.current == images[2].image_id
        said, _ = service.communicate("go on\n", timeout=20)
        assert said == "old\n"
    finally:
        service.kill()
        service.wait()
    with host.open() as session:
        assert session.prune(0)["removed"] == [images[0].image_id]


RIVAL = """
import json, random, sys
from fleet.pack import Packs
from fleet.session import HostError, Session
from fleet.transport import LocalTransport
from images.store import Store

root, python, folder, who, count, *ids = sys.argv[1:]
store, chance = Store(folder), random.Random(who)
manifests = [store.manifest(one) for one in ids]
told = {}
with Packs(store) as packs:
    for _ in range(int(count)):
        image = chance.choice(manifests)
        try:
            with Session.open(LocalTransport("h1"), root, python, timeout=30, by={"who": who}) as s:
                state = s.facts.state
                missing = s.begin(image)
                if missing:
                    s.send_pack(packs.get(image, missing).pieces())
                s.checkout(image.image_id)
                made = s.switch(image.image_id, state.current, state.generation, 30)
            if made != state.generation:
                with Session.open(
                    LocalTransport("h1"), root, python, timeout=30, by={"who": who}
                ) as s:
                    s.confirm(made)
            told["won"] = told.get("won", 0) + (made != state.generation)
        except HostError as error:
            told[error.kind] = told.get(error.kind, 0) + 1
            told.setdefault("texts", {})[error.kind] = str(error)
print(json.dumps(told))
"""


@pytest.mark.row("K1")
def test_two_controllers_again_and_again(
    host: Host, store: Store, images: list[Manifest], sample: Sample
) -> None:
    host.deploy(images[0])
    before = host.state().generation
    rounds = str(len(sample(range(500), 8)))
    ids = [image.image_id for image in images]
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, host.root, host.python, store.root, who, rounds, *ids],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for who in ("anna", "berta")
    ]  # fmt: skip
    results = []
    for rival in rivals:
        out, errors = rival.communicate(timeout=600)
        assert rival.returncode == 0, errors
        results.append(json.loads(out))
    for mine, other in zip(results, ("berta", "anna"), strict=True):
        texts = mine.pop("texts", {})
        assert set(mine) <= {"won", "locked", "pending", "moved"}, texts
        for kind in ("locked", "pending"):
            if kind in texts:
                assert other in texts[kind], texts
    with host.open() as session:
        state = session.facts.state
        assert state.pending is None
        # Every switch that was confirmed counts once, and nothing else does.
        assert state.generation == before + sum(result.get("won", 0) for result in results)
    whole(host, images, "after all rounds")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "shop"
    folder.mkdir()
    (tmp_path / "hosts").mkdir()
    project = Project(folder, Store(os.environ["WAIN_STORE"]))
    project.write(2, waves=["label:canary", "100%"], confirm_timeout="2s", health=["true"])
    return project


@pytest.mark.row("C1")
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_the_controller_is_killed_at_every_write_of_its_journal(
    project: Project, sample: Sample, tmp_path: Path
) -> None:
    images = [project.image("v0"), project.image("v1")]
    assert project.wain("rollout", "shop:v0", "--yes").code == 0
    log = tmp_path / "trace"
    calls = "pwrite64,fdatasync,fsync,unlink"

    def start(at: int, *options: str) -> subprocess.CompletedProcess[str]:
        # Only its first thread, the one that writes the journal; not what it starts.
        return subprocess.run(
            ["strace", "-qq", "-o", str(log), *options, sys.executable, "-m", "wain", "-C",
             str(project.folder), "fleet", "rollout", f"shop:v{at}", "--yes"],
            cwd=ROOT, env={**os.environ, "WAIN_STORE": project.store.root},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    assert start(1, "-e", f"trace={calls}").returncode == 0
    counts: dict[str, int] = {}
    points = []
    for line in log.read_text().splitlines():
        found = re.match(r"(\w+)\(", line)
        if found:
            counts[found[1]] = counts.get(found[1], 0) + 1
            points.append((found[1], counts[found[1]]))
    assert len(points) > 10
    wanted = itertools.cycle((0, 1))
    for point in sample(range(len(points)), 3):
        call, count = points[point]
        at = next(wanted)
        start(at, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={count}")
        where = f"{call} {count}"
        for name in project.hosts:
            assert project.current(name) in images, where
            assert project.says(name) in ("v0", "v1"), where
        with Journal.open(project.folder / ".wain" / "fleet.db") as journal:
            assert journal.rows("PRAGMA integrity_check") == [("ok",)], where
        finish(project, at, images[at], where)


def finish(project: Project, at: int, image: str, where: str) -> None:
    """`resume`, when there is something to go on with, else the command again."""
    status = project.wain("status").document
    if status["rollout"]:
        assert status["rollout"]["state"] == "interrupted", where
        ran = project.wain("resume", "--yes")
        assert ran.document["rollout"] == status["rollout"]["rollout"], where
    else:
        ran = project.wain("rollout", f"shop:v{at}", "--yes")
    assert (ran.code, ran.document["result"]) in ((0, "succeeded"), (0, "unchanged")), ran.text
    assert set(project.currents().values()) == {image}, where
    assert [project.says(name) for name in project.hosts] == [f"v{at}"] * 2, where
    # What the journal says is what the hosts say.
    known = project.wain("status", "--offline").document["hosts"]
    asked = project.wain("status").document["hosts"]
    for name in project.hosts:
        for key in ("image", "previous", "generation"):
            assert known[name][key] == asked[name][key], (where, name, key)


# Kills its process before or after the given word to a host; else counts them.
KILLED = """
import os, sys
from fleet import transport
from wain.cli import main

at, when, count = int(sys.argv[1]), sys.argv[2], 0
write = transport._ChildChannel.write

def counted(self, data, deadline):
    global count
    count += 1
    mine = count == at
    if mine and when == "before":
        os.kill(os.getpid(), 9)
    write(self, data, deadline)
    if mine:
        os.kill(os.getpid(), 9)

transport._ChildChannel.write = counted
code = main(sys.argv[3:])
print(count)
sys.exit(code)
"""


@pytest.mark.row("C1")
def test_the_controller_is_killed_at_every_word_to_a_host(project: Project, sample: Sample) -> None:
    """Each transition: begin, its bytes, checkout, switch, hook, check, confirm, prune."""
    images = [project.image("v0"), project.image("v1", more=b"x" * 3000)]
    project.write(
        2, waves=["label:canary", "100%"], confirm_timeout="2s", health=["true"],
        after_switch=["true"], keep=1,
    )  # fmt: skip
    assert project.wain("rollout", "shop:v0", "--yes").code == 0

    def start(version: int, at: int, when: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", KILLED, str(at), when, "-C", str(project.folder), "fleet",
             "rollout", f"shop:v{version}", "--yes"],
            cwd=ROOT, env={**os.environ, "WAIN_STORE": project.store.root},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    counted = start(1, 0, "")
    assert counted.returncode == 0, counted.stderr
    words = int(counted.stdout.splitlines()[-1])
    assert words > 20
    # Later ways find both releases there: fewer words, and the last points kill nothing.
    version = 1
    for word in sample(range(1, 2 * (words - 2)), 3):
        version = 1 - version
        at, when = word // 2 + 1, ("before", "after")[word % 2]
        ran = start(version, at, when)
        assert ran.returncode in (-9, 0), ran.stderr
        for name in project.hosts:
            assert project.current(name) in images, word
            assert project.says(name) in ("v0", "v1"), word
        finish(project, version, images[version], f"{when} word {at}")
