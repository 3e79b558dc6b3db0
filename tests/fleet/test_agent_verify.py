"""What a look at a release finds on its host, and what puts it right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fleet.session import HostError
from images.manifest import Manifest
from images.store import Store
from tests.support.hosts import Host
from tests.support.small_images import SITE


@pytest.mark.row("M4")
@pytest.mark.row("S2")
def test_drift_is_named_and_repaired(host: Host, old: Manifest, new: Manifest) -> None:
    host.deploy(old)
    release = Path(host.root, "releases", old.image_id)
    site = release / SITE
    (site / "filler/m00001.py").unlink()
    edited = site / "filler/m00002.py"
    edited.chmod(0o644)
    edited.write_bytes(edited.read_bytes() + b"# edited through a hard link\n")
    (site / "empty.py").chmod(0o600)
    (site / "stray.py").write_text("")
    (release / "bin/python3").unlink()
    (release / "bin/python3").write_text("")
    expected = {
        (f"{SITE}/filler/m00001.py", "missing"),
        (f"{SITE}/filler/m00002.py", "size"),
        (f"{SITE}/empty.py", "mode"),
        (f"{SITE}/stray.py", "added"),
        ("bin/python3", "type"),
    }
    with host.open() as session:
        drift = session.verify(old.image_id)
        assert {(one.path, one.what) for one in drift} == expected
        assert {one.package for one in drift} == {"app"}
        paths = [one.path for one in drift]
        missing = session.repair(old.image_id, paths)
        assert len(missing) == 1  # only what the hard link damaged
        session.send_pack(host.packs.get(old, missing).pieces())
        assert session.repair(old.image_id, paths) == []
        assert session.verify(old.image_id, deep=True) == []
        assert session.run("{release}/bin/app", 9).output == "old\n"
    assert Store(host.root).verify() == []


@pytest.mark.row("S2")
@pytest.mark.row("Z3")
def test_bytes_changed_with_the_time_put_back(host: Host, old: Manifest) -> None:
    host.deploy(old)
    edited = Path(host.root, "releases", old.image_id, SITE, "filler/m00002.py")
    status = edited.stat()
    assert status.st_nlink > 1
    edited.chmod(0o644)
    edited.write_bytes(edited.read_bytes().replace(b"2", b"9"))
    edited.chmod(0o444)
    os.utime(edited, ns=(status.st_mtime_ns, status.st_mtime_ns))
    with host.open() as session:
        assert session.verify(old.image_id) == []
        (drift,) = session.verify(old.image_id, deep=True)
        assert (drift.path, drift.what) == (f"{SITE}/filler/m00002.py", "content")
        missing = session.repair(old.image_id, [drift.path])
        assert len(missing) == 1
        session.send_pack(host.packs.get(old, missing).pieces())
        assert session.repair(old.image_id, [drift.path]) == []
        assert session.verify(old.image_id, deep=True) == []
    assert Store(host.root).verify() == []


@pytest.mark.row("M3")
def test_a_repair_does_not_leave_the_release(host: Host, old: Manifest, tmp_path: Path) -> None:
    host.deploy(old)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "keep").write_text("mine")
    release = Path(host.root, "releases", old.image_id)
    (release / SITE / "filler").rename(tmp_path / "gone")
    (release / SITE / "filler").symlink_to(victim)
    with host.open() as session:
        with pytest.raises(HostError):
            session.repair(old.image_id, ["../../outside"])
        session.repair(old.image_id, [f"{SITE}/filler/keep"])
        session.repair(old.image_id, [one.path for one in session.verify(old.image_id)])
        assert session.verify(old.image_id, deep=True) == []
    assert (victim / "keep").read_text() == "mine"
    assert list(victim.iterdir()) == [victim / "keep"]
