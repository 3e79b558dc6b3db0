"""Packs kept beside the store: made once, never believed, bounded, gone with their images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet import kept, wanted
from fleet import pack as pack_module
from fleet.pack import Pack, Packs, SpoiledError
from fleet.packing import Key
from images.manifest import Manifest
from images.store import Store, StoreError
from tests.support.fleets import ROOT, Project
from tests.support.hosts import Host, children, until
from tests.support.small_images import small_image


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every image were large, and every disk."""
    monkeypatch.setattr(pack_module, "SOON", 0)
    monkeypatch.setattr(kept, "WORTH", 0)


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
    monkeypatch.setattr(kept, "WORTH", 1 << 20)
    with Packs(store) as packs:
        whole(packs, old)
    assert names(store) == []
    monkeypatch.setattr(kept, "WORTH", 0)
    monkeypatch.setattr(kept, "ROOM", 1 << 40)  # times its size is free nowhere
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


@pytest.mark.row("T5")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("hosts", "size"), [(1, 5_000_000), (3, 300_000)])
def test_a_damaged_one_is_made_anew(
    project: Project, made: list[set[Key]], damage: str, hosts: int, size: int
) -> None:
    """As a power cut or a bad disk leaves it: the hosts refuse it, and get another.

    More than 4 MB are taken by several processes of a host.
    """
    project.write(hosts)
    image, other = project.image("v1", data=os.urandom(size)), project.image("v2")
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


def test_repair_does_without_a_damaged_one(project: Project, made: list[set[Key]]) -> None:
    project.write(1)
    project.image("v1", data=os.urandom(300_000))
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    release = project.root("h1") / "current" / "data"

    def break_it() -> None:
        for path in (release.resolve(), *(project.root("h1") / "objects").rglob("*")):
            if path.is_file() and path.stat().st_size == 300_000:
                path.chmod(0o644)
                path.write_bytes(bytes(300_000))

    break_it()
    assert project.wain("verify", "--repair", "--deep").code == 0
    (name,) = [name for name in names(project.store) if "-" in name]
    path = Path(project.store.root, "packs", name)
    good = path.read_bytes()
    path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    break_it()
    repaired = project.wain("verify", "--repair", "--deep")
    assert repaired.code == 0
    assert path.read_bytes() == good


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


def fifo(path: Path) -> None:
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def to_folder(path: Path) -> None:
    path.symlink_to(path.parent)


def huge(path: Path) -> None:
    path.write_bytes(b"wain-pack 1\n")
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("thing", [fifo, dangling, to_folder, huge, Path.mkdir])
def test_what_is_no_pack_is_not_taken_for_one(
    project: Project, made: list[set[Key]], thing: Callable[[Path], None]
) -> None:
    project.write(2)
    image = project.image("v1", data=os.urandom(300_000))
    folder = Path(project.store.root, "packs")
    folder.mkdir()
    for method in ("zstd", "deflate"):
        thing(folder / f"{image}.{method}")
    plan = project.wain("plan", "shop:v1")
    assert plan.code == 0
    assert 300_000 < plan.document["hosts"]["h1"]["bytes_to_send"] < 320_000
    for path in folder.iterdir():
        if not path.is_dir() or path.is_symlink():
            path.unlink()
            thing(path)
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, set(ran.states().values())) == (0, {"succeeded"})
    assert {project.says(host) for host in project.hosts} == {"v1"}


def test_one_that_cannot_be_dropped_is_sent_once(
    project: Project, made: list[set[Key]], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(1)
    image = project.image("v1", data=os.urandom(300_000))
    assert project.wain("plan", "shop:v1").code == 0
    (name,) = names(project.store)
    path = Path(project.store.root, "packs", name)
    path.write_bytes(path.read_bytes().replace(b"wain-pack 1\n", b"wain-pack 1\n\xff", 1))
    monkeypatch.setattr(kept, "drop", lambda store, name: None)
    assert project.wain("rollout", "shop:v1", "--yes").states() == {"h1": "succeeded"}
    assert project.current("h1") == image
    assert len(made) == 2


def test_one_that_ends_before_its_end(store: Store, old: Manifest) -> None:
    with Packs(store) as packs:
        whole(packs, old)
    with Packs(store) as packs:
        pack = packs.get(old, old.objects())
        assert pack.path
        os.truncate(pack.path, 40)
        with pytest.raises(SpoiledError, match="ends after 40 of"):
            list(pack.pieces())


@pytest.mark.row("T5")
@pytest.mark.parametrize("read", [0, 1])
def test_one_that_cannot_be_read_costs_a_connection(
    project: Project, made: list[set[Key]], monkeypatch: pytest.MonkeyPatch, read: int
) -> None:
    project.write(1)
    project.image("v1", data=os.urandom(3_000_000))
    assert project.wain("plan", "shop:v1").code == 0
    real = Pack._read

    def torn(self: Pack, path: Path) -> Iterator[bytes]:
        pieces = real(self, path)
        for _ in range(read):
            yield next(pieces)
        if self.kept:
            raise OSError(5, "Input/output error")
        yield from pieces

    monkeypatch.setattr(Pack, "_read", torn)
    assert project.wain("rollout", "shop:v1", "--yes").states() == {"h1": "succeeded"}
    assert project.says("h1") == "v1"
    assert len(made) == 2
    assert (made[0] == made[1]) == (read == 0)  # what has come is not sent again


@pytest.mark.row("T5")
def test_one_that_lacks_objects_is_refused(project: Project, made: list[set[Key]]) -> None:
    """And one is named by what is in it, whatever a host says that it lacks."""
    project.write(1)
    image = project.store.manifest(project.image("v1", data=os.urandom(300_000)))
    keys = list(image.objects())
    with Packs(project.store) as packs:
        strange = [(f"{number:064}", False) for number in range(len(keys) - 1)]
        some = packs.get(image, [keys[0], *strange, keys[0]], zstd=True)
        assert some.size
    (name,) = names(project.store)
    assert "-" in name
    folder = Path(project.store.root, "packs")
    (folder / name).rename(folder / name.partition("-")[0])
    made.clear()
    assert project.wain("rollout", "shop:v1", "--yes").states() == {"h1": "succeeded"}
    assert made == [set(keys[1:])]


def test_an_image_of_many_small_files_for_one_new_host(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest is long, so a process makes the pack, whose size nobody counts."""
    monkeypatch.setattr(pack_module, "LONG", 0)
    monkeypatch.setattr(pack_module, "SOON", 4 << 20)
    project.write(1)
    image = project.image("v1")
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, project.current("h1")) == (0, image)


def test_a_manifest_of_another_format_is_said_to_be_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(1)
    image = project.image("v1")
    real = Store.manifest_bytes

    def newer(store: Store, image_id: str) -> bytes:
        return (
            real(store, image_id)
            .replace(b"wain-manifest 1\n", b"wain-manifest 2\n")
            .replace(b"file ", b"file,")
        )

    monkeypatch.setattr(Store, "manifest_bytes", newer)
    for words in (("plan",), ("rollout", "--yes")):
        ran = project.wain(*words, "shop:v1")
        assert ran.code == 1
        assert "format 2 found, this wain reads format 1" in ran.text
        assert image[:12] in ran.text


@pytest.mark.row("D1")
def test_a_full_disk_gives_up_what_is_kept_and_says_so(
    project: Project, made: list[set[Key]], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(2)
    project.image("v1")
    project.image("v2", data=os.urandom(300_000))
    assert project.wain("plan", "shop:v1").code == 0
    assert names(project.store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Pack, "_append", full)
        plan = project.wain("plan", "shop:v2")
        assert (plan.code, plan.text.count("\n")) == (1, 1)
        assert "No space left on device" in plan.text
        assert project.store.tmp in plan.text
        ran = project.wain("rollout", "shop:v2", "--yes")
        assert (ran.code, ran.text.count("\n")) == (1, 1)
        assert "No space left on device" in ran.text
        # Where its size was not waited for.
        patch.setattr(wanted, "SOON", 0)
        ran = project.wain("rollout", "shop:v2", "--yes")
        assert ran.code != 0
        errors = [host["error"] for host in ran.document["hosts"].values() if host["error"]]
        assert errors
        assert all("No space left on device" in error for error in errors)
    assert names(project.store) == []
    assert os.listdir(project.store.tmp) == []
    assert project.wain("rollout", "shop:v2", "--yes").code == 0


def test_what_else_is_there_does_not_end_the_bound(
    store: Store, old: Manifest, new: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST", 2)
    folder = Path(store.root, "packs")
    folder.mkdir()
    (folder / "folder").mkdir()
    os.utime(folder / "folder", (1 << 32, 1 << 32))
    dangling(folder / "dangling")
    for image in (old, new):
        for zstd in (True, False):
            with Packs(store) as packs:
                whole(packs, image, zstd)
    assert len(names(store)) == 3


def test_a_rollback_needs_no_room_for_packs(project: Project) -> None:
    project.write(1)
    old = project.image("v1")
    project.image("v2")
    for tag in ("v1", "v2"):
        assert project.wain("rollout", f"shop:{tag}", "--yes").code == 0
    os.rmdir(project.store.tmp)
    Path(project.store.tmp).write_bytes(b"")
    assert project.wain("rollback", "--yes").code == 0
    assert project.current("h1") == old
    refused = project.wain("plan", "shop:v2", "--hosts", "h1")
    assert refused.code == 0  # nothing is missing there


def test_no_process_is_left_where_the_spool_cannot_be_made(store: Store, old: Manifest) -> None:
    os.rmdir(store.tmp)
    Path(store.tmp).write_bytes(b"")
    before = children()
    packs = Packs(store)
    with pytest.raises(StoreError, match="Not a directory"):
        packs.foresee(old.image_id)
    packs.close()
    assert not children() - before


def test_a_spool_that_cannot_be_begun_is_named(
    store: Store, old: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "touch", refused)
    with Packs(store) as packs:
        with pytest.raises(StoreError, match="No space left") as caught:
            packs.get(old, old.objects())
        assert str(caught.value).startswith(store.tmp)


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
    assert names(store) == []
    with Packs(store) as packs:
        host.packs = packs
        host.deploy(image)
        assert not left.exists()
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
