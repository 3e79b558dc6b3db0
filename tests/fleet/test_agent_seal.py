"""A release's seal: what it notices, and which of its files deserve a closer look."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import agent_look, agent_seal
from images.manifest import Manifest, folders
from images.store import Store
from images.tree import Interpreter, checkout, scan
from tests.support.small_images import SITE, small_image

HERE = Interpreter(os.path.realpath(sys.executable), "3.11.0", sys.base_prefix)

IMAGE = "a" * 64
# A folder with many files, and one of those that translations come in.
FILES = ["bin/tool", *(f"pkg/m{n:02}.py" for n in range(30)), "pkg/locale/de/LC/app.mo"]
NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5).map("/".join)


def _write(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])


def _copy(path: Path) -> None:
    """A file of its own, as a check-out makes it where it cannot link."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o644)


def _link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("", lambda path: None),
        (f"{SITE}/app.py", _write),
        (f"{SITE}/app.py", lambda path: path.chmod(0o555)),
        (f"{SITE}/app.py", os.unlink),
        (f"{SITE}/app.py", os.utime),
        (f"{SITE}/app.py", _copy),
        (f"{SITE}/app.py", _link),
        (f"{SITE}/filler", lambda path: path.chmod(0o700)),
        (f"{SITE}/filler", shutil.rmtree),
        (f"{SITE}/filler", _link),
        ("bin", lambda path: path.chmod(0o700)),
        ("bin/app", lambda path: path.write_text("#!/bin/sh\n")),
        ("bin/python3", lambda path: (path.unlink(), path.symlink_to("sh"))),
        ("pyvenv.cfg", lambda path: path.chmod(0o444)),
    ],
)
def test_the_closer_look_finds_what_looking_at_everything_finds(
    tmp_path: Path, path: str, change: Callable[[Path], None]
) -> None:
    store = Store(str(tmp_path / "store"))
    image = small_image(store, "one")
    root = str(tmp_path / "tree")
    checkout(image, store, root, root, HERE)
    sealed, usual = agent_look.measure(root, image)
    assert sealed
    assert all(entry.kind != "file" or not entry.size for entry in usual)
    change(tmp_path / "tree" / path)
    again, doubtful = agent_look.measure(root, image)

    def look(part: Manifest) -> object:
        return scan(root, part, root, HERE, store=store, strays=False)

    assert look(image.part(doubtful)) == look(image)
    assert (again == sealed) == (not path)


@given(st.sets(NAMES, min_size=1, max_size=120))
def test_every_file_is_looked_up_once_from_the_folder_it_is_in(names: set[str]) -> None:
    # None is a folder of another: a manifest has no such pair.
    files = sorted(f"{name}/file" for name in names)
    parts, few = agent_look.parts(files)
    found = {
        number: os.path.normpath(f"{part.entered}/{name}")
        for part in parts
        for number, name in zip(part.numbers, part.files, strict=True)
    }
    assert sorted(found) == list(range(len(files)))
    assert [found[number] for number in sorted(found)] == files
    looked = [os.path.normpath(f"{part.entered}/{one}") for part in parts for one in part.folders]
    assert sorted([*looked, *few]) == sorted({".", *folders(files)})
    assert {part.entered for part in parts} <= set(looked)
    assert all(len(part.files) >= agent_look.MANY for part in parts[1:])


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A sealed release of `FILES`."""
    release = tmp_path / "releases" / IMAGE
    for name in FILES:
        path = release / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(0o444)
        os.utime(path, (315_619_200, 315_619_200))
    _seal(tmp_path, release)
    return release


def _seal(root: Path, release: Path) -> None:
    manifest: Any = SimpleNamespace(entries=[("script", *[""] * 4, name) for name in FILES])
    agent_seal.write(str(root), IMAGE, agent_look.measure(str(release), manifest)[0])


def _intact(release: Path) -> bool:
    return agent_seal.is_intact(str(release.parent.parent), IMAGE)


@pytest.mark.row("A7")
@pytest.mark.parametrize("name", ["bin/tool", "pkg/m07.py", "pkg/locale/de/LC/app.mo"])
def test_every_change_of_a_file_is_noticed(release: Path, name: str) -> None:
    path = release / name
    assert _intact(release)
    path.chmod(0o644)
    assert not _intact(release)
    with path.open("r+") as file:
        file.write("X")
    path.chmod(0o444)
    assert not _intact(release)
    _seal(release.parent.parent, release)
    assert _intact(release)
    shutil.copy2(path, release.parent / "copy")
    (release.parent / "copy").rename(path)  # the same bytes, mode and time
    assert not _intact(release)
    _seal(release.parent.parent, release)
    path.unlink()
    assert not _intact(release)


@pytest.mark.row("A7")
def test_folders_with_many_files_are_looked_at_themselves(release: Path) -> None:
    for folder in (release, release / "pkg"):
        folder.chmod(0o777)
        assert not _intact(release)
        folder.chmod(0o755)
        assert _intact(release)
    aside = release.parent / "aside"
    (release / "pkg").rename(aside)
    (release / "pkg").symlink_to(aside)
    assert not _intact(release)


@pytest.mark.row("A7")
def test_a_folder_that_was_replaced_shows_in_its_files(release: Path) -> None:
    small = release / "pkg" / "locale" / "de"
    shutil.copytree(small, release.parent / "copy")
    shutil.rmtree(small)
    small.symlink_to(release.parent / "copy")
    assert not _intact(release)


def test_the_working_folder_stays_what_it_was(release: Path) -> None:
    before = os.getcwd()
    assert _intact(release)
    (release / "pkg" / "m07.py").unlink()
    assert not _intact(release)
    assert os.getcwd() == before
