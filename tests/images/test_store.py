from __future__ import annotations

import io
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from images.batch import Batch
from images.errors import LockedError, WainError
from images.layout import FIXED_NS
from images.manifest import ManifestError
from images.staging import clean_staging
from images.store import FIXED_MTIME, ObjectError, Store, StoreError
from tests.support.trees import entry, manifest_of, put_image, sha

ROOT = Path(__file__).parents[2]
needs_strace = pytest.mark.skipif(
    not shutil.which("strace"), reason="no strace here (apt-get install strace)"
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def _put(store: Store, *data: bytes, executable: bool = False) -> None:
    with store.batch() as batch:
        for one in data:
            batch.put(one, executable)


def _is_empty(store: Store) -> bool:
    return not list(store.keys()) and not os.listdir(store.tmp)


# What is written


@pytest.mark.parametrize("executable", [False, True])
def test_an_object_has_its_bytes_mode_and_the_fixed_time(store: Store, executable: bool) -> None:
    old = os.umask(0o077)
    try:
        _put(store, b"wheel", executable=executable)
    finally:
        os.umask(old)
    status = os.lstat(store.object_path(sha(b"wheel"), executable))
    assert stat.S_IMODE(status.st_mode) == (0o555 if executable else 0o444)
    assert status.st_mtime_ns == FIXED_NS == FIXED_MTIME * 10**9
    assert store.read(sha(b"wheel"), executable) == b"wheel"
    assert store.missing([(sha(b"wheel"), executable)]) == []
    assert store.missing([(sha(b"wheel"), not executable)]) == [(sha(b"wheel"), not executable)]
    assert os.listdir(store.tmp) == []


def test_many_objects_are_published_together(store: Store) -> None:
    bodies = [b"%d" % number for number in range(300)]
    with store.batch() as batch:
        for body in bodies:
            assert batch.put(body) == (sha(body), len(body))
        assert list(store.keys()) == []
    assert sorted(store.keys()) == sorted((sha(body), False) for body in bodies)
    assert store.verify() == []


def test_putting_an_object_again_keeps_its_inode(store: Store) -> None:
    _put(store, b"wheel")
    before = os.lstat(store.object_path(sha(b"wheel"))).st_ino
    _put(store, b"wheel", b"wheel")
    with store.batch() as batch:
        batch.put_file(io.BytesIO(b"wheel"))
    assert os.lstat(store.object_path(sha(b"wheel"))).st_ino == before


def test_threads_may_share_a_batch(store: Store) -> None:
    with store.batch() as batch:

        def work() -> None:
            for number in range(100):
                batch.put(b"%d" % number)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(list(store.keys())) == 100
    assert store.verify() == []


def test_what_others_add_while_a_part_is_published_is_not_lost(store: Store) -> None:
    ended = threading.Event()
    with store.batch() as batch:

        def work(first: int) -> None:
            for number in range(first, first + 1500):
                batch.put(b"%d" % number)

        def publish() -> None:
            while not ended.is_set():
                batch.publish_so_far()

        threads = [threading.Thread(target=work, args=(at,)) for at in (0, 1000, 2000)]
        publisher = threading.Thread(target=publish)
        for thread in (publisher, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        ended.set()
        publisher.join()
    assert len(list(store.keys())) == 3500
    assert store.verify() == []
    assert os.listdir(store.tmp) == []


def test_where_there_are_no_more_threads_a_batch_is_published_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("images.batch.MANY", 10)
    with store.batch() as batch:
        for number in range(50):
            batch.put(b"%d" % number)
        monkeypatch.setattr(threading.Thread, "start", refused)
    assert len(list(store.keys())) == 50
    monkeypatch.undo()
    assert store.verify() == []


def test_a_folder_made_while_a_part_is_published_stays_for_who_made_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.batch() as batch:
        settle = batch._shards.settle
        late: list[str] = []

        def settled() -> None:
            settle()
            if not late:
                late.append(batch.put(b"late")[0])

        monkeypatch.setattr(batch._shards, "settle", settled)
        batch.put(b"early")
        batch.publish_so_far()
        # Another thread may be between making this folder and writing into it.
        assert os.path.isdir(f"{batch._folder}/{late[0][:2]}")
        assert store.is_present((late[0], False))
    assert len(list(store.keys())) == 2
    assert store.verify() == []
    assert os.listdir(store.tmp) == []


def test_a_folder_is_not_named_while_somebody_may_still_write_into_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = [b"%d" % number for number in range(2000) if sha(b"%d" % number)[:2] == "00"]
    write, listdir = Batch._write, os.listdir
    entered, listed, go = threading.Event(), threading.Event(), threading.Event()

    def slow_write(batch: Batch, *arguments: Any) -> str:
        if threading.current_thread() is writer:
            entered.set()
            go.wait(10)
        return write(batch, *arguments)

    def late_list(path: str) -> list[str]:
        found = listdir(path)
        if path.endswith("/00"):
            listed.set()
            writer.join(10)
        return found

    with store.batch() as batch:
        batch.put(same[0])
        writer = threading.Thread(target=batch.put, args=(same[1],))
        publisher = threading.Thread(target=batch.publish_so_far)
        monkeypatch.setattr(Batch, "_write", slow_write)
        monkeypatch.setattr("os.listdir", late_list)
        writer.start()
        entered.wait(10)
        publisher.start()
        listed.wait(0.2)  # it never is, unless the publisher does not wait
        go.set()
        publisher.join()
    assert {key[0] for key in list(store.keys())} == {sha(one) for one in same[:2]}


def test_a_file_that_could_not_be_written_nor_removed_gets_no_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = [number for number in range(2000) if sha(b"%d" % number)[:2] == "00"]
    with store.batch() as batch:
        batch.put(b"%d" % same[0])
        monkeypatch.setattr("images.durable.discard", lambda path: None)
        monkeypatch.setattr("os.utime", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "torn")))
        with pytest.raises(StoreError, match="torn"):
            batch.put(b"%d" % same[1])
        monkeypatch.undo()
        batch.put(b"%d" % same[2])
    found = {key[0] for key in list(store.keys())}
    assert found == {sha(b"%d" % same[at]) for at in (0, 2)}
    assert store.verify() == []
    assert os.listdir(store.tmp) == []


def test_a_prefix_that_another_process_made_meanwhile_takes_the_objects_too(store: Store) -> None:
    same = [b"%d" % number for number in range(2000) if sha(b"%d" % number)[:2] == "00"]
    with store.batch() as batch:
        batch.put(same[0])
        with Store(store.root).batch() as other:
            other.put(same[0])
            other.put(same[1])
        batch.put(same[2])
    assert {key[0] for key in list(store.keys())} == {sha(one) for one in same[:3]}
    assert store.verify() == []
    assert os.listdir(store.tmp) == []


@pytest.mark.row("K2")
def test_an_error_in_the_block_publishes_nothing(store: Store) -> None:
    class Broken:
        def read(self, size: int, /) -> bytes:
            raise ConnectionAbortedError(103, "cut")

    with pytest.raises(StoreError, match="object stream: cut"), store.batch() as batch:
        batch.put_file(Broken())
    assert _is_empty(store)


# Streams


def test_a_stream_is_hashed_as_it_is_written(store: Store) -> None:
    body = os.urandom(3 << 20)
    stream = io.BytesIO(body + b"the next object")
    with store.batch() as batch:
        assert batch.put_file(stream, True, sha(body), len(body)) == (sha(body), len(body))
    assert stream.read() == b"the next object"
    assert store.read(sha(body), True) == body


@pytest.mark.row("T2")
@pytest.mark.parametrize(
    ("data", "size", "message"),
    [(b"whexl", 5, "came"), (b"whe", 5, "3 of 5 bytes came"), (b"", 5, "0 of 5 bytes came")],
)
def test_a_stream_of_other_bytes_is_refused(
    store: Store, data: bytes, size: int, message: str
) -> None:
    with pytest.raises(ObjectError, match=message) as caught, store.batch() as batch:
        batch.put_file(io.BytesIO(data), False, sha(b"wheel"), size)
    assert caught.value.key == (sha(b"wheel"), False)
    assert _is_empty(store)


def test_a_stream_that_ends_early_is_refused_without_a_hash_too(store: Store) -> None:
    with pytest.raises(ObjectError, match="3 of 5 bytes came"), store.batch() as batch:
        batch.put_file(io.BytesIO(b"whe"), size=5)
    assert _is_empty(store)


# What was changed afterwards


def _touch(path: str) -> None:
    os.utime(path)


def _empty(path: str) -> None:
    os.chmod(path, 0o644)
    os.truncate(path, 0)
    os.chmod(path, 0o444)
    os.utime(path, ns=(FIXED_NS, FIXED_NS))


def _flip(path: str) -> None:
    """Change a byte and hide it: size, mode and time stay."""
    data = bytearray(Path(path).read_bytes())
    data[0] ^= 1
    os.chmod(path, 0o644)
    Path(path).write_bytes(data)
    os.chmod(path, 0o444)
    os.utime(path, ns=(FIXED_NS, FIXED_NS))


def _chmod(path: str) -> None:
    os.chmod(path, 0o644)


def _chown(path: str) -> None:
    os.chown(path, 4711, -1)


def _replace_by_link(path: str) -> None:
    os.rename(path, path + "x")
    os.symlink(path + "x", path)


@pytest.mark.row("S1")
@pytest.mark.row("S2")
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (os.unlink, "missing"),
        (_empty, "content"),
        (_flip, "content"),
        (_chmod, "mode"),
        (_touch, "time"),
        (_replace_by_link, "content"),
        pytest.param(_chown, "owner", marks=pytest.mark.root),
    ],
)
def test_verify_names_a_changed_object_and_only_that(store: Store, damage, what: str) -> None:
    _put(store, b"wheel", b"wagon", b"")
    path = store.object_path(sha(b"wheel"))
    damage(path)
    keys = [(sha(b"wheel"), False), (sha(b"wagon"), False), (sha(b""), False)]
    assert [(bad.key, bad.what, bad.path) for bad in store.verify(keys)] == [(keys[0], what, path)]


@pytest.mark.row("S1")
@pytest.mark.parametrize("damage", [_empty, _chmod, _touch, _replace_by_link])
def test_a_suspect_object_counts_as_missing_and_is_replaced(store: Store, damage) -> None:
    _put(store, b"wheel")
    path = store.object_path(sha(b"wheel"))
    twin = path + ".twin"
    os.link(path, twin)
    damage(path)
    assert store.missing({(sha(b"wheel"), False): 5}) == [(sha(b"wheel"), False)]
    _put(store, b"wheel")
    assert store.missing({(sha(b"wheel"), False): 5}) == []
    assert store.read(sha(b"wheel")) == b"wheel"
    # A new inode: whoever changed it through the twin still holds the old one.
    assert os.lstat(twin).st_ino != os.lstat(path).st_ino


@pytest.mark.row("S1")
def test_a_bit_flipped_in_each_object_is_found_and_removing_it_makes_it_missing(
    store: Store,
) -> None:
    bodies = [b"body %d" % number for number in range(130)]
    _put(store, *bodies)
    for body in bodies:
        _flip(store.object_path(sha(body)))
        with pytest.raises(ObjectError, match="bytes were changed"):
            store.read(sha(body))
    bad = store.verify()
    assert {one.key for one in bad} == {(sha(body), False) for body in bodies}
    store.remove_bad(bad)
    assert len(store.missing([one.key for one in bad])) == 130
    store.remove_bad(bad)


def _reads(store: Store, image: str) -> bool:
    try:
        return store.manifest(image).image_id == image
    except StoreError as error:
        assert "manifest's bytes were changed" in str(error)  # noqa: PT017
        return False


@pytest.mark.row("S1")
def test_a_bit_flipped_in_any_byte_is_found_and_named(store: Store, sample) -> None:
    """Every byte of every object and manifest, one after the other; nothing else is named."""
    manifest = put_image(store)
    paths = {store.object_path(*key): key for key in manifest.objects()}
    paths[f"{store.manifest_folder}/{manifest.image_id}"] = None
    points = [(path, at) for path in sorted(paths) for at in range(os.path.getsize(path))]
    for path, at in sample(points, 60):
        kept, mode = Path(path).read_bytes(), stat.S_IMODE(os.lstat(path).st_mode)
        os.chmod(path, 0o644)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([kept[at] ^ 1 << at % 8]))
        os.chmod(path, mode)
        os.utime(path, ns=(FIXED_NS, FIXED_NS))
        key = paths[path]
        if key is None:
            # The bits that fill up the last byte of the packed text mean nothing.
            assert not _reads(store, manifest.image_id) or at == len(kept) - 5
            assert store.verify() == []
            Path(path).write_bytes(kept)
            continue
        bad = store.verify()
        assert [(one.key, one.what) for one in bad] == [(key, "content")], (path, at)
        store.remove_bad(bad)
        assert store.missing(manifest.objects()) == [key]
        with store.batch() as batch:
            batch.put(kept, key[1])
    assert store.verify() == []
    assert store.manifest(manifest.image_id) == manifest


def test_heal_replaces_what_has_the_right_bytes_and_names_the_rest(store: Store) -> None:
    _put(store, b"touched", b"flipped", b"gone", b"chmodded")
    _touch(store.object_path(sha(b"touched")))
    _chmod(store.object_path(sha(b"chmodded")))
    _flip(store.object_path(sha(b"flipped")))
    os.unlink(store.object_path(sha(b"gone")))
    keys = [(sha(body), False) for body in (b"touched", b"flipped", b"gone", b"chmodded")]
    assert [(bad.key, bad.what) for bad in store.heal(keys)] == [
        (keys[1], "content"),
        (keys[2], "missing"),
    ]
    assert [bad.what for bad in store.verify(keys)] == ["content", "missing"]


@pytest.mark.root
def test_heal_replaces_what_somebody_else_owns(store: Store) -> None:
    _put(store, b"theirs")
    _chown(store.object_path(sha(b"theirs")))
    assert store.heal([(sha(b"theirs"), False)]) == []
    assert store.verify() == []


# Manifests and formats


def test_a_manifest_is_kept_packed_and_checked(store: Store) -> None:
    manifest = put_image(store)
    image_id = manifest.image_id
    assert store.manifests() == [image_id]
    assert store.manifest(image_id) == manifest
    assert store.manifest_bytes(image_id) == manifest.to_bytes()
    assert store.resolve_id(image_id[:8]) == image_id
    assert store.missing(manifest.objects()) == []
    path = f"{store.manifest_folder}/{image_id}"
    assert os.path.getsize(path) < len(manifest.to_bytes())
    whole = Path(path).read_bytes()
    for damaged in (b"", b"x", whole[:-9], whole[:20] + b"!" + whole[21:]):
        os.unlink(path)
        Path(path).write_bytes(damaged)
        with pytest.raises(StoreError, match="manifest's bytes were changed"):
            store.manifest(image_id)


def test_what_is_no_manifest_is_not_kept(store: Store) -> None:
    with pytest.raises(ManifestError):
        store.put_manifest(b"{}")
    assert store.manifests() == []


def test_an_id_that_names_none_or_several(store: Store) -> None:
    ids = [
        store.put_manifest(manifest_of(entry("a", b"%d" % number)).to_bytes())
        for number in range(20)
    ]
    several = next(a[0] for a in ids if sum(b[0] == a[0] for b in ids) > 1)
    with pytest.raises(StoreError, match="several images begin with"):
        store.resolve_id(several)
    with pytest.raises(StoreError, match=r"no image begins with 'ffff.x1b'"):
        store.resolve_id("ffff\x1b")
    with pytest.raises(StoreError, match="no image 00000000"):
        store.manifest("0" * 64)


@pytest.mark.parametrize("found", [b"wain-store 2\n", b"", b"\xff\n", b"wain-store 1"])
def test_a_store_of_another_format_is_one_clear_error(tmp_path: Path, found: bytes) -> None:
    Store(str(tmp_path))
    (tmp_path / "format").write_bytes(found)
    with pytest.raises(StoreError, match=r"format: found .*, this wain reads 'wain-store 1'"):
        Store(str(tmp_path))


def test_a_store_that_cannot_be_made_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file.*: Not a directory"):
        Store(str(tmp_path / "file" / "store"))


# Failing disks


@contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """Every write past this size fails, for real: EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.row("D1")
def test_a_write_that_fails_is_one_error_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(StoreError, match=r"objects: File too large$"), _file_size_limit(100):
        _put(store, b"x" * 50, b"y" * 200)
    assert _is_empty(store)
    with pytest.raises(StoreError, match="File too large"), _file_size_limit(20):
        store.put_manifest(manifest_of(entry("a")).to_bytes())
    assert store.manifests() == []
    assert _is_empty(store)


WRITER = """
import sys
from images.store import Store
from images.errors import WainError
try:
    store = Store(sys.argv[1])
    with store.batch() as batch:
        for number in range(int(sys.argv[2])):
            batch.put(b"%d" % number)
    print(store.put_manifest(sys.stdin.buffer.read()))
except WainError as error:
    sys.exit(f"error: {error}")
"""


def _strace(options: list[str], root: Path, count: int) -> subprocess.CompletedProcess[str]:
    python = [os.path.realpath(sys.executable), "-I", "-S", "-c"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{WRITER}"
    return subprocess.run(
        ["strace", "-f", "-y", "-qq", *options, *python, code, str(root), str(count)],
        input=manifest_of(entry("a")).to_bytes().decode(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _points(name: str, folder: Path, count: int) -> list[int]:
    """Which calls of this name, counted from 1, are about the store."""
    log = folder / "trace"
    shadow = folder / "shadow"
    Store(str(shadow))
    assert _strace(["-o", str(log), "-e", f"trace={name}"], shadow, count).returncode == 0
    calls = [line for line in log.read_text().splitlines() if f"{name}(" in line]
    found = [number for number, line in enumerate(calls, 1) if str(shadow) in line]
    assert found, f"no call of {name} is about the store"
    return found


def _inject(name: str, what: str) -> list[str]:
    return ["-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:{what}"]


@needs_strace
@pytest.mark.row("A3")
@pytest.mark.parametrize(
    ("name", "error", "count"),
    [
        ("syncfs", "EIO", 20),
        ("fsync", "EIO", 3),
        ("write", "ENOSPC", 3),
        ("rename", "EDQUOT", 3),
        ("utimensat", "EROFS", 3),
        ("openat", "EMFILE", 3),
        ("fchmod", "EPERM", 3),
        ("flock", "ENOLCK", 3),
        ("mkdir", "EROFS", 3),
    ],
)
def test_a_call_that_fails_is_one_line_and_the_same_again_finishes(
    tmp_path: Path, name: str, error: str, count: int, sample
) -> None:
    for point in sample(_points(name, tmp_path, count), 3):
        root = tmp_path / f"store{point}"
        store = Store(str(root))
        broken = _strace(_inject(name, f"error={error}:when={point}"), root, count)
        # A staging folder that cannot be cleaned up is no reason to fail.
        assert broken.returncode in (0, 1), broken.stderr
        assert broken.stderr.count("\n") == broken.returncode, broken.stderr
        assert broken.stderr.startswith("error: ") or not broken.stderr
        assert store.verify() == []
        if store.manifests():
            assert len(list(store.keys())) == count
        assert _strace(_inject("kill", "error=EPERM"), root, count).returncode == 0
        assert len(list(store.keys())) == count
        assert os.listdir(store.tmp) == []


@needs_strace
@pytest.mark.row("A2")
@pytest.mark.parametrize("count", [4, 20])
def test_bytes_last_before_they_have_a_name_and_objects_before_the_manifest(
    tmp_path: Path, count: int
) -> None:
    root, log = tmp_path / "store", tmp_path / "trace"
    Store(str(root))
    names = "fsync,syncfs,rename,write,utimensat,fchmod,mkdir"
    assert _strace(["-o", str(log), "-e", f"trace={names}"], root, count).returncode == 0
    dirty: set[str] = set()
    unnamed: set[str] = set()
    renames = 0
    for line in log.read_text().splitlines():
        call = line.partition(" ")[2].strip() if line[0].isdigit() else line
        paths = re.findall(rf"{re.escape(str(root))}[^\">]*", call)
        if not paths:
            continue
        if call.startswith("syncfs"):
            dirty.clear()
            unnamed.clear()
        elif call.startswith("fsync"):
            dirty.discard(paths[0])
            unnamed.discard(paths[0])
        elif call.startswith("rename"):
            renames += " = 0" in call
            source, target = paths
            # A folder of new objects gets its name with all that is in it.
            assert not any(path == source or path.startswith(f"{source}/") for path in dirty), call
            if "/manifests/" in target:
                assert not unnamed, call
            if " = 0" in call:
                unnamed.add(os.path.dirname(target))
                if len(os.path.basename(target)) == 2:
                    unnamed.add(target)
        elif call.startswith("mkdir"):
            if "/objects/" in paths[0]:
                unnamed.add(os.path.dirname(paths[0]))
        else:
            dirty.add(paths[0])
    store = Store(str(root))
    prefixes = {sha256[:2] for sha256, _ in list(store.keys())}
    assert renames == len(prefixes) + 1
    assert not unnamed


@needs_strace
@pytest.mark.row("S4")
@pytest.mark.row("A1")
@pytest.mark.parametrize(
    "name",
    ["openat", "write", "fchmod", "utimensat", "fsync", "rename", "mkdir", "rmdir"],
)
def test_a_writer_killed_at_any_call_leaves_a_whole_store(
    tmp_path: Path, name: str, sample
) -> None:
    for point in sample(_points(name, tmp_path, 4), 3):
        root = tmp_path / f"store{point}"
        store = Store(str(root))
        done = _strace(_inject(name, f"signal=KILL:when={point}"), root, 4)
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
        assert store.verify() == []
        if store.manifests():
            assert len(list(store.keys())) == 4
        assert _strace(_inject("kill", "error=EPERM"), root, 4).returncode == 0
        assert os.listdir(store.tmp) == []
        assert len(list(store.keys())) == 4


# Several processes

HOLDER = """
import sys
from images.store import Store
with Store(sys.argv[1]).batch() as batch:
    batch.put(b"held")
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, store.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.row("S3")
@pytest.mark.row("K3")
def test_nothing_is_collected_while_another_process_writes(store: Store) -> None:
    _put(store, b"unused")
    with _holder(store) as process:
        with pytest.raises(LockedError) as caught:
            store.collect([], [])
        assert caught.value.exit_code == 6
        assert f"process {process.pid} since 2" in str(caught.value)
        assert len(list(store.keys())) == 1
        # A second writer is not held up, and leaves the other's staging folder alone.
        _put(store, b"other")
        assert len(os.listdir(store.tmp)) == 1
        process.kill()
        process.wait()
    assert store.collect([(sha(b"other"), False)], []) == (1, len(b"unused"), 0)
    assert list(store.keys()) == [(sha(b"other"), False)]


@pytest.mark.row("K3")
def test_what_a_killed_writer_left_is_removed_by_the_next_one(store: Store) -> None:
    with _holder(store):
        assert len(os.listdir(store.tmp)) == 1
    assert len(os.listdir(store.tmp)) == 1
    _put(store, b"next")
    assert os.listdir(store.tmp) == []
    assert list(store.keys()) == [(sha(b"next"), False)]


@pytest.mark.row("K2")
def test_a_folder_that_another_writer_takes_for_rubbish_before_its_lock_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody holds it for the moment between its making and its lock."""
    real, made = os.mkdir, []

    def mkdir(path: str, *arguments: Any) -> None:
        real(path, *arguments)
        if os.path.dirname(path) == store.tmp:
            made.append(path)
            if len(made) < 3:
                clean_staging(store.tmp)

    monkeypatch.setattr(os, "mkdir", mkdir)
    _put(store, b"one")
    assert len(made) == 3
    assert os.listdir(store.tmp) == []
    assert list(store.keys()) == [(sha(b"one"), False)]


@pytest.mark.row("K2")
def test_two_processes_that_write_the_same_both_succeed(store: Store) -> None:
    with _holder(store) as process:
        _put(store, b"held")
        process.communicate("")
        assert process.returncode == 0
    assert list(store.keys()) == [(sha(b"held"), False)]
    assert store.verify() == []


def test_collect_keeps_what_is_named(store: Store) -> None:
    keep = put_image(store)
    other = manifest_of(entry("only/here", b"only here"))
    _put(store, b"only here", b"orphan")
    store.put_manifest(other.to_bytes())
    freed = store.collect(iter(keep.objects()), iter([keep.image_id]))
    assert freed == (2, len(b"only here") + len(b"orphan"), 1)
    assert store.manifests() == [keep.image_id]
    assert store.missing(keep.objects()) == []


def test_the_lock_is_not_inherited(store: Store) -> None:
    with store.writing():
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        store.collect([], [])
    finally:
        child.communicate(b"\n")


def test_errors_are_one_printable_line(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "red\x1b[31m"))
    with pytest.raises(WainError) as caught:
        store.read("0" * 64)
    assert str(caught.value).isprintable()
