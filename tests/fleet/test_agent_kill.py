"""An agent that dies, or whose disk fails, at every system call of what it does.

strace ends the agent at the entry of one call (which then is not executed), or makes one call
fail. Afterwards the host must run one whole release, old or new, and the same steps again must
finish. `make faults` tries every call, `make test` a sample.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fleet.session import HostError, Session
from images.store import Store
from tests.support.hosts import Host
from tests.support.small_images import small_image

Sample = Callable[[Sequence[tuple[str, int]], int], Sequence[tuple[str, int]]]

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")

# Whatever can change the disk, another process, or how far a stream has been read.
CALLS = (
    "openat,write,pwrite64,fsync,syncfs,rename,linkat,link,symlink,unlink,unlinkat,mkdir,rmdir,"
    "fchmod,chmod,utimensat,flock,ftruncate,clone,clone3,fork,vfork,read,close"
)
FAILING = {"EIO": "openat,write,fsync,syncfs,rename,link,linkat,symlink,unlink,mkdir,ftruncate"}
FAILING["ENOSPC"] = "openat,write,pwrite64,mkdir,link,linkat,symlink,rename"
FAILING["EROFS"] = "openat,rename,mkdir,unlink,symlink,link,linkat"
FAILING["EMFILE"] = "openat"


class Bench:
    """A host prepared once and put back before every point; three releases: a, b there; c new."""

    def __init__(self, host: Host, store: Store) -> None:
        self.host = host
        self.images = [small_image(store, text, count=3) for text in ("a", "b", "c")]
        self.kept = Path(host.root).with_name("kept")
        host.deploy(self.images[0])
        host.deploy(self.images[1])
        subprocess.run(["cp", "-a", host.root, self.kept], check=True)

    def reset(self) -> None:
        stop_timers(self.host)
        shutil.rmtree(self.host.root)
        subprocess.run(["cp", "-a", self.kept, self.host.root], check=True)

    def pending(self) -> None:
        """As after a switch whose controller and timer are gone."""
        with self.host.open() as session:
            self.host.stage(session, self.images[2])
            self.host.switch(session, self.images[2], hooks=["true"])
        stop_timers(self.host)


def stop_timers(host: Host) -> None:
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if host.root.encode() in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                os.kill(int(name), signal.SIGKILL)
        except OSError:
            continue


def stage(bench: Bench, session: Session) -> None:
    bench.host.stage(session, bench.images[2])


def switch(bench: Bench, session: Session) -> None:
    bench.host.stage(session, bench.images[2])
    bench.host.switch(session, bench.images[2], hooks=["true"])


def confirm(bench: Bench, session: Session) -> None:
    assert session.facts.state.pending
    session.confirm(session.facts.state.pending.generation)


def revert(bench: Bench, session: Session) -> None:
    bench.host.switch(session, bench.images[0], hooks=["true"])
    session.revert(session.facts.state.generation + 1, "unhealthy")


def settle(bench: Bench, session: Session) -> None:
    assert session.facts.settled


def rollback(bench: Bench, session: Session) -> None:
    session.rollback(None, bench.images[1].image_id)


def prune(bench: Bench, session: Session) -> None:
    session.rollback(None, bench.images[1].image_id)
    session.prune(1)
    session.prune(0)


ACTIONS: dict[str, Callable[[Bench, Session], None]] = {
    action.__name__: action for action in (stage, switch, revert, settle, rollback, prune)
}


@pytest.fixture
def bench(host: Host, store: Store) -> Bench:
    return Bench(host, store)


def attempt(bench: Bench, name: str, *options: str) -> HostError | None:
    """The action under strace; the error the controller saw, if any."""
    bench.reset()
    if name == "settle":
        bench.pending()
    out = str(bench.kept.with_name("trace"))
    try:
        with bench.host.open(become=["strace", "-qq", "-o", out, *options], timeout=20) as session:
            ACTIONS[name](bench, session)
    except HostError as error:
        return error
    return None


def points_of(bench: Bench, name: str, calls: str) -> list[tuple[str, int]]:
    """Every call the action makes, as name and how many of that name came before it."""
    assert attempt(bench, name, "-e", f"trace={calls}") is None
    counts: dict[str, int] = {}
    points = []
    for line in bench.kept.with_name("trace").read_text().splitlines():
        found = re.match(r"(\w+)\(", line)
        if found:
            counts[found[1]] = counts.get(found[1], 0) + 1
            points.append((found[1], counts[found[1]]))
    return points


def check(bench: Bench, where: str) -> None:
    """One whole release runs; whatever is unconfirmed can go back; everything can be done again."""
    host = bench.host
    whole = {image.image_id: text for image, text in zip(bench.images, "abc", strict=True)}
    assert host.current in whole, where
    release = f"{host.root}/releases/{host.current}"
    shown = subprocess.run([f"{release}/bin/app"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"{whole[host.current]}\n", where
    with host.open() as session:
        state = session.facts.state
        assert state.foreign == "", where
        assert session.verify(str(state.current), deep=True) == [], where
        if state.pending:
            assert state.pending.armed, where
            session.revert(state.pending.generation, "checked")
    assert host.current in (bench.images[0].image_id, bench.images[1].image_id), where
    host.deploy(bench.images[2])
    assert host.current == bench.images[2].image_id, where
    with host.open() as session:
        session.prune(1)
        back = session.rollback(None, bench.images[2].image_id)[0]
        assert session.verify(back, deep=True) == [], where
    assert Store(host.root).verify() == [], where
    releases = Path(host.root, "releases")
    assert all(not name.startswith(".") for name in os.listdir(releases)), where


@pytest.mark.row("A1")
@pytest.mark.row("T7")
@pytest.mark.row("S4")
@pytest.mark.parametrize("name", ACTIONS)
def test_killed_at_a_system_call(bench: Bench, sample: Sample, name: str) -> None:
    for call, count in sample(points_of(bench, name, CALLS), 6):
        rule = f"{call}:signal=KILL:when={count}"
        attempt(bench, name, "-e", f"trace={call}", "-e", f"inject={rule}")
        check(bench, f"{name} {rule}")


@pytest.mark.row("A3")
@pytest.mark.row("D1")
@pytest.mark.parametrize("error", FAILING)
@pytest.mark.parametrize("name", ["switch", "rollback", "prune", "settle"])
def test_a_system_call_fails(bench: Bench, sample: Sample, name: str, error: str) -> None:
    for call, count in sample(points_of(bench, name, FAILING[error]), 2):
        rule = f"{call}:error={error}:when={count}"
        seen = attempt(bench, name, "-e", f"trace={call}", "-e", f"inject={rule}")
        assert seen is None or "\n" not in str(seen), rule
        check(bench, f"{name} {rule}: {seen}")
