"""Locks that lie in a wheelhouse, and who may remove files from it when."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.wheels import make_wheel
from wheelhouse.entry import Entry
from wheelhouse.errors import InUseError
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock, LockedFile, LockedPackage, read_lock
from wheelhouse.target import Target


def lock_of(*entries: Entry) -> Lock:
    return Lock(
        Target.running(),
        tuple(
            LockedPackage(e.name, str(e.version), LockedFile(e.filename, e.sha256, e.size))
            for e in entries
        ),
    )


def test_a_lock_beside_its_files(tmp_path: Path, house: Wheelhouse) -> None:
    demo = house.add(make_wheel(tmp_path, "demo"))
    path = house.write_lock(lock_of(demo), "shop-prod")
    assert path == house.folder / "pylock.shop-prod.toml"
    wheel = tomllib.loads(path.read_text())["packages"][0]["wheels"][0]
    assert wheel == {"path": demo.filename, "size": demo.size, "hashes": {"sha256": demo.sha256}}
    assert read_lock(path) == lock_of(demo)
    before = path.stat()
    assert house.write_lock(lock_of(demo), "shop-prod") == path
    assert path.stat().st_ino == before.st_ino
    # One that somebody changed is written anew, and so is one for other files.
    text = path.read_text()
    path.write_text(text.replace("1.0", "1.1"))
    house.write_lock(lock_of(demo), "shop-prod")
    assert path.read_text() == text
    house.write_lock(lock_of(), "shop-prod")
    assert read_lock(path) == lock_of()
    house.write_lock(lock_of(demo), "shop-prod")
    assert path.read_text() == text
    assert list((house.folder / ".staging").iterdir()) == []
    assert house.verify() == ()


def test_verify_looks_at_locks(tmp_path: Path, house: Wheelhouse) -> None:
    demo, other = (house.add(make_wheel(tmp_path, name)) for name in ("demo", "other"))
    house.write_lock(lock_of(demo, other), "good")
    house.write_lock(lock_of(demo), "gone")
    text = house.write_lock(lock_of(other), "bent").read_text()
    (house.folder / "pylock.bent.toml").write_text(text.replace(other.sha256, "0" * 64))
    gone = house.folder / "pylock.gone.toml"
    gone.write_text(gone.read_text().replace("-1.0-", "-2.0-").replace('"1.0"\n\n', '"2.0"\n\n'))
    (house.folder / "pylock.cut.toml").write_text("lock-version = ")
    found = {(p.file, p.what): p.detail for p in house.verify()}
    assert set(found) == {
        ("pylock.bent.toml", "lock"), ("pylock.cut.toml", "lock"), ("pylock.gone.toml", "lock"),
    }  # fmt: skip
    assert "another sha256" in found["pylock.bent.toml", "lock"]
    assert "is not TOML" in found["pylock.cut.toml", "lock"]
    assert "names demo-2.0" in found["pylock.gone.toml", "lock"]


def test_a_lock_goes_with_a_file_it_names(tmp_path: Path, house: Wheelhouse) -> None:
    demo, other = (house.add(make_wheel(tmp_path, name)) for name in ("demo", "other"))
    house.write_lock(lock_of(demo), "stays")
    house.write_lock(lock_of(demo, other), "goes")
    with house.alone():
        house.prune({demo.filename})
    assert [path.name for path in house.folder.glob("*.toml")] == ["pylock.stays.toml"]
    assert house.verify() == ()


_USER = """
import sys
from wheelhouse.index import Wheelhouse
with Wheelhouse(sys.argv[1]).in_use():
    print("in", flush=True)
    sys.stdin.read()
"""


def test_nobody_removes_what_another_process_needs(tmp_path: Path, house: Wheelhouse) -> None:
    house.add(make_wheel(tmp_path, "demo"))
    command = [sys.executable, "-c", _USER, str(house.folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as user:  # fmt: skip
        assert user.stdout is not None
        assert user.stdout.readline() == "in\n"
        with house.in_use(), pytest.raises(InUseError) as caught, house.alone():
            pass
        assert f"in use by process {user.pid} since " in str(caught.value)
        assert caught.value.exit_code == 6
        # A process that dies lets go.
        user.kill()
    with house.alone():
        house.prune(())
    assert house.files() == ()


def test_what_is_not_there_is_in_nobodys_use(tmp_path: Path) -> None:
    with Wheelhouse(tmp_path / "none").alone():
        pass
    assert not (tmp_path / "none").exists()
