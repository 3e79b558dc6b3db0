"""Locks: what is written is read back, and anything the specification allows is read."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.pylock import Pylock

from tests.support.wheels import make_wheel
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import (
    Lock,
    LockedFile,
    LockedPackage,
    LockError,
    lock_bytes,
    lock_digest,
    parse_lock,
    read_lock,
    write_lock,
)
from wheelhouse.target import MarkerError, Target

PROD = Target("prod", "3.12", "manylinux_2_28_x86_64")
PLACE = Path("/project/locks/pylock.prod.toml")
HOUSE = Path("/project/.wain/wheelhouse")

names = st.from_regex(r"[a-z]([a-z0-9]|-[a-z0-9]){0,9}", fullmatch=True)
versions = st.builds(
    lambda epoch, release, tail: f"{epoch}{'.'.join(map(str, release))}{tail}",
    st.sampled_from(["", "1!"]),
    st.lists(st.integers(0, 300), min_size=1, max_size=4),
    st.sampled_from(["", "rc1", ".post2", ".dev3", "+local.7", "a0.post1.dev2"]),
)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
moments = st.none() | st.datetimes(
    dt.datetime(2000, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)
)
tag_names = st.sampled_from(
    [
        "py3-none-any",
        "py2.py3-none-any",
        "cp312-cp312-manylinux_2_17_x86_64",
        "cp38-abi3-manylinux_2_28_x86_64",
    ]
)


@st.composite
def packages(draw: st.DrawFn) -> LockedPackage:
    name, version = draw(names), draw(versions)
    stem = f"{name.replace('-', '_')}-{version}"
    wheel = draw(st.booleans())
    build = draw(st.sampled_from(["", "-1", "-2_abc"]))
    url = draw(st.none() | st.just("https://files.example/x%20y/pkg.whl"))
    return LockedPackage(
        name=name,
        version=version,
        file=LockedFile(
            filename=f"{stem}{build}-{draw(tag_names)}.whl" if wheel else f"{stem}.tar.gz",
            sha256=draw(digests),
            size=draw(st.none() | st.integers(0, 2**40)),
            upload_time=draw(moments),
            url=url if wheel else None,
        ),
        kind="wheel" if wheel else "sdist",
        requires_python=draw(st.sampled_from([None, ">=3.8", ">=3.8,!=3.9.1,<4", "~=3.12"])),
        direct=draw(st.booleans()),
    )


locks = st.builds(
    Lock,
    target=st.just(PROD)
    | st.just(Target("edge", "3.12", "manylinux_2_34_x86_64", "3.12.9", local_wheels=True)),
    packages=st.lists(packages(), max_size=8, unique_by=lambda p: p.name).map(tuple),
    inputs_digest=digests | st.just(""),
)


def without_urls(lock: Lock) -> Lock:
    def plain(package: LockedPackage) -> LockedPackage:
        file = package.file
        stripped = LockedFile(file.filename, file.sha256, file.size, file.upload_time)
        return LockedPackage(
            package.name, package.version, stripped, package.kind, package.requires_python,
            package.direct,
        )  # fmt: skip

    return Lock(lock.target, tuple(map(plain, lock.packages)), lock.inputs_digest)


@given(locks)
def test_a_lock_is_read_back_as_it_was_written(lock: Lock) -> None:
    data = lock_bytes(lock, PLACE, HOUSE)
    assert parse_lock(data, PLACE) == without_urls(lock)
    assert parse_lock(lock_bytes(lock, PLACE, HOUSE, urls=True), PLACE) == lock
    assert lock_bytes(parse_lock(data, PLACE), PLACE, HOUSE) == data
    assert lock_digest(parse_lock(data, PLACE)) == lock_digest(lock)
    Pylock.from_dict(tomllib.loads(data.decode()))


def small(**changes: object) -> Lock:
    file = LockedFile(
        "six-1.17.0-py2.py3-none-any.whl", "a" * 64, 12,
        url="https://bob:secret@files.example/six.whl",
    )  # fmt: skip
    fields: dict[str, object] = {"name": "six", "version": "1.17.0", "file": file, **changes}
    return Lock(PROD, (LockedPackage(**fields),), "f" * 64)  # type: ignore[arg-type]


def test_what_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "pylock.prod.toml"
    house = tmp_path / ".wain" / "wheelhouse"
    assert write_lock(small(), path, house)
    assert not write_lock(small(), path, house)
    document = tomllib.loads(path.read_text())
    assert document["lock-version"] == "1.0"
    assert document["created-by"] == "wainwright"
    assert document["extras"] == document["dependency-groups"] == []
    assert document["requires-python"] == "==3.12.*"
    (package,) = document["packages"]
    (wheel,) = package["wheels"]
    assert wheel == {
        "path": "../.wain/wheelhouse/six-1.17.0-py2.py3-none-any.whl",
        "size": 12,
        "hashes": {"sha256": "a" * 64},
    }
    assert "http" not in path.read_text()
    assert os.listdir(path.parent) == [path.name]


def test_urls_are_written_without_credentials(tmp_path: Path) -> None:
    path = tmp_path / "pylock.prod.toml"
    write_lock(small(), path, tmp_path, urls=True)
    assert "https://files.example/six.whl" in path.read_text()
    assert "secret" not in path.read_text()


def test_a_wheelhouse_behind_a_link_is_named_by_the_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "wheels").symlink_to(tmp_path / "elsewhere")
    path = tmp_path / "project" / "pylock.toml"
    write_lock(small(), path, tmp_path / "project" / "wheels")
    assert 'path = "wheels/six' in path.read_text()


def test_the_digest_is_of_the_decision_alone() -> None:
    base = small()
    moved = without_urls(base)
    assert lock_digest(base) == lock_digest(moved)
    assert lock_digest(base) != lock_digest(small(version="1.16.0"))
    other = Lock(Target("prod", "3.11", PROD.platform), base.packages)
    assert lock_digest(base) != lock_digest(other)


@pytest.mark.parametrize("name", ["lock.toml", "pylock.a.b.toml", "pylock.prod.json"])
def test_names_that_are_no_locks(name: str, tmp_path: Path) -> None:
    with pytest.raises(LockError, match="no name for a lock"):
        write_lock(small(), tmp_path / name, tmp_path)


# --- locks of other tools --------------------------------------------------------------------

HEAD = 'lock-version = "1.0"\ncreated-by = "other"\n'
SHA = 'hashes = {sha256 = "' + "a" * 64 + '"}'


def read(text: str, target: Target = PROD) -> Lock:
    return parse_lock((HEAD + text).encode(), PLACE, target)


def test_the_best_wheel_is_taken_and_the_higher_build() -> None:
    files = [
        "a-1-py3-none-any.whl",
        "a-1-cp312-cp312-manylinux_2_17_x86_64.whl",
        "a-1-1-cp312-cp312-manylinux_2_28_x86_64.whl",
        "a-1-10-cp312-cp312-manylinux_2_28_x86_64.whl",
        "a-1-2-cp312-cp312-manylinux_2_28_x86_64.whl",
        "a-1-cp312-cp312-manylinux_2_28_x86_64.whl",
        "a-1-99-cp312-cp312-manylinux_2_28_aarch64.whl",
        "a-1-99-cp312-cp312-linux_x86_64.whl",
    ]
    entries = "".join(f'[[packages.wheels]]\nurl = "https://x/{f}"\n{SHA}\n' for f in files)
    lock = read(f'[[packages]]\nname = "a"\nversion = "1"\n{entries}')
    assert lock.packages[0].file.filename == files[3]
    older = Target("t", "3.12", "manylinux_2_20_x86_64")
    lock = read(f'[[packages]]\nname = "a"\nversion = "1"\n{entries}', older)
    assert lock.packages[0].file.filename == files[1]


def test_markers_are_of_the_target() -> None:
    def package(name: str, marker: str) -> str:
        wheel = f'[[packages.wheels]]\nurl = "https://x/{name}-1-py3-none-any.whl"\n{SHA}\n'
        return f'[[packages]]\nname = "{name}"\nmarker = "{marker}"\n{wheel}'

    text = "".join(
        package(name, marker)
        for name, marker in [
            ("arm", "platform_machine == 'aarch64'"),
            ("intel", "platform_machine == 'x86_64'"),
            ("win", "sys_platform == 'win32'"),
            ("old", "python_full_version < '3.12.0'"),
            ("pypy", "platform_python_implementation == 'PyPy'"),
            ("group", "'dev' in dependency_groups"),
        ]
    )
    assert [p.name for p in read(text).packages] == ["intel"]
    arm = Target("t", "3.11", "manylinux_2_28_aarch64", "3.11.7")
    assert [p.name for p in read(text, arm).packages] == ["arm", "old"]
    with pytest.raises(MarkerError, match=r"packages\[0\]\.marker: .*platform_release"):
        read(package("k", "platform_release > '5'"))


WHEEL = f'[[packages.wheels]]\npath = "a-1-py3-none-any.whl"\n{SHA}\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lock-version = ", "is not TOML"),
        ("\xff", "is not UTF-8 at byte"),
        ('lock-version = "2.0"\ncreated-by = "x"\npackages = []', "lock-version: "),
        (HEAD, "packages: Missing required value"),
        (HEAD + f'[[packages]]\nname = "A"\n{WHEEL}', "packages[0].name: "),
        (HEAD + '[[packages]]\nname = "a"\n', "packages[0]: "),
        (HEAD + f'[[packages]]\nname = "a"\nversion = 1\n{WHEEL}', "packages[0].version: "),
        (HEAD + f'[[packages]]\nname = "b"\n{WHEEL}', "packages[0].wheels[0]: "),
        (
            HEAD + f'[[packages]]\nname = "a"\nversion = "2"\n{WHEEL}',
            "not consistent with package version",
        ),
        (
            HEAD + '[[packages]]\nname = "a"\n[[packages.wheels]]\npath = "a-1-py3-none-any.whl"\n',
            "packages[0].wheels[0].hashes: ",
        ),
        (
            HEAD + '[[packages]]\nname = "a"\n[[packages.wheels]]\npath = "a-1-py3-none-any.whl"\n'
            'hashes = {sha512 = "00"}\n',
            "packages.a.hashes: sha256 of 'a-1-py3-none-any.whl' is ''",
        ),
        (
            HEAD + '[[packages]]\nname = "a"\n[[packages.wheels]]\npath = "a-1-py3-none-any.whl"\n'
            'hashes = {sha256 = "xyz"}\n',
            "expected 64 hex digits",
        ),
        (HEAD + f'requires-python = "<3.10"\n[[packages]]\nname = "a"\n{WHEEL}', "'<3.10'"),
        (
            HEAD + f'[[packages]]\nname = "a"\nrequires-python = ">3.13"\n{WHEEL}',
            "packages[0]",
        ),
        (
            HEAD
            + f'environments = ["sys_platform == \'win32\'"]\n[[packages]]\nname = "a"\n{WHEEL}',
            "environments",
        ),
        (HEAD + f'[[packages]]\nname = "a"\n{WHEEL}' * 2, "Multiple packages"),
        (
            HEAD + '[[packages]]\nname = "a"\n[packages.vcs]\ntype = "git"\nurl = "https://x/a"\n'
            'commit-id = "0"\n',
            "packages[0]: 'a' comes from a vcs",
        ),
        (HEAD + '[[packages]]\nname = "a"\ndirectory = {path = "."}\n', "comes from a directory"),
        (
            HEAD + f'[[packages]]\nname = "a"\n'
            f'[[packages.wheels]]\npath = "a-1-cp311-cp311-win32.whl"\n{SHA}\n',
            "No wheel found",
        ),
        (
            HEAD + "packages = []\n[tool.wainwright]\ntarget = 7\n",
            "tool.wainwright.target: is '7', expected a table",
        ),
        (
            HEAD + 'packages = []\n[tool.wainwright.target]\nname = "x"\n',
            "must give name, python, platform",
        ),
        (
            HEAD + 'packages = []\n[tool.wainwright.target]\nname = "x"\npython = "4"\n'
            'platform = "y"\npython-full-version = "4.1"\n',
            "tool.wainwright.target: python is '4'",
        ),
    ],
)
def test_bad_locks_are_one_line_with_the_key(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "pylock.bad.toml"
    path.write_bytes(text.encode("latin-1"))
    target = None if "tool.wainwright" in text else PROD
    with pytest.raises(LockError) as caught:
        read_lock(path, target)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert message.isprintable()


def test_a_missing_lock(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="cannot be read: No such file"):
        read_lock(tmp_path / "pylock.toml")


# --- pip and uv install from it --------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a wheelhouse and a lock of two wheels for this interpreter."""
    house = Wheelhouse(tmp_path / ".wain" / "wheelhouse")
    (tmp_path / "in").mkdir()
    one = house.add(make_wheel(tmp_path / "in", "demo-one", "1.0", requires=["demo-two"]))
    two = house.add(make_wheel(tmp_path / "in", "demo-two", "2.0"))
    lock = Lock(
        Target.running(),
        tuple(
            LockedPackage(e.name, str(e.version), LockedFile(e.filename, e.sha256, e.size))
            for e in (one, two)
        ),
    )
    write_lock(lock, tmp_path / "locks" / "pylock.default.toml", house.folder)
    return tmp_path


def versions_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.dist-info"))


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_other_tools_install_from_the_lock(tool: str, project: Path, tmp_path: Path) -> None:
    where = tmp_path / "installed"
    lock = str(project / "locks" / "pylock.default.toml")
    if tool == "pip":
        command = ["pip", "install", "--no-index", "-q", "--target", str(where), "-r", lock]
    else:
        pytest.importorskip("uv")
        python = ["--python", sys.executable, "--no-cache"]
        command = ["uv", "pip", "sync", "--offline", *python, "--target", str(where), lock]
    result = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert versions_in(where) == ["demo_one-1.0.dist-info", "demo_two-2.0.dist-info"]


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_a_changed_wheel_is_refused_by_them(tool: str, project: Path, tmp_path: Path) -> None:
    wheel = next((project / ".wain" / "wheelhouse").glob("demo_one*.whl"))
    make_wheel(wheel.parent, "demo-one", "1.0", files={"demo_one/__init__.py": b"evil = 1\n"})
    where = tmp_path / "installed"
    lock = str(project / "locks" / "pylock.default.toml")
    if tool == "pip":
        command = ["pip", "install", "--no-index", "-q", "--target", str(where), "-r", lock]
    else:
        pytest.importorskip("uv")
        python = ["--python", sys.executable, "--no-cache"]
        command = ["uv", "pip", "sync", "--offline", *python, "--target", str(where), lock]
    result = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=120
    )
    assert result.returncode != 0
