"""A first roll-out stopped at every step: its tree is made while the disk takes its objects."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fleet.pack import Packs
from fleet.session import HostError, Session
from fleet.transport import LocalTransport
from images.manifest import Manifest
from images.store import Store
from tests.support.cutting import attempt, calls_in, stop_timers
from tests.support.hosts import Host, needs_cores
from tests.support.mounts import ext4
from tests.support.small_images import small_image

Point = tuple[str, int]
Sample = Callable[[Sequence[Point], int], Sequence[Point]]

Cuttable = tuple[Host, Callable[[], None], Callable[[], None]]

traced = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")

CALLS = (
    "fsync,syncfs,rename,linkat,link,symlink,unlink,unlinkat,mkdir,rmdir,clone,clone3,fork,vfork"
)
FAILING = {
    "EIO": "fsync,syncfs,rename,linkat,symlink,rmdir",
    "ENOSPC": "link,linkat,mkdir",
    "EAGAIN": "clone,clone3,fork,vfork",
}


@pytest.fixture
def image(store: Store) -> Manifest:
    """So much that several processes take it, and of many files."""
    data = {f"d{at}": os.urandom(900_000) for at in range(6)}
    return small_image(store, "a", data, count=5)


def first(host: Host, image: Manifest) -> Callable[[Session], None]:
    def action(session: Session) -> None:
        host.stage(session, image)
        host.switch(session, image)

    return action


def early(host: Host) -> list[str]:
    return [name for name in os.listdir(f"{host.root}/releases") if name.startswith(".")]


def fresh(host: Host) -> None:
    stop_timers(host.root)
    shutil.rmtree(host.root, ignore_errors=True)


def finishes(host: Host, image: Manifest, where: str) -> None:
    """What is there is whole, and the same steps again finish; nothing is left over."""
    assert host.current in (None, image.image_id), where
    with host.open() as session:
        state = session.facts.state
        for release in state.releases:
            assert session.verify(release, deep=True) == [], where
        if state.pending:
            session.revert(state.pending.generation, "checked")
    assert Store(host.root).verify() == [], where
    host.deploy(image)
    with host.open() as session:
        assert session.verify(image.image_id, deep=True) == [], where
    assert host.current == image.image_id, where
    assert early(host) == [], where
    with Store(host.root).batch():
        pass  # who stages next removes what a dead one has left
    assert os.listdir(f"{host.root}/tmp") == [], where


@needs_cores
def test_the_tree_of_a_first_release_is_made_early(host: Host, image: Manifest) -> None:
    with host.open() as session:
        missing = session.begin(image)
        session.send_pack(host.packs.get(image, missing).pieces())
        [new] = early(host)
        assert not os.path.exists(f"{host.root}/manifests/{image.image_id}")
        sites = {path.name: path.stat() for path in Path(host.root, "releases", new).rglob("*.py")}
        answer = session.checkout(image.image_id)
        assert answer["made"]
        assert early(host) == []
        release = Path(host.root, "releases", image.image_id)
        # The very tree, of the very objects.
        for name, status in sites.items():
            [path] = release.rglob(name)
            assert path.stat().st_ino == status.st_ino
        assert session.verify(image.image_id, deep=True) == []
        with pytest.raises(HostError, match="moved"):
            session.switch(image.image_id, image.image_id, 0, 60)
    finishes(host, image, "after a session that did not switch")


@needs_cores
def test_a_session_that_ends_before_the_check_out_leaves_nothing_that_counts(
    host: Host, image: Manifest
) -> None:
    with host.open() as session:
        missing = session.begin(image)
        session.send_pack(host.packs.get(image, missing).pieces())
    assert early(host)
    with host.open() as session:
        assert not session.facts.state.releases
        assert session.begin(image) == []
        assert session.checkout(image.image_id)["made"]
    finishes(host, image, "the session after")


@traced
@pytest.mark.row("A1", "T7", "S4")
def test_killed_at_a_system_call(host: Host, image: Manifest, sample: Sample) -> None:
    log = f"{host.root}.trace"
    assert attempt(host, first(host, image), log, "-e", f"trace={CALLS}") is None
    for call, count in sample(calls_in(log), 8):
        rule = f"{call}:signal=KILL:when={count}"
        fresh(host)
        attempt(host, first(host, image), log, "-e", f"trace={call}", "-e", f"inject={rule}")
        finishes(host, image, rule)


@traced
@pytest.mark.row("A3", "D1")
def test_a_system_call_fails(host: Host, image: Manifest, sample: Sample) -> None:
    log = f"{host.root}.trace"
    assert attempt(host, first(host, image), log, "-e", f"trace={CALLS}") is None
    points = [
        (f"{call}:error={error}", count)
        for error, failing in FAILING.items()
        for call, count in calls_in(log)
        if call in failing.split(",")
    ]
    for what, count in sample(points, 10):
        rule = f"{what}:when={count}"
        call = what.partition(":")[0]
        fresh(host)
        seen = attempt(host, first(host, image), log, "-e", f"trace={call}", "-e", f"inject={rule}")
        if seen:
            assert str(seen).startswith("h1: "), rule
            assert str(seen).isprintable(), rule
            assert "Traceback" not in str(seen), rule
        finishes(host, image, f"{rule}: {seen}")


@needs_cores
@traced
@pytest.mark.row("D1")
def test_what_could_not_be_made_to_last_is_not_used(host: Host, image: Manifest) -> None:
    def action(session: Session) -> None:
        missing = session.begin(image)
        with pytest.raises(HostError, match="Input/output error"):
            session.send_pack(host.packs.get(image, missing).pieces())
        assert early(host) == []
        with pytest.raises(HostError):
            session.checkout(image.image_id)

    rule = "syncfs:error=EIO:when=1"
    assert attempt(host, action, f"{host.root}.trace", "-e", f"inject={rule}") is None
    assert os.listdir(f"{host.root}/releases") == []
    finishes(host, image, rule)


@pytest.fixture
def disk_host(tmp_path: Path, store: Store, packs: Packs) -> Iterator[Cuttable]:
    with ext4() as disk:
        host = Host(LocalTransport("h1"), str(disk.path / "app"), store, packs)
        disk.keep()

        def reset() -> None:
            stop_timers(host.root)
            disk.reset()

        def cut() -> None:
            stop_timers(host.root)
            disk.cut()

        reset()
        try:
            yield host, reset, cut
        finally:
            stop_timers(host.root)


@traced
@pytest.mark.root
@pytest.mark.row("A2", "S4")
def test_the_power_goes_before_a_system_call(
    disk_host: Cuttable,
    image: Manifest,
    sample: Sample,
    tmp_path: Path,
) -> None:
    host, reset, cut = disk_host
    log = str(tmp_path / "trace")
    assert attempt(host, first(host, image), log, "-e", f"trace={CALLS}") is None
    for call, count in sample(calls_in(log), 4):
        rule = f"{call}:signal=KILL:when={count}"
        reset()
        attempt(host, first(host, image), log, "-e", f"trace={call}", "-e", f"inject={rule}")
        cut()
        finishes(host, image, rule)


@needs_cores
@pytest.mark.root
@pytest.mark.row("A2")
def test_what_was_answered_outlives_the_power(disk_host: Cuttable, image: Manifest) -> None:
    host, reset, cut = disk_host
    with host.open() as session:
        missing = session.begin(image)
        session.send_pack(host.packs.get(image, missing).pieces())
        assert early(host)
        cut()
    with host.open() as session:
        # Nothing of what had been taken is sent again.
        assert session.begin(image) == []
    finishes(host, image, "after the pack")
    reset()
    with host.open() as session:
        host.stage(session, image)
        cut()
    with host.open() as session:
        assert list(session.facts.state.releases) == [image.image_id]
        assert session.verify(image.image_id, deep=True) == []
    finishes(host, image, "after the check-out")
