from __future__ import annotations

import errno
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import images.forks
import images.tree
import images.worklist
from images.errors import WainError
from images.layout import FIXED_NS
from images.manifest import Manifest
from images.place import Placer
from images.store import Store
from images.tree import Drift, SuspectError, checkout, confine, scan
from tests.support.trees import FILES, INTERPRETER, SITE, put_image, sha


@pytest.fixture(autouse=True)
def _in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large images are made; the small ones of other tests are made in one."""
    monkeypatch.setattr(images.tree, "_FEW", 0)
    monkeypatch.setattr(images.worklist, "PIECE", 2)
    monkeypatch.setattr(images.tree, "can_fork", lambda: True)
    monkeypatch.setattr(images.forks, "cores", lambda: 3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def image(store: Store) -> Manifest:
    return put_image(store)


@pytest.fixture
def tree(tmp_path: Path, store: Store, image: Manifest) -> Path:
    prefix = tmp_path / "env"
    checkout(image, store, str(prefix), str(prefix), INTERPRETER)
    return prefix


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder on another file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def _drift(tree: Path, image: Manifest, store: Store, deep: bool = False) -> list[Drift]:
    return scan(str(tree), image, str(tree), INTERPRETER, deep, store=store)


# Checking out


def test_every_file_is_there_and_works(tree: Path, store: Store, image: Manifest) -> None:
    assert sorted(
        str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir()
    ) == sorted(FILES)
    done = subprocess.run([tree / "bin/shop", "a b"], capture_output=True, text=True, check=True)
    assert done.stdout == "['a b']\n"
    assert subprocess.run([tree / f"{SITE}/shop/run"], capture_output=True, check=True).stdout
    assert (tree / "bin/activate").read_text() == f"VIRTUAL_ENV='{tree}'\n"
    assert f"home = {os.path.dirname(INTERPRETER.executable)}" in (tree / "pyvenv.cfg").read_text()
    assert os.readlink(tree / "bin/python3") == "python"
    assert os.readlink(tree / "bin/python") == INTERPRETER.executable
    assert _drift(tree, image, store, deep=True) == []


@pytest.mark.row("P2")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("link", [("hardlink",), ("copy",)])
def test_modes_and_times_come_from_the_manifest(
    tmp_path: Path, store: Store, image: Manifest, umask: int, link: tuple[str, ...]
) -> None:
    prefix = tmp_path / "env"
    old = os.umask(umask)
    try:
        done = checkout(image, store, str(prefix), str(prefix), INTERPRETER, link=link)
    finally:
        os.umask(old)
    shared = link == ("hardlink",)
    assert (done.hardlinked, done.copied) == ((4, 0) if shared else (0, 4))
    assert _mode(prefix / f"{SITE}/shop/run") == (0o555 if shared else 0o755)
    assert _mode(prefix / f"{SITE}/shop/cart.py") == (0o444 if shared else 0o644)
    assert _mode(prefix / "bin/shop") == 0o755
    assert _mode(prefix / "bin/activate") == 0o644
    assert _mode(prefix / "share/shop/empty") == 0o755
    for path in prefix.rglob("*"):
        if path.is_dir():
            assert _mode(path) == 0o755
        elif not path.is_symlink():
            assert path.stat().st_mtime_ns == FIXED_NS
    assert _mode(prefix) == 0o755
    assert _drift(prefix, image, store, deep=True) == []


def test_it_is_written_in_one_place_to_live_in_another(
    tmp_path: Path, store: Store, image: Manifest
) -> None:
    stage, prefix = tmp_path / "stage", tmp_path / "final env"
    checkout(image, store, str(stage), str(prefix), INTERPRETER, fsync=False)
    os.rename(stage, prefix)
    assert _drift(prefix, image, store) == []
    assert subprocess.run([prefix / "bin/shop"], capture_output=True, check=True).stdout == b"[]\n"


def test_empty_files_are_never_shared(tmp_path: Path, store: Store) -> None:
    files = {f"lib/p{n}/__init__.py": ("file", False, "p", b"") for n in range(3)}
    image = put_image(store, files)
    done = checkout(image, store, str(tmp_path / "e"), "/e", INTERPRETER)
    assert done == (3, 0, 0, 0, "")
    assert all((tmp_path / "e" / path).stat().st_nlink == 1 for path in files)


@pytest.mark.row("S5")
@pytest.mark.root
def test_a_store_on_an_overlay(tmp_path: Path) -> None:
    """As in a container: lower files get another inode when they are first written."""
    lower, upper, work, path = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for folder in (lower, upper, work, path):
        folder.mkdir()
    image = put_image(Store(str(lower / "store")))
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no overlay can be mounted here")
    try:
        store = Store(str(path / "store"))
        prefix = path / "env"
        done = checkout(image, store, str(prefix), str(prefix), INTERPRETER)
        assert done.hardlinked + done.reflinked + done.copied >= 4
        assert _drift(prefix, image, store, deep=True) == []
        assert store.verify() == []
        with store.batch() as batch:
            batch.put(b"more")
        assert store.verify() == []
        assert store.collect(image.objects(), [image.image_id]).objects == 1
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.row("S5")
def test_another_file_system_gets_copies_and_says_so(
    store: Store, image: Manifest, other_disk: Path
) -> None:
    if other_disk.stat().st_dev == os.stat(store.root).st_dev:
        pytest.skip("/dev/shm is on the same file system as the tests' folder")
    prefix = other_disk / "env"
    done = checkout(image, store, str(prefix), str(prefix), INTERPRETER)
    assert (done.hardlinked, done.copied) == (0, 4)
    assert "cross-device" in done.fallback
    assert _drift(prefix, image, store, deep=True) == []


def test_an_object_with_too_many_links_is_copied(tmp_path: Path, store: Store) -> None:
    files = {"a": ("file", False, "p", b"full"), "b": ("file", False, "p", b"free")}
    image = put_image(store, files)
    source = store.object_path(sha(b"full"))
    crowd = tmp_path / "crowd"
    crowd.mkdir()
    try:
        for number in range(70_000):
            os.link(source, f"{crowd}/{number}")
    except OSError as error:
        assert error.errno == errno.EMLINK  # noqa: PT017
    else:
        pytest.skip("this file system has no limit of links below 70,000")
    done = checkout(image, store, str(tmp_path / "e"), "/e", INTERPRETER, fsync=False)
    assert (done.hardlinked, done.copied, done.fallback) == (1, 1, "Too many links")
    assert (tmp_path / "e/a").read_bytes() == b"full"


def test_what_may_not_be_linked_is_copied_for_each_reason(tmp_path: Path) -> None:
    """The rule for other people's files gives EPERM; here an immutable folder's file."""
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "x").write_bytes(b"x")
    folder = os.open(tmp_path / "o", os.O_RDONLY)
    try:
        placer = Placer(folder, ("copy",))
        assert placer.place("x", str(tmp_path / "y"), True) == "copy"
        assert (tmp_path / "y").read_bytes() == b"x"
        assert placer.fallback == ""  # nobody asked for links
    finally:
        os.close(folder)


def _in_parts(store: Store) -> Manifest:
    files = {
        f"lib/python3.11/site-packages/p{n % 40}/sub{n % 3}/m{n}.py": (
            "file",
            n % 7 == 0,
            f"p{n % 40}",
            b"%d" % (n % 900),
        )
        for n in range(1200)
    }
    return put_image(store, files)


def test_many_files_are_placed_once_each(tmp_path: Path, store: Store) -> None:
    image = _in_parts(store)
    seen: list[tuple[int, int]] = []
    prefix = tmp_path / "e"
    done = checkout(
        image,
        store,
        str(prefix),
        str(prefix),
        INTERPRETER,
        on_progress=lambda _, now, total: seen.append((now, total)),
    )
    assert (done.files, done.hardlinked) == (1200, 1200)
    assert seen[-1] == (1200, 1200)
    assert _drift(prefix, image, store, deep=True) == []


# Objects that were changed in place


def test_a_write_in_place_through_a_link_is_caught_before_the_object_is_used_again(
    tmp_path: Path, tree: Path, store: Store, image: Manifest
) -> None:
    victim = tree / f"{SITE}/shop/cart.py"
    victim.chmod(0o644)
    victim.write_bytes(b"WHEELS = 3\n")
    second = tmp_path / "second"
    with pytest.raises(SuspectError) as caught:
        checkout(image, store, str(second), str(second), INTERPRETER)
    assert caught.value.keys == [(sha(b"WHEELS = 4\n"), False)]
    assert caught.value.owners == ["shop"]
    assert sha(b"WHEELS = 4\n") in str(caught.value)
    assert "of: shop" in str(caught.value)
    assert not second.exists()
    with store.batch() as batch:
        batch.put(b"WHEELS = 4\n")
    checkout(image, store, str(second), str(second), INTERPRETER)
    assert _drift(second, image, store, deep=True) == []
    assert Drift(f"{SITE}/shop/cart.py", "shop", "content") in _drift(tree, image, store)


@pytest.mark.row("S2")
@pytest.mark.parametrize("change", ["chmod", "touch"])
def test_a_changed_mode_or_time_is_healed_with_a_fresh_copy(
    tmp_path: Path, tree: Path, store: Store, image: Manifest, change: str
) -> None:
    victim = tree / f"{SITE}/shop/cart.py"
    if change == "chmod":
        victim.chmod(0o777)
    else:
        os.utime(victim)
    second = tmp_path / "second"
    done = checkout(image, store, str(second), str(second), INTERPRETER)
    assert done.hardlinked == 4
    assert (second / f"{SITE}/shop/cart.py").stat().st_ino != victim.stat().st_ino
    assert _drift(second, image, store, deep=True) == []
    assert store.verify() == []


def test_a_missing_object_is_named_with_every_package_that_has_it(
    tmp_path: Path, store: Store
) -> None:
    files = {"a": ("file", False, "six", b"same"), "b": ("file", False, "ply", b"same")}
    image = put_image(store, files)
    os.unlink(store.object_path(sha(b"same")))
    with pytest.raises(SuspectError, match="missing or changed, of: ply, six"):
        checkout(image, store, str(tmp_path / "e"), "/e", INTERPRETER)


def test_a_damaged_template_is_an_error(tmp_path: Path, store: Store, image: Manifest) -> None:
    path = store.object_path(sha(FILES["bin/activate"][3]))
    os.unlink(path)
    Path(path).write_bytes(b"VIRTUAL_ENV=/elsewhere\n")
    with pytest.raises(WainError, match="bytes were changed"):
        checkout(image, store, str(tmp_path / "e"), "/e", INTERPRETER)
    assert not (tmp_path / "e").exists()


# Confinement


@pytest.mark.row("M3")
def test_a_planted_folder_or_symlink_is_not_followed(
    tmp_path: Path, store: Store, image: Manifest
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    stage = tmp_path / "stage"
    stage.symlink_to(outside)
    with pytest.raises(WainError, match=r"stage: File exists"):
        checkout(image, store, str(stage), "/e", INTERPRETER)
    stage.unlink()
    stage.mkdir()
    (stage / "lib").symlink_to(outside)
    with pytest.raises(WainError, match=r"stage: File exists"):
        checkout(image, store, str(stage), "/e", INTERPRETER)
    assert list(outside.iterdir()) == []
    # Somebody else's folder is not ours to remove.
    assert (stage / "lib").is_symlink()


@pytest.mark.row("M3")
@pytest.mark.parametrize("target", ["../../outside", "/etc", "../lib/../.."])
def test_a_link_out_of_the_image_is_refused_and_nothing_stays(
    tmp_path: Path, store: Store, target: str
) -> None:
    files = {"bin/x": ("link", False, "six", target.encode()), "lib/a": FILES[f"{SITE}/six.py"]}
    image = put_image(store, files)
    with pytest.raises(WainError, match=r"^bin/x: a link whose target"):
        checkout(image, store, str(tmp_path / "e"), "/e", INTERPRETER)
    assert sorted(os.listdir(tmp_path)) == ["store"]


@pytest.mark.row("M2")
def test_confine_names_the_path() -> None:
    confine("lib/a b/c.py")
    with pytest.raises(WainError, match=r"^a/\.\./b: the part '\.\.' in a path"):
        confine("a/../b")


def test_a_prefix_with_a_colon_is_refused(tmp_path: Path, store: Store, image: Manifest) -> None:
    with pytest.raises(WainError, match="has a colon"):
        checkout(image, store, str(tmp_path / "a:b"), str(tmp_path / "a:b"), INTERPRETER)


def test_a_disk_that_cannot_be_written_is_one_error(store: Store, image: Manifest) -> None:
    with pytest.raises(WainError, match=r"^/proc/x: |^/proc: "):
        checkout(image, store, "/proc/x", "/proc/x", INTERPRETER)


# Scanning


@pytest.mark.row("M4")
@pytest.mark.parametrize("deep", [False, True])
def test_each_kind_of_drift_is_named_with_its_package(
    tree: Path, store: Store, image: Manifest, deep: bool
) -> None:
    site = tree / SITE
    (site / "shop/__pycache__").mkdir()
    (site / "shop/new.py").write_bytes(b"")
    (site / "stray.pth").write_bytes(b"")
    (tree / "top").symlink_to("/etc")
    (site / "shop/cart.py").unlink()
    (site / "six.py").unlink()
    (site / "six.py").mkdir()
    (site / "shop/run").chmod(0o4555)
    (site / "shop/__init__.py").write_bytes(b"# grown\n")
    (tree / "bin/activate").write_bytes(b"x" * (tree / "bin/activate").stat().st_size)
    (tree / "bin/python3").unlink()
    (tree / "bin/python3").symlink_to("python3.99")
    (tree / "bin/python").unlink()
    (tree / "bin/python").write_bytes(b"")
    (tree / "share").chmod(0o700)
    assert _drift(tree, image, store, deep) == [
        ("bin/activate", "-", "content"),
        ("bin/python", "-", "type"),
        ("bin/python3", "-", "content"),
        (f"{SITE}/shop/__init__.py", "shop", "size"),
        (f"{SITE}/shop/__pycache__", "shop", "added"),
        (f"{SITE}/shop/cart.py", "shop", "missing"),
        (f"{SITE}/shop/new.py", "shop", "added"),
        (f"{SITE}/shop/run", "shop", "mode"),
        (f"{SITE}/six.py", "six", "type"),
        (f"{SITE}/stray.pth", "-", "added"),
        ("share", "-", "mode"),
        ("top", "-", "added"),
    ]


@pytest.mark.row("M4")
@pytest.mark.row("Z3")
def test_the_hash_decides_where_size_and_time_are_equal(
    tree: Path, store: Store, image: Manifest
) -> None:
    victim = tree / f"{SITE}/six.py"
    victim.chmod(0o644)
    victim.write_bytes(b"PY3 = Fals\n")
    victim.chmod(0o444)
    # Seen at once by its time ...
    assert _drift(tree, image, store) == [(f"{SITE}/six.py", "six", "content")]
    os.utime(victim, ns=(FIXED_NS, FIXED_NS))
    # ... and when that was put back, by its hash.
    assert _drift(tree, image, store, deep=True) == [(f"{SITE}/six.py", "six", "content")]


def test_a_touched_file_of_the_right_bytes_is_no_drift(
    tree: Path, store: Store, image: Manifest
) -> None:
    os.utime(tree / f"{SITE}/six.py")
    assert _drift(tree, image, store) == []


def test_a_shared_inode_that_became_writable_is_drift(
    tree: Path, store: Store, image: Manifest
) -> None:
    (tree / f"{SITE}/six.py").chmod(0o644)
    assert _drift(tree, image, store) == [(f"{SITE}/six.py", "six", "mode")]


@pytest.mark.row("M3")
def test_a_folder_that_became_a_symlink_is_drift(
    tmp_path: Path, tree: Path, store: Store, image: Manifest
) -> None:
    os.rename(tree / SITE, tmp_path / "moved")
    (tree / SITE).symlink_to(tmp_path / "moved")
    assert (SITE, "-", "type") in _drift(tree, image, store)


def test_a_pipe_in_the_place_of_a_file_does_not_hold_a_scan(
    tree: Path, store: Store, image: Manifest
) -> None:
    (tree / f"{SITE}/six.py").unlink()
    os.mkfifo(tree / f"{SITE}/six.py")
    assert _drift(tree, image, store, deep=True) == [(f"{SITE}/six.py", "six", "type")]


def test_ignored_paths_may_be_there(tree: Path, store: Store, image: Manifest) -> None:
    (tree / ".wain").write_bytes(b"")
    found = scan(str(tree), image, str(tree), INTERPRETER, store=store, ignore={".wain"})
    assert found == []


def test_a_tree_that_is_gone_is_an_error(tmp_path: Path, store: Store, image: Manifest) -> None:
    with pytest.raises(WainError, match=r"gone: No such file"):
        _drift(tmp_path / "gone", image, store)


def test_without_strays_only_what_should_be_there_counts(
    tree: Path, image: Manifest, store: Store
) -> None:
    entry = max(image.entries, key=lambda one: one.path.count("/"))
    folder = (tree / entry.path).parent
    (folder / "stray").write_text("mine")
    folder.chmod(0o700)

    def found(strays: bool) -> list[str]:
        drift = scan(str(tree), image, str(tree), INTERPRETER, store=store, strays=strays)
        return sorted(one.what for one in drift)

    assert found(True) == ["added", "mode"]
    assert found(False) == ["mode"]
    folder.chmod(0o755)
    folder.rename(tree / "moved")
    folder.symlink_to(tree / "moved")  # all files are where they should be, through a link
    assert found(False) == found(True)[1:] == ["type"]
    folder.unlink()
    assert set(found(False)) == {"missing"}


def test_a_scan_of_many_files_reports_progress(tmp_path: Path, store: Store) -> None:
    image = _in_parts(store)
    prefix = tmp_path / "e"
    checkout(image, store, str(prefix), str(prefix), INTERPRETER, fsync=False)
    (prefix / f"{SITE}/p7/sub1/m7.py").unlink()
    (prefix / f"{SITE}/p7/new.py").write_bytes(b"")
    seen: list[int] = []
    found = scan(
        str(prefix),
        image,
        str(prefix),
        INTERPRETER,
        True,
        store=store,
        on_progress=lambda _, now, total: seen.append(now),
    )
    assert found == [
        (f"{SITE}/p7/new.py", "p7", "added"),
        (f"{SITE}/p7/sub1/m7.py", "p7", "missing"),
    ]
    assert seen[-1] == 1200
