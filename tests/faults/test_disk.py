"""A host's disk that fills, turns read-only, or will not let this user write."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fleet.pack import Packs
from fleet.session import HostError, Session
from fleet.transport import LocalTransport
from images.manifest import Manifest
from images.store import Store
from tests.support.cutting import recovers, stop_timers, whole
from tests.support.hosts import Host, until
from tests.support.mounts import Disk, ext4, tmpfs
from tests.support.small_images import small_image

Sample = Callable[[Sequence[int], int], Sequence[int]]

pytestmark = pytest.mark.root

NOBODY = 65534


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path) as path:
        yield path


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder an ordinary user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="wain-public-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    with ext4() as disk:
        yield disk


@pytest.fixture
def host_on(store: Store, packs: Packs, images: list[Manifest]) -> Iterator[Callable[[Path], Host]]:
    made: list[Host] = []

    def make(folder: Path) -> Host:
        host = Host(LocalTransport("h1"), str(folder / "app"), store, packs)
        made.append(host)
        host.deploy(images[0])
        host.deploy(images[1])
        return host

    yield make
    for host in made:
        stop_timers(host.root)


def plain(error: HostError, path: str, what: str) -> None:
    text = str(error)
    assert text.startswith("h1: "), text
    assert "\n" not in text
    assert path in text, text
    assert re.search(what, text), text


def fill(path: Path) -> None:
    """Write until nothing fits any more."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


@pytest.mark.row("D1")
def test_full_after_so_many_blocks(
    memory: Path,
    host_on: Callable[[Path], Host],
    store: Store,
    images: list[Manifest],
    sample: Sample,
) -> None:
    """Room was there when the host was asked; then somebody else filled the disk."""
    host = host_on(memory)
    filler = memory / "filler"
    big = small_image(store, "c", {f"d{n}": os.urandom(9000) for n in range(8)}, count=3)
    done = 0
    for blocks in sample(range(0, 60, 2), 4):
        with host.open() as session:
            missing = session.begin(big)
            fill(filler)
            size = filler.stat().st_size
            os.truncate(filler, max(0, size - 4096 * blocks))
            try:
                if missing:
                    session.send_pack(host.packs.get(big, missing).pieces())
                session.checkout(big.image_id)
                generation = host.switch(session, big)
                session.revert(generation, "checked")
                done += 1
            except HostError as error:
                plain(error, host.root, "No space left on device")
        assert host.current == images[1].image_id, blocks
        whole(host, images, f"{blocks} blocks left")  # with the disk still full
        filler.unlink()
        host.deploy(big)
        with host.open() as session:
            assert session.verify(big.image_id, deep=True) == []
            session.rollback(None, big.image_id)
            session.prune(0)
            # Only so does the next round begin alike: what stays here is previous.
        with host.open() as session:
            session.rollback(None, images[1].image_id)
            session.rollback(images[1].image_id, big.image_id)
        host.deploy(images[0])
        host.deploy(images[1])
        with host.open() as session:
            session.prune(0)
    assert done or blocks < 50


@pytest.mark.row("D1")
@pytest.mark.parametrize("who", ["controller", "timer"])
def test_a_disk_that_is_full_when_the_switch_has_to_go_back(
    memory: Path, host_on: Callable[[Path], Host], images: list[Manifest], who: str
) -> None:
    """The new release filled it, say: that is no reason to stay on it."""
    host = host_on(memory)
    with host.open() as session:
        host.stage(session, images[2])
        generation = host.switch(session, images[2], after=0.5 if who == "timer" else 60)
        fill(memory / "filler")
        if who == "controller":
            session.revert(generation, "unhealthy")
    until(lambda: host.current == images[1].image_id)
    whole(host, images, "full")
    until(lambda: host.state().pending is None)
    (memory / "filler").unlink()
    recovers(host, images, "room again")


@pytest.mark.row("D2")
def test_read_only_between_two_contacts(
    memory: Path, host_on: Callable[[Path], Host], images: list[Manifest]
) -> None:
    host = host_on(memory)
    with host.open() as session:
        host.stage(session, images[2])
    until(lambda: _remount(memory, "ro"))
    with host.open() as session, pytest.raises(HostError) as caught:
        host.switch(session, images[2])
    plain(caught.value, host.root, r"Read-only file system \(as uid 0\)")
    assert host.current == images[1].image_id
    whole(host, images, "read-only")
    assert _remount(memory, "rw")
    recovers(host, images, "writable again")


def _remount(path: Path, how: str) -> bool:
    command = ["mount", "-o", f"remount,{how}", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


STEPS: dict[str, Callable[[Host, Session, Manifest], object]] = {
    "begin": lambda host, session, image: session.begin(image),
    "pack": lambda host, session, image: session.send_pack(
        host.packs.get(image, session.begin(image)).pieces()
    ),
    "checkout": lambda host, session, image: session.checkout(image.image_id),
    "switch": lambda host, session, image: host.switch(session, image),
    "revert": lambda host, session, image: session.revert(
        session.facts.state.generation + 1, "asked"
    ),
}


@pytest.mark.row("D2")
def test_the_disk_turns_read_only_under_the_agent(
    disk: Disk, host_on: Callable[[Path], Host], images: list[Manifest]
) -> None:
    """As ext4 does after an error: the agent has files open, and every write fails from then."""
    host = host_on(disk.path)
    stop_timers(host.root)
    disk.keep()
    for at in range(len(STEPS)):
        stop_timers(host.root)
        disk.reset()
        names = list(STEPS)
        with host.open() as session:
            for name in names[:at]:
                if name != "begin":
                    STEPS[name](host, session, images[2])
            disk.fail()
            try:
                STEPS[names[at]](host, session, images[2])
                assert names[at] == "begin"
            except HostError as error:
                plain(error, host.root, "Read-only file system|Input/output error|not start")
        # Read-only, a new release that was never confirmed may still be the current one.
        assert host.current in {image.image_id for image in images[1:]}
        assert host.current == images[1].image_id or names[at] == "revert"
        whole(host, images, f"read-only at {names[at]}")
        stop_timers(host.root)
        disk.unmount()
        disk.mount()
        recovers(host, images, f"{names[at]}, repaired")


@pytest.mark.row("P1")
@pytest.mark.parametrize("name", ["releases", "objects", "manifests", "."])
def test_an_immutable_folder(
    disk: Disk, host_on: Callable[[Path], Host], images: list[Manifest], name: str
) -> None:
    host = host_on(disk.path)
    path = os.path.normpath(f"{host.root}/{name}")
    subprocess.run(["chattr", "-R" if name == "objects" else "-V", "+i", path], check=True,
                   capture_output=True)  # fmt: skip
    try:
        with pytest.raises(HostError) as caught:
            host.deploy(images[2])
        plain(caught.value, path, r"Operation not permitted.* \(as uid 0\)")
        assert host.current == images[1].image_id
        whole(host, images, name)
    finally:
        # It says 1 for the symlinks, which have no such flag.
        subprocess.run(["chattr", "-R", "-i", host.root], check=False, capture_output=True)
    recovers(host, images, name)


@pytest.mark.row("P1")
@pytest.mark.parametrize("name", ["releases", "objects", "state.json", "current", "."])
def test_what_belongs_to_somebody_else(
    public: Path, store: Store, packs: Packs, images: list[Manifest], name: str
) -> None:
    """The agent is an ordinary user here, and somebody made a part of its root his own."""
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    os.chown(public, NOBODY, NOBODY)
    host = Host(LocalTransport("h1"), str(public / "app"), store, packs)
    host.python = _python_for_all()
    asked = host.open
    host.open = lambda **more: asked(become=become, **more)  # type: ignore[method-assign]
    for image in images[:2]:
        host.deploy(image)
    path = os.path.normpath(f"{host.root}/{name}")
    os.chown(path, 0, 0, follow_symlinks=False)
    if name not in ("state.json", "current"):
        with pytest.raises(HostError) as caught:
            host.deploy(images[2])
        plain(
            caught.value, path, rf"Permission denied|belongs to uid 0, this session is uid {NOBODY}"
        )
        assert host.current == images[1].image_id
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    host.deploy(images[2])
    assert host.current == images[2].image_id
    stop_timers(host.root)


def _python_for_all() -> str:
    """An interpreter of this release an ordinary user may run."""
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for path in (os.path.realpath(sys.executable), f"/usr/bin/{minor}", f"/usr/local/bin/{minor}"):
        command = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", path, "-c", ""]
        try:
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return path
        except OSError:
            continue
    pytest.skip(f"no {minor} here that an ordinary user may run")
