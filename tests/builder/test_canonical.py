"""A wheel's canonical form: same content, same bytes, and a wheel the strictest check takes."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.canonical import (
    WheelFormError,
    canonical_wheel,
    first_difference,
    tagged_name,
    wheel_document,
)
from wheelhouse.wheel import check_wheel

INFO = "small-1.0.dist-info"
NAME = "small-1.0-py3-none-any.whl"
BASE = {
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
    f"{INFO}/WHEEL": (
        b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ),
    f"{INFO}/RECORD": b"whatever the backend wrote",
}


def make(
    folder: Path,
    members: list[tuple[str, bytes]],
    *,
    time: tuple[int, int, int, int, int, int] = (2024, 5, 6, 7, 8, 10),
    mode: int = 0o664,
    compress: int = zipfile.ZIP_DEFLATED,
    name: str = NAME,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with zipfile.ZipFile(path, "w", compress) as wheel:
        for member, data in members:
            info = zipfile.ZipInfo(member, time)
            info.external_attr = (stat.S_IFREG | mode) << 16
            info.compress_type = compress
            wheel.writestr(info, data)
    return path


def canonical(path: Path, folder: Path, tag: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return canonical_wheel(path, folder, tag)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}\.py", fullmatch=True), st.binary(), max_size=5
    ),
    order=st.randoms(use_true_random=False),
    time=st.tuples(
        st.integers(1980, 2100), st.just(3), st.integers(1, 28), st.just(4), st.just(5), st.just(6)
    ),
    mode=st.sampled_from([0o600, 0o644, 0o664, 0o444]),
    compress=st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED]),
)
def test_packing_does_not_matter(
    tmp_path: Path,
    files: dict[str, bytes],
    order: object,
    time: tuple[int, int, int, int, int, int],
    mode: int,
    compress: int,
) -> None:
    plain = list({**files, **BASE}.items())
    shuffled = list(plain)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    one = canonical(make(tmp_path / "a", plain), tmp_path / "one")
    other = canonical(
        make(tmp_path / "b", shuffled, time=time, mode=mode, compress=compress), tmp_path / "other"
    )
    assert one.read_bytes() == other.read_bytes()
    assert first_difference(one, other) == ""
    found = check_wheel(one)
    assert {member.name for member in found.members} == {*files, *BASE}
    # Once more changes nothing.
    again = canonical(one, tmp_path / "again")
    assert again.read_bytes() == one.read_bytes()


def test_executables_stay_executable(tmp_path: Path) -> None:
    path = make(tmp_path, [("tool", b"#!x"), *BASE.items()], mode=0o775)
    with zipfile.ZipFile(canonical(path, tmp_path / "out")) as wheel:
        modes = {info.filename: info.external_attr >> 16 & 0o7777 for info in wheel.infolist()}
    assert modes.pop("tool") == 0o755
    assert modes.pop(f"{INFO}/RECORD") == 0o644
    assert modes.pop(f"{INFO}/WHEEL") == 0o644


def test_the_build_tag_is_in_the_name_and_in_wheel(tmp_path: Path) -> None:
    path = canonical(make(tmp_path, list(BASE.items())), tmp_path / "out", "1_ab12cd34")
    assert path.name == "small-1.0-1_ab12cd34-py3-none-any.whl"
    found = check_wheel(path)
    assert found.build == (1, "_ab12cd34")
    with zipfile.ZipFile(path) as wheel:
        assert b"\nBuild: 1_ab12cd34\n" in wheel.read(f"{INFO}/WHEEL")


def test_a_backends_own_build_tag_is_kept() -> None:
    assert tagged_name("a-1-3x-py3-none-any.whl", "1_ff") == "a-1-1_ff_3x-py3-none-any.whl"


def test_tags_in_wheel_are_those_of_the_name() -> None:
    text = wheel_document(
        b"Wheel-Version: 1.0\r\nTag: cp311-cp311-linux_x86_64\r\nRoot-Is-Purelib: false\r\n\r\n",
        "a-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    )
    assert text.decode().splitlines() == [
        "Wheel-Version: 1.0",
        "Root-Is-Purelib: false",
        "Tag: cp311-cp311-manylinux2014_x86_64",
        "Tag: cp311-cp311-manylinux_2_17_x86_64",
    ]


def test_compiled_files_and_signatures_are_left_out(tmp_path: Path) -> None:
    more = [
        ("small/__pycache__/a.cpython-311.pyc", b"x"),
        ("small/", b""),
        ("small/a.py", b""),
        (f"{INFO}/RECORD.jws", b"{}"),
    ]
    path = canonical(make(tmp_path, [*more, *BASE.items()]), tmp_path / "out")
    with zipfile.ZipFile(path) as wheel:
        assert wheel.namelist() == [
            "small/a.py",
            f"{INFO}/METADATA",
            f"{INFO}/WHEEL",
            f"{INFO}/RECORD",
        ]


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ([("a.py", b""), *BASE.items(), ("a.py", b"x")], "twice"),
        ([("a.py", b"")], "0 dist-info folders"),
        ([*BASE.items(), ("other-2.dist-info/METADATA", b"")], "2 dist-info folders"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_refused(tmp_path: Path, members: list[tuple[str, bytes]], what: str) -> None:
    path = make(tmp_path / "in", members)
    with pytest.raises(WheelFormError, match=what):
        canonical(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_links_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "in", list(BASE.items()))
    with zipfile.ZipFile(path, "a") as wheel:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        wheel.writestr(info, "/etc/passwd")
    with pytest.raises(WheelFormError, match="no plain file"):
        canonical(path, tmp_path / "out")


def test_garbage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"PK no zip")
    with pytest.raises(WheelFormError, match="no readable wheel"):
        canonical(path, tmp_path / "out")
    with pytest.raises(WheelFormError, match="no wheel file name"):
        canonical_wheel(tmp_path / "x.whl", tmp_path)


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    one = canonical(make(tmp_path / "a", [("b.py", b"1"), *BASE.items()]), tmp_path / "one")
    for members, said in (
        ([("b.py", b"2")], "'b.py'"),
        ([("b.py", b"1"), ("c.py", b"")], "'c.py' is only in the second"),
        ([], "'b.py' is only in the first"),
    ):
        other = canonical(make(tmp_path / "b", [*members, *BASE.items()]), tmp_path / "other")
        assert first_difference(one, other) == said
    script = canonical(
        make(tmp_path / "d", [("b.py", b"1"), *BASE.items()], mode=0o755), tmp_path / "script"
    )
    assert first_difference(one, script) == "the mode or place of 'b.py'"


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "in", [("big.py", b"\0" * 5000), *BASE.items()])
    data = path.read_bytes()
    size = (5000).to_bytes(4, "little")
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(WheelFormError):
        canonical(path, tmp_path / "out")
    assert io.BytesIO(data).read(2) == b"PK"
