from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import images.worklist
from images.catalog import Catalog
from images.environment import image_header, recreate
from images.interpreter import running_interpreter
from images.layout import SuspectError
from images.manifest import Entry, Manifest
from images.store import Store, object_name
from images.worklist import WORK_LISTS, WorkList
from tests.support.made_images import make_image, module, regular

HERE = running_interpreter()[1]
NAMES = st.text("abc d", min_size=1, max_size=3).filter(lambda name: name.strip() == name)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)


def manifest_of(paths: set[str]) -> Manifest:
    # No path may be a folder of another.
    leaves = [p for p in sorted(paths) if not any(o.startswith(f"{p}/") for o in paths)]
    entries = []
    for number, path in enumerate(leaves):
        digest = hashlib.sha256(path.encode()).hexdigest()
        kind = ("file", "file", "file", "script", "link")[number % 5]
        entries.append(Entry(kind, number % 3 == 0 and kind != "link", digest, number, "a", path))
    return Manifest("3.11", "cp311", "any", "x", entries)


@settings(deadline=None)
@given(st.sets(PATHS, max_size=60), st.integers(1, 40))
def test_it_says_what_the_manifest_says(paths: set[str], limit: int) -> None:
    manifest = manifest_of(paths)
    before, images.worklist.PIECE = images.worklist.PIECE, limit
    try:
        made = WorkList.of(manifest)
    finally:
        images.worklist.PIECE = before
    read = WorkList.parse(made.to_bytes())
    assert read is not None
    assert read.to_bytes() == made.to_bytes()
    assert read.files == len(manifest.entries)
    assert read.rest == manifest.part([e for e in manifest.entries if e.kind != "file"])
    found = []
    folders = list(read.first)
    for piece in read.pieces:
        # A piece needs what was made first, and what it makes itself.
        known = {"", *read.first}
        for line in piece.split("\n"):
            if line.startswith("/"):
                assert os.path.dirname(line[1:]) in known
                known.add(line[1:])
                folders.append(line[1:])
            else:
                name, size, path = line.split(" ", 2)
                assert os.path.dirname(path) in known
                found.append((path, name, int(size)))
    assert sorted(found) == [
        (e.path, object_name(e.sha256, e.executable), e.size)
        for e in manifest.entries
        if e.kind == "file"
    ]
    assert sorted(folders) == sorted(set(folders))
    needed = {os.path.dirname(e.path) for e in manifest.entries} - {""}
    assert needed <= set(folders)


@pytest.mark.parametrize("change", [b"", b"wain-worklist 1", b"x"])
def test_a_damaged_one_is_none(change: bytes) -> None:
    data = WorkList.of(manifest_of({"a/b", "c"})).to_bytes()
    assert WorkList.parse(data) is not None
    assert WorkList.parse(data[:-1] + change) is None
    assert WorkList.parse(change) is None
    for at in range(len(data)):
        assert WorkList.parse(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None


def test_it_is_kept_and_used(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    image = make_image(store, [regular("alpha", "1.0"), module("beta", "1.0")]).image_id
    assert image_header(store, image, "thick")[1] is None
    first = recreate(store, image, str(tmp_path / "a"), HERE)
    header, work = image_header(store, image, "thick")
    assert work is not None
    assert header.python == store.manifest(image).python
    second = recreate(store, image, str(tmp_path / "b"), HERE, work=work)
    assert second.checkout == first.checkout
    assert second.files == first.files


def test_whose_the_changed_files_are_is_said_all_the_same(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    image = make_image(store, [regular("alpha", "1.0"), module("beta", "1.0")]).image_id
    recreate(store, image, str(tmp_path / "a"), HERE)
    path = next((tmp_path / "a").rglob("beta.py"))
    path.chmod(0o644)
    path.write_text("changed")
    _, work = image_header(store, image, "thick")
    assert work is not None
    with pytest.raises(SuspectError, match=r"of: .*beta") as caught:
        recreate(store, image, str(tmp_path / "b"), HERE, work=work)
    assert "beta" in caught.value.owners
    assert sorted(os.listdir(tmp_path)) == ["a", "store"]


def test_it_goes_with_its_image(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    image = make_image(store, [regular("alpha", "1.0")]).image_id
    recreate(store, image, str(tmp_path / "a"), HERE)
    catalog = Catalog(store, str(tmp_path))
    catalog.collect()
    assert image_header(store, image, "thick")[1] is not None
    shutil.rmtree(tmp_path / "a")
    catalog.collect()
    assert os.listdir(tmp_path / "store" / WORK_LISTS) == []


def test_one_that_cannot_be_kept_does_not_matter(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    (tmp_path / "store" / WORK_LISTS).write_text("")
    image = make_image(store, [regular("alpha", "1.0")]).image_id
    assert recreate(store, image, str(tmp_path / "a"), HERE).placed == "new"
