"""Packs kept beside the store: made once, never believed, bounded, gone with their images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from fleet import kept
from fleet import pack as pack_module
from fleet.pack import Packs
from images.manifest import Manifest
from images.store import Store
from tests.support.fleets import ROOT, Project
from tests.support.hosts import Host, until
from tests.support.small_images import small_image

Key = tuple[str, bool]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "shop"
    folder.mkdir()
    return Project(folder, Store(os.environ["WAIN_STORE"]))


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every image were large."""
    monkeypatch.setattr(pack_module, "SOON", 0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[set[Key]]:
    """What is in the packs that are made in this process, not in those read again."""
    found = []
    real = pack_module.packed

    def packed(store: Store, sizes: Iterable[tuple[Key, int]], *more: Any, **options: Any) -> Any:
        sizes = list(sizes)
        found.append({key for key, _ in sizes})
        return real(store, sizes, *more, **options)

    monkeypatch.setattr(pack_module, "packed", packed)
    monkeypatch.setattr(pack_module, "can_fork", lambda: False)
    return found


def names(store: Store) -> list[str]:
    return sorted(path.name for path in Path(store.root, "packs").glob("*"))


def whole(packs: Packs, image: Manifest, zstd: bool = False) -> bytes:
    return b"".join(packs.get(image, image.objects(), zstd).pieces())


@pytest.mark.parametrize("once", [True, False])
def test_what_was_spooled_is_read_again(store: Store, old: Manifest, once: bool) -> None:
    with Packs(store) as packs:
        first = whole(packs, old, zstd=True)
    # Nothing of it could be made again.
    shutil.rmtree(store.objects)
    with Packs(store, once=once) as packs:
        assert packs.get(old, old.objects(), zstd=True).size == len(first)
        assert whole(packs, old, zstd=True) == whole(packs, old, zstd=True) == first
    with Packs(store, once=once) as packs:
        packs.foresee(old.image_id)
        assert whole(packs, old, zstd=True) == first
        packs.settle()
        assert whole(packs, old, zstd=True) == first
    assert os.listdir(store.tmp) == []


def test_each_missing_set_and_method_has_its_own(store: Store, old: Manifest) -> None:
    some = list(old.objects())[:3]
    with Packs(store) as packs:
        made = {
            packs.get(old, keys, zstd).path for keys in (some, old.objects()) for zstd in (0, 1)
        }
        assert len(made) == 4
        assert all(b"".join(packs.get(old, some, zstd).pieces()) for zstd in (True, False))
        whole(packs, old)
        whole(packs, old, zstd=True)
    found = names(store)
    assert len(found) == 4
    assert all(name.startswith(f"{old.image_id}.") for name in found)
    assert {name.split(".")[1].split("-")[0] for name in found} == {"zstd", "deflate"}


def test_what_is_small_handed_on_or_ended_is_not_kept(
    store: Store, old: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Packs(store, once=True) as packs:
        whole(packs, old)
    big = small_image(store, "big", {str(n): os.urandom(1 << 20) for n in range(20)})
    with Packs(store) as packs:
        packs.foresee(big.image_id)
        packs.settle()
    monkeypatch.setattr(pack_module, "SOON", 4 << 20)
    with Packs(store) as packs:
        whole(packs, old)
    assert names(store) == []


def test_the_one_used_longest_ago_goes(
    store: Store, old: Manifest, new: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST", 2)
    for image in (old, new):
        with Packs(store) as packs:
            whole(packs, image)
    for at, name in enumerate(sorted(names(store), key=lambda name: name.startswith(old.image_id))):
        os.utime(Path(store.root, "packs", name), (at + 1, at + 1))
    with Packs(store) as packs:
        whole(packs, new)  # it was the elder
        whole(packs, old, zstd=True)
    assert names(store) == sorted([f"{new.image_id}.deflate", f"{old.image_id}.zstd"])


def test_who_reads_one_does_not_lose_it(store: Store, old: Manifest) -> None:
    with Packs(store) as packs:
        first = whole(packs, old)
    with Packs(store) as packs:
        pack = packs.get(old, old.objects())
        shutil.rmtree(Path(store.root, "packs"))
        assert b"".join(pack.pieces()) == first


DAMAGES = {
    "a flipped bit": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1])
    + data[len(data) // 2 + 1 :],
    "its beginning": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "more behind it": lambda data: data + b"more",
    "another image's": None,
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("hosts", [1, 3])
def test_a_damaged_one_is_made_anew(
    project: Project, made: list[set[Key]], damage: str, hosts: int
) -> None:
    """As a power cut or a bad disk leaves it: the hosts refuse it, and get another."""
    project.write(hosts)
    image, other = project.image("v1", data=os.urandom(300_000)), project.image("v2")
    for tag in ("v1", "v2"):
        assert project.wain("plan", f"shop:{tag}").code == 0
    assert made == [set(project.store.manifest(one).objects()) for one in (image, other)]
    paths = {name.partition(".")[0]: name for name in names(project.store)}
    path = Path(project.store.root, "packs", paths[image])
    data = path.read_bytes()
    change = DAMAGES[damage]
    path.write_bytes(change(data) if change else path.with_name(paths[other]).read_bytes())
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, set(ran.states().values())) == (0, {"succeeded"})
    assert {project.says(host) for host in project.hosts} == {"v1"}
    assert project.wain("verify", "--deep").code == 0
    # Made again, but for one of which every object had come.
    assert made[2:] or damage == "more behind it"
    assert not path.exists() or path.read_bytes() == data


def test_a_plan_makes_the_pack_of_the_roll_out(project: Project, made: list[set[Key]]) -> None:
    project.write(1)
    image = project.image("v1", data=os.urandom(300_000))
    plan = project.wain("plan", "shop:v1").document
    ran = project.wain("rollout", "shop:v1", "--yes", "--plan", plan["plan"])
    assert ran.code == 0
    assert made == [set(project.store.manifest(image).objects())]
    # What was said to be sent is what was sent, also by one who does not wait for a size.
    assert ran.document["hosts"]["h1"]["bytes_sent"] == plan["hosts"]["h1"]["bytes_to_send"]


def test_repair_drops_a_damaged_one(project: Project, made: list[set[Key]]) -> None:
    project.write(1)
    project.image("v1", data=os.urandom(300_000))
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    release = project.root("h1") / "current" / "data"
    place = next((project.root("h1") / "objects").rglob("*"))

    def break_it() -> None:
        for path in (release.resolve(), *(project.root("h1") / "objects").rglob("*")):
            if path.is_file() and path.stat().st_size == 300_000:
                path.chmod(0o644)
                path.write_bytes(bytes(300_000))

    assert place.exists()
    break_it()
    assert project.wain("verify", "--repair", "--deep").code == 0
    (name,) = [name for name in names(project.store) if "-" in name]
    path = Path(project.store.root, "packs", name)
    path.write_bytes(path.read_bytes()[:-9])
    break_it()
    assert project.wain("verify", "--repair", "--deep").code != 0
    assert not path.exists()
    assert project.wain("verify", "--repair", "--deep").code == 0


def test_a_collection_takes_those_of_images_that_are_gone(project: Project) -> None:
    project.write(1)
    one, two = project.image("v1"), project.image("v2")
    for tag in ("v1", "v2"):
        assert project.wain("plan", f"shop:{tag}").code == 0
    assert [name[:64] for name in names(project.store)] == sorted([one, two])
    project.catalog.untag("v1")
    project.catalog.collect(dry_run=True)
    assert len(names(project.store)) == 2
    project.catalog.collect()
    assert [name[:64] for name in names(project.store)] == [two]


PROGRAM = """
import sys
from fleet import pack
from images.store import Store
pack.SOON = 0
store = Store(sys.argv[1])
image = store.manifest(sys.argv[2])
with pack.Packs(store) as packs:
    one = packs.get(image, image.objects())
    real = one._append
    def slowly(spool, data):
        import time
        real(spool, data)
        time.sleep(60)
    one._append = slowly
    one.size
"""


@pytest.mark.row("C1")
def test_a_killed_controller_keeps_nothing_half_made(host: Host, store: Store) -> None:
    image = small_image(store, "big", {str(n): os.urandom(1 << 20) for n in range(6)})
    argv = [sys.executable, "-c", PROGRAM, store.root, image.image_id]
    process = subprocess.Popen(argv, cwd=ROOT)
    until(lambda: [path for path in Path(store.tmp).rglob("*") if path.is_file()])
    process.kill()
    process.wait(10)
    (left,) = {path.parent for path in Path(store.tmp).rglob("*") if path.is_file()}
    with Packs(store) as packs:
        assert not left.exists()
        assert names(store) == []
        host.packs = packs
        host.deploy(image)
    assert len(names(store)) == 1


def test_a_store_without_room_for_more_names(
    store: Store, old: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be kept is read from the spool, by all the same."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", refused)
    with Packs(store) as packs:
        assert whole(packs, old) == whole(packs, old)
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    assert names(store) == []
