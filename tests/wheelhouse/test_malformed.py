"""Every malformed kind is refused by its rule, in one line, and leaves nothing behind."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from packaging.tags import Tag

from tests.support.malformed import KINDS, Kind
from tests.support.wheels import draft, make_sdist, make_wheel
from wheelhouse.index import Wheelhouse
from wheelhouse.target import Target
from wheelhouse.wheel import WheelError, check_wheel
from wheelhouse.zipcheck import Limits, Refused, read_exactly

# Low enough that a test reaches them, and that a bomb would be seen to fill the disk.
LIMITS = Limits(members=60_000, ratio_floor=1 << 20)


def snapshot(folder: Path) -> set[str]:
    return {os.path.join(root, name) for root, _, names in os.walk(folder) for name in names}


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 60
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    rules = Counter(kind.rule for kind in KINDS)
    assert set(rules) == {"W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W10", "W13"}


def test_the_wheel_they_start_from_is_good(tmp_path: Path, house: Wheelhouse) -> None:
    entry = house.add(make_wheel(tmp_path))
    assert (entry.name, str(entry.version), entry.kind) == ("demo", "1.0", "wheel")
    assert house.files() == (entry,)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, id=kind.name, marks=pytest.mark.row(kind.rule)) for kind in KINDS],
)
def test_refused_without_a_trace(kind: Kind, tmp_path: Path) -> None:
    wheel = kind.make()
    incoming = tmp_path / "in"
    incoming.mkdir()
    path = incoming / wheel.filename
    path.write_bytes(wheel.to_bytes())
    house = Wheelhouse(tmp_path / "house", limits=LIMITS)
    before = snapshot(tmp_path)

    with pytest.raises(WheelError) as caught:
        house.add(path)

    message = str(caught.value)
    assert caught.value.rule == kind.rule, message
    assert kind.says in message
    # One line that cannot drive a terminal, starting with the file and the rule.
    assert message.isascii()
    assert message.isprintable()
    assert message.split(": ")[1] == kind.rule
    assert "Traceback" not in message
    # Nothing anywhere: no file, no staging folder, no page, no note.
    own = {str(house.folder / ".meta" / name) for name in ("lock", "format")}
    assert snapshot(tmp_path) - before <= own
    assert not list((house.folder / ".staging").iterdir()) if house.folder.exists() else True
    assert house.files() == ()
    assert not (house.folder / "simple").exists()


@pytest.mark.row("W13")
def test_a_wheel_of_another_target(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, tag="cp312-cp312-manylinux_2_34_x86_64", purelib=False)
    target = Target("prod", "3.12", "manylinux_2_28_x86_64")
    with pytest.raises(
        WheelError, match=r"W13: is for cp312-cp312-manylinux_2_34_x86_64"
    ) as caught:
        check_wheel(path, target=target)
    assert "manylinux_2_28_x86_64" in str(caught.value)
    assert check_wheel(path).tags == {Tag("cp312", "cp312", "manylinux_2_34_x86_64")}


@pytest.mark.row("W8")
def test_a_bomb_is_stopped_while_it_unpacks(tmp_path: Path) -> None:
    """Declared small, holds a gigabyte: no more than the declared size is ever produced."""
    wheel = draft()
    member = wheel.add("demo/zeros", bytes(64 << 20))
    member.local["size"] = member.central["size"] = 1000
    member.packed = member.payload()
    member.data = bytes(1000)
    path = wheel.write(tmp_path)
    with pytest.raises(WheelError, match=r"W8: .* holds more"):
        check_wheel(path)


@pytest.mark.row("W8")
def test_more_than_a_wheel_may_hold(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, files={"demo/a": bytes(1000)})
    check_wheel(path, limits=Limits(total=10_000))
    with pytest.raises(WheelError, match=r"W8: declares \d+ bytes unpacked, more than 1000"):
        check_wheel(path, limits=Limits(total=1000))


def test_metadata_without_end(tmp_path: Path) -> None:
    wheel = draft()
    wheel.get("METADATA").data += bytes(33 << 20)
    with pytest.raises(WheelError, match=r"W8: .*METADATA' has \d+ bytes, more than"):
        check_wheel(wheel.write(tmp_path))


@pytest.mark.parametrize("size", [1 << 20, 6 << 20])
def test_data_after_the_stream_of_a_large_member(size: int, tmp_path: Path) -> None:
    """Large members are read in pieces: the end of the stream may lie in any of them."""
    wheel = draft()
    member = wheel.add("demo/random", random.Random(1).randbytes(size))
    member.packed = member.payload() + bytes(3 << 20)
    with pytest.raises(WheelError, match="W6: data follows the stream"):
        check_wheel(wheel.write(tmp_path))


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    path = make_wheel(tmp_path)
    with path.open("rb") as stream, pytest.raises(Refused, match="is cut off at byte"):
        read_exactly(stream.fileno(), 100, path.stat().st_size - 50)


def test_an_sdist_is_no_wheel(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match=r"W9: file name 'demo-1\.0\.tar\.gz' is no wheel's"):
        check_wheel(make_sdist(tmp_path))


@pytest.mark.parametrize(
    ("where", "says"),
    [("folder", "regular file"), ("fifo", "regular file"), ("missing", "No such file")],
)
def test_what_is_no_file(where: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    if where == "folder":
        path.mkdir()
    elif where == "fifo":
        os.mkfifo(path)
    with pytest.raises(WheelError, match=f"W6: .*{says}"):
        check_wheel(path)
