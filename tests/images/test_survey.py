from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

import images.survey
from images.layout import FIXED_NS
from images.survey import _PIECES, LIST, Survey, _part, listing

FILES = [f"p{n % 7}/m{n}.py" for n in range(100)]
FOLDERS = [".", *[f"p{n}" for n in range(7)]]


@pytest.fixture(params=[True, False], ids=["copies", "alone"])
def made(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, str]:
    monkeypatch.setattr(images.survey, "can_fork", lambda: request.param)
    monkeypatch.setattr(images.survey, "cores", lambda: 3)
    return _make(tmp_path / "checkout")


def _make(root: Path) -> tuple[Path, str]:
    for name in FILES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, ns=(FIXED_NS, FIXED_NS))
    data = listing(FOLDERS, FILES, sum(map(len, FILES)), "p3")
    (root / LIST).write_bytes(data)
    for name in FOLDERS:
        os.utime(root / name, ns=(FIXED_NS, FIXED_NS))
    return root, sha256(data).hexdigest()


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 1000])
def test_the_parts_are_the_whole(count: int) -> None:
    names = [b"n" * (number % 7 + 1) for number in range(count)]
    parts = [_part(b"\n".join(names), piece) for piece in range(_PIECES)]
    assert [name for part in parts for name in part] == names


def test_what_was_made_is_whole(made: tuple[Path, str]) -> None:
    root, digest = made
    assert Survey(str(root)).is_whole(digest)


def _grow(root: Path) -> None:
    with (root / FILES[50]).open("a") as stream:
        stream.write("x")


def _same_size(root: Path) -> None:
    (root / FILES[99]).write_text(FILES[99].upper())


def _size_alone(root: Path) -> None:
    path = root / FILES[0]
    path.write_text("")
    os.utime(path, ns=(FIXED_NS, FIXED_NS))


def _lose(root: Path) -> None:
    folder = (root / FILES[3]).parent
    (root / FILES[3]).unlink()
    os.utime(folder, ns=(FIXED_NS, FIXED_NS))


def _add(root: Path) -> None:
    (root / "p6" / "stray.py").touch()


def _add_on_top(root: Path) -> None:
    (root / "stray").mkdir()


def _through_a_link(root: Path) -> None:
    twin = root.parent / "twin"
    os.link(root / FILES[7], twin)
    twin.write_text(FILES[8])


def _link_for_a_file(root: Path) -> None:
    path = root / FILES[1]
    path.rename(root.parent / "moved")
    path.symlink_to(root.parent / "moved")
    os.utime(path.parent, ns=(FIXED_NS, FIXED_NS))


def _no_list(root: Path) -> None:
    (root / LIST).unlink()


def _other_list(root: Path) -> None:
    (root / LIST).write_bytes(listing(FOLDERS, FILES[:1], len(FILES[0]), "p3"))


CHANGES = [
    *(_grow, _same_size, _size_alone, _lose, _add, _add_on_top, _through_a_link),
    *(_link_for_a_file, _no_list, _other_list),
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(made: tuple[Path, str], change: Callable[[Path], None]) -> None:
    root, digest = made
    change(root)
    assert not Survey(str(root)).is_whole(digest)


def test_another_folder_in_its_place_was_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.survey, "can_fork", lambda: True)
    root, digest = _make(tmp_path / "checkout")
    survey = Survey(str(root))
    assert survey._copies is not None
    answers = survey._copies.results()
    monkeypatch.setattr(survey._copies, "results", lambda: answers)
    root.rename(root.parent / "old")
    _make(root)
    assert not survey.is_whole(digest)


def test_a_folder_that_is_gone_is_not_whole(made: tuple[Path, str]) -> None:
    root, digest = made
    shutil.rmtree(root)
    assert not Survey(str(root)).is_whole(digest)


def test_a_checkout_of_nothing(tmp_path: Path) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    data = listing(["."], [], 0, ".")
    (root / LIST).write_bytes(data)
    os.utime(root, ns=(FIXED_NS, FIXED_NS))
    assert Survey(str(root)).is_whole(sha256(data).hexdigest())
