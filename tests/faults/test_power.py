"""The power goes at every step: ext4 shut down under the host's root, without its log.

What had not been made to last is gone then. Afterwards one whole release runs, old or new; what
had been answered is still so; the same steps again finish.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fleet.pack import Packs
from fleet.session import Session
from fleet.transport import LocalTransport
from images.manifest import Manifest
from images.store import Store
from tests.support.cutting import attempt, calls_in, recovers, stop_timers, whole
from tests.support.hosts import Host
from tests.support.mounts import Disk, ext4

Point = tuple[str, int]
Sample = Callable[[Sequence[Point], int], Sequence[Point]]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here"),
]

# What changes the disk; a cut comes just before the call.
CALLS = (
    "write,pwrite64,fsync,syncfs,rename,link,linkat,symlink,unlink,unlinkat,mkdir,rmdir,"
    "fchmod,utimensat,ftruncate"
)


class Rig:
    """A host on a disk of its own: image a before, b current, c new."""

    def __init__(self, disk: Disk, host: Host, images: list[Manifest], log: str) -> None:
        self.disk, self.host, self.images, self.log = disk, host, images, log
        host.deploy(images[0])
        host.deploy(images[1])
        stop_timers(host.root)
        disk.keep()

    def reset(self, name: str) -> None:
        stop_timers(self.host.root)
        self.disk.reset()
        if name == "prune":
            with self.host.open() as session:
                stage(self, session)
                session.rollback(None, self.images[1].image_id)
        if name in ("confirm", "settle"):
            with self.host.open() as session:
                switch(self, session)
            if name == "settle":
                stop_timers(self.host.root)

    def cut(self) -> None:
        stop_timers(self.host.root)
        self.disk.cut()


@pytest.fixture
def rig(tmp_path: Path, store: Store, packs: Packs, images: list[Manifest]) -> Iterator[Rig]:
    with ext4() as disk:
        host = Host(LocalTransport("h1"), str(disk.path / "app"), store, packs)
        try:
            yield Rig(disk, host, images, str(tmp_path / "trace"))
        finally:
            stop_timers(host.root)


def stage(rig: Rig, session: Session) -> None:
    rig.host.stage(session, rig.images[2])


def switch(rig: Rig, session: Session) -> None:
    stage(rig, session)
    rig.host.switch(session, rig.images[2])


def confirm(rig: Rig, session: Session) -> None:
    assert session.facts.state.pending
    session.confirm(session.facts.state.pending.generation)


def revert(rig: Rig, session: Session) -> None:
    generation = rig.host.switch(session, rig.images[0], hooks=["true"])
    session.revert(generation, "unhealthy")


def settle(rig: Rig, session: Session) -> None:
    assert session.facts.settled


def rollback(rig: Rig, session: Session) -> None:
    session.rollback(None, rig.images[1].image_id)


def prune(rig: Rig, session: Session) -> None:
    assert session.prune(0)["removed"] == [rig.images[2].image_id]


ACTIONS = {
    action.__name__: action for action in (stage, switch, confirm, revert, settle, rollback, prune)
}


def run(rig: Rig, name: str, *options: str) -> object:
    rig.reset(name)
    return attempt(rig.host, lambda session: ACTIONS[name](rig, session), rig.log, *options)


@pytest.mark.row("A2")
@pytest.mark.row("S4")
@pytest.mark.parametrize("name", ACTIONS)
def test_the_power_goes_before_a_system_call(rig: Rig, sample: Sample, name: str) -> None:
    assert run(rig, name, "-e", f"trace={CALLS}") is None
    for call, count in sample(calls_in(rig.log), 3):
        rule = f"{call}:signal=KILL:when={count}"
        run(rig, name, "-e", f"trace={call}", "-e", f"inject={rule}")
        rig.cut()
        recovers(rig.host, rig.images, f"{name} {rule}")


@pytest.mark.row("A2")
def test_what_was_answered_outlives_the_power(rig: Rig) -> None:
    host, (first, second, third) = rig.host, rig.images
    expected = {
        "stage": (second, None), "switch": (second, "reverted"), "confirm": (third, "confirmed"),
        "revert": (second, "reverted"), "settle": (second, "reverted"),
        "rollback": (first, "rolled back"), "prune": (first, "rolled back"),
    }  # fmt: skip
    for name, (image, last) in expected.items():
        rig.reset(name)
        with host.open() as session:
            ACTIONS[name](rig, session)
            rig.cut()
        whole(host, rig.images, name)
        with host.open() as session:
            state = session.facts.state
            assert state.current == image.image_id, name
            assert last is None or state.last["what"] == last, name
            if name in ("stage", "switch"):
                # Nothing of what had been taken is sent again.
                assert session.begin(third) == []
                assert third.image_id in state.releases
