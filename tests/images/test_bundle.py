"""One file across an air gap, and every way it can be damaged."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from images.bundle import BundleError, export_image, import_image
from images.catalog import Catalog
from images.errors import WainError
from images.signature import read_signature, sign_image
from images.store import Store
from tests.support import mounts
from tests.support.made_images import Made, keep, module, regular

V1 = [regular("alpha", "1.0"), module("beta", "1.0")]
V2 = [regular("alpha", "1.1"), module("beta", "1.0")]


@pytest.fixture
def here(tmp_path: Path) -> Catalog:
    (tmp_path / "here").mkdir()
    return Catalog(Store(str(tmp_path / "store-here")), str(tmp_path / "here"))


@pytest.fixture
def there(tmp_path: Path) -> Catalog:
    (tmp_path / "there").mkdir()
    return Catalog(Store(str(tmp_path / "store-there")), str(tmp_path / "there"))


def test_an_image_arrives_as_it_left(here: Catalog, there: Catalog, tmp_path: Path) -> None:
    manifest = keep(here, V1)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    sign_image(here.store, manifest.image_id, "shop", "fleet", str(key), "ann")
    path = str(tmp_path / "shop.wain")
    sent = export_image(here, manifest.image_id, path, tag="v1")
    got = import_image(there, path)
    assert (got.image, got.tag, got.objects) == (manifest.image_id, "v1", sent.objects)
    assert there.resolve("shop:v1") == manifest.image_id
    assert there.document(got.image) == here.document(got.image)
    assert there.store.verify(manifest.objects()) == []
    signature = read_signature(here.store, manifest.image_id, "fleet")
    assert read_signature(there.store, manifest.image_id, "fleet") == signature != b""
    assert import_image(there, path, tag="other").objects == sent.objects
    there.collect()
    assert there.store.verify() == []


EXPORT = """
import sys
from images.bundle import export_image
from images.catalog import Catalog
from images.store import Store
export_image(Catalog(Store(sys.argv[1]), sys.argv[2]), sys.argv[3], sys.argv[4])
"""


@pytest.mark.row("A2")
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_its_bytes_last_before_it_has_its_name_and_that_lasts_too(
    here: Catalog, tmp_path: Path
) -> None:
    manifest = keep(here, V1)
    path, log = tmp_path / "out" / "shop.wain", tmp_path / "trace"
    path.parent.mkdir()
    subprocess.run(
        ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", "trace=write,fsync,rename",
         sys.executable, "-c", EXPORT, here.store.root, str(tmp_path / "here"),
         manifest.image_id, str(path)],
        check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    calls = [line.split(" ", 1)[1].strip() for line in log.read_text().splitlines()]
    calls = [call for call in calls if str(path.parent) in call]
    assert [call.partition("(")[0] for call in calls[-3:]] == ["fsync", "rename", "fsync"]
    assert f"<{path.parent}>" in calls[-1]


def test_the_same_image_gives_the_same_bytes(here: Catalog, tmp_path: Path) -> None:
    manifest = keep(here, V1)
    files = [tmp_path / "a", tmp_path / "b"]
    for path in files:
        export_image(here, manifest.image_id, str(path))
    assert files[0].read_bytes() == files[1].read_bytes()


def test_since_carries_only_what_is_new(here: Catalog, there: Catalog, tmp_path: Path) -> None:
    one, two = keep(here, V1, "v1"), keep(here, V2)
    whole, part = str(tmp_path / "whole"), str(tmp_path / "part")
    export_image(here, one.image_id, whole)
    sent = export_image(here, two.image_id, part, since=one.image_id)
    assert sent.objects == len(set(two.objects()) - set(one.objects()))
    with pytest.raises(BundleError, match=f"import image {one.image_id[:12]} first"):
        import_image(there, part)
    assert there.store.manifests() == []
    assert there.tags() == {}
    import_image(there, whole)
    import_image(there, part)
    assert there.store.verify(two.objects()) == []


def test_an_exported_image_is_kept(here: Catalog, tmp_path: Path) -> None:
    manifest = keep(here, V1)
    export_image(here, manifest.image_id, str(tmp_path / "file"))
    here.untag("latest")
    here.collect()
    assert here.store.manifests() == [manifest.image_id]


def test_export_fails_whole(here: Catalog, tmp_path: Path) -> None:
    manifest = keep(here, V1)
    path = tmp_path / "shop.wain"
    path.write_text("the old one")
    victim = next(iter(manifest.objects()))
    name = here.store.object_path(*victim)
    os.chmod(name, 0o644)
    Path(name).write_bytes(b"changed")
    with pytest.raises(WainError, match="changed"):
        export_image(here, manifest.image_id, str(path))
    assert path.read_text() == "the old one"
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    with pytest.raises(WainError):
        export_image(here, manifest.image_id, str(tmp_path / "no" / "folder"))


# Damage


def untouched(there: Catalog) -> None:
    """Nothing of a refused file is visible; objects that were right may lie there, unused."""
    assert there.store.manifests() == []
    assert there.store.verify() == []
    assert there.tags() == {}


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_cut_short(here: Catalog, there: Catalog, tmp_path: Path, share: float) -> None:
    path = tmp_path / "file"
    export_image(here, keep(here, V1).image_id, str(path))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BundleError, match="file"):
        import_image(there, str(path))
    untouched(there)


def test_a_bit_flipped_anywhere(
    here: Catalog, there: Catalog, tmp_path: Path,
    sample: Callable[[range, int], range],
) -> None:  # fmt: skip
    path = tmp_path / "file"
    image = keep(here, V1).image_id
    export_image(here, image, str(path))
    data = path.read_bytes()
    for at in sample(range(10, len(data)), 40):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(WainError, match="file"):
            import_image(there, str(path))
        untouched(there)


Change = Callable[[dict[str, bytes]], dict[str, bytes]]


def repacked(path: Path, change: Change) -> None:
    members = {}
    with tarfile.open(path) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            members[member.name] = stream.read()
    with gzip.open(path, "wb") as packed, tarfile.open(mode="w|", fileobj=packed) as tar:
        for name, data in change(members).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _header(**changes: object) -> Change:
    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        header = json.loads(members["wain-bundle"]) | changes
        return {**members, "wain-bundle": json.dumps(header).encode()}

    return change


def _first_object(members: dict[str, bytes]) -> str:
    return next(name for name in members if name.startswith("objects/"))


def _swap(members: dict[str, bytes]) -> dict[str, bytes]:
    name = _first_object(members)
    return {**members, name: members[name][::-1] if len(members[name]) > 1 else b"?"}


def _longer(members: dict[str, bytes]) -> dict[str, bytes]:
    name = _first_object(members)
    return {**members, name: members[name] + b"?"}


def _missing(members: dict[str, bytes]) -> dict[str, bytes]:
    gone = _first_object(members)
    return {name: data for name, data in members.items() if name != gone}


def _document(**changes: object) -> Change:
    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        document = json.loads(members["image.json"]) | changes
        return {**members, "image.json": json.dumps(document).encode()}

    return change


def _package(**changes: str) -> Change:
    """Another claim about the first package."""

    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        first, *others = json.loads(members["image.json"])["packages"]
        return _document(packages=[first | changes, *others])(members)

    return change


def _unlisted(members: dict[str, bytes]) -> dict[str, bytes]:
    return _document(packages=json.loads(members["image.json"])["packages"][1:])(members)


def _twice(members: dict[str, bytes]) -> dict[str, bytes]:
    packages = json.loads(members["image.json"])["packages"]
    return _document(packages=[*packages, packages[0]])(members)


def _target(**changes: str) -> Change:
    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        target = json.loads(members["image.json"])["target"] | changes
        return _document(target=target)(members)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_package(version="1.0.1"), "alpha is '1.0', not '1.0.1'"),
        (_package(files="0" * 64), "files of 'alpha' are others"),
        (_package(name="other"), "does not list alpha"),
        (_unlisted, "does not list alpha"),
        (_twice, "a package twice"),
        (_target(platform="manylinux_2_17_riscv64"), "its target is"),
        (_target(name="../x"), "its target '../x' cannot be one"),
        (_document(name="a\x1b[2J"), "its name 'a.x1b.2J' cannot be one"),
        (_document(aliases=["a b"]), "its name 'a b' cannot be one"),
        (lambda members: {**members, "image.json": b"[" * 100_000}, "nested without an end"),
        (_header(format=2), "format 2"),
        (_header(image="0" * 64), "its manifest is"),
        (_header(tag="../x"), "cannot be a tag"),
        (_header(since=7), "no since"),
        (_document(id="0" * 64), "its document"),
        (_document(format=3), "format 3"),
        (_swap, "is damaged: object"),
        (_longer, "another size"),
        (_missing, "in neither"),
        (lambda members: {**members, "../../evil": b"x"}, "which the image does not"),
        (lambda members: {**members, "objects/" + "0" * 64: b"x"}, "which the image does not"),
        (lambda members: {"manifest": b"", **members}, "no bundle"),
        (lambda members: {**members, "manifest": b"wain-manifest 9\n"}, "format 9"),
        (lambda members: {**members, "signatures/f.json": b"{"}, "cannot be read"),
        (lambda members: {}, "no bundle"),
    ],
)
def test_altered(here: Catalog, there: Catalog, tmp_path: Path, change: Change, says: str) -> None:
    path = tmp_path / "file"
    export_image(here, keep(here, V1).image_id, str(path))
    repacked(path, change)
    with pytest.raises(WainError, match=says) as caught:
        import_image(there, str(path))
    assert "\n" not in str(caught.value)
    assert there.tags() == {}
    assert there.store.manifests() == []


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"PK\3\4", gzip.compress(b"hello" * 200, mtime=0)],
    ids=["nothing", "text", "zip", "gzip"],
)
def test_what_is_no_bundle(there: Catalog, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(BundleError, match="bundle"):
        import_image(there, str(tmp_path / "file"))
    with pytest.raises(BundleError, match="No such file"):
        import_image(there, str(tmp_path / "absent"))


@pytest.mark.root
def test_what_does_not_fit_is_not_begun(here: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "file"
    big = [Made("alpha", "1.0", {"alpha.py": b"x" * (4 << 20)})]
    export_image(here, keep(here, big).image_id, str(path))
    with mounts.tmpfs(tmp_path, "size=2m") as disk:
        there = Catalog(Store(str(disk / "store")), str(tmp_path))
        with pytest.raises(BundleError, match=r"unpacks to \d+ bytes, \d+ are free"):
            import_image(there, str(path))
        assert list(there.store.keys()) == []


def test_a_header_is_not_read_into_memory_whatever_its_size(there: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "bomb.wain"
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 256 << 20
    with gzip.open(path, "wb", 1) as packed:
        packed.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(256):
            packed.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="endless data"):
            import_image(there, str(path))
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
