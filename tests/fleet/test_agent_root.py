"""Roots an agent refuses, before anything is written."""

from __future__ import annotations

import ast
import grp
import os
from pathlib import Path

import pytest

from fleet.session import HostError
from images import private
from images.manifest import Manifest
from tests.support.hosts import Host


def refused(host: Host) -> str:
    with pytest.raises(HostError) as caught:
        host.open()
    assert caught.value.kind == "root"
    assert "h1: " in str(caught.value)
    return str(caught.value)


@pytest.mark.row("V3")
@pytest.mark.parametrize(
    "root",
    ["/", "/usr", "/opt", "/usr/local", "/var/tmp", "app", "./app", "/srv/../app", "/srv//app", ""],
)
def test_a_place_of_the_system_or_no_plain_path(host: Host, root: str) -> None:
    host.root = root
    assert "root " in refused(host)


@pytest.mark.row("P3")
def test_writable_by_everybody(host: Host) -> None:
    Path(host.root).mkdir()
    Path(host.root).chmod(0o777)
    assert f"{host.root} is writable by everybody (uid {os.geteuid()})" in refused(host)
    assert os.listdir(host.root) == []


@pytest.mark.row("P3")
@pytest.mark.root
def test_writable_by_a_group(host: Host, old: Manifest) -> None:
    """One the owner is alone in is nobody else's; any other is."""
    host.deploy(old)
    root = Path(host.root)
    for place in (root, root.parent, root / "agent"):
        place.chmod(0o2775)
        host.open().close()  # root's own group
        os.chown(place, 0, 4711)
        said = refused(host)
        assert "group 4711" in said or f"{place} (uid 0) is a link, or others may write" in said
        os.chown(place, 0, grp.getgrnam("nogroup").gr_gid)
        assert str(place) in refused(host)
        os.chown(place, 0, 0)
        place.chmod(0o755)


def test_one_rule_for_who_may_write() -> None:
    """The first stage cannot import it, so it has a copy."""
    rooms = Path(private.__file__).parent.parent
    rules = set()
    for name in ("images/private.py", "fleet/agent_first.py"):
        for node in ast.walk(ast.parse((rooms / name).read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "open_to":
                rules.add("\n".join(ast.unparse(line) for line in node.body[1:]))
    assert len(rules) == 1


@pytest.mark.row("P3")
def test_below_a_folder_everybody_may_write(host: Host) -> None:
    Path(host.root).parent.chmod(0o777)
    assert f"{Path(host.root).parent} is writable by everybody" in refused(host)
    Path(host.root).parent.chmod(0o1777)  # as /tmp: nobody can replace what is not theirs
    host.open().close()


@pytest.mark.row("P1")
@pytest.mark.root
def test_of_another_owner(host: Host) -> None:
    Path(host.root).mkdir()
    os.chown(host.root, 4711, -1)
    assert f"{host.root} belongs to uid 4711, this session is uid 0" in refused(host)
    os.chown(host.root, 0, -1)
    os.chown(Path(host.root).parent, 4711, -1)
    assert "above the root, belongs to uid 4711" in refused(host)


@pytest.mark.row("P3")
def test_no_folder(host: Host) -> None:
    Path(host.root).write_text("")
    assert f"{host.root} is no folder" in refused(host)


def test_a_link_is_followed_and_checked_where_it_leads(host: Host, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o755)
    Path(host.root).symlink_to(tmp_path / "real")
    with host.open() as session:
        assert session.facts.root == str(tmp_path / "real")
    (tmp_path / "real").chmod(0o777)
    assert "writable by everybody" in refused(host)


@pytest.mark.row("P2")
@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_modes_do_not_depend_on_the_umask(host: Host, old: Manifest, umask: int) -> None:
    before = os.umask(umask)
    try:
        host.deploy(old)
    finally:
        os.umask(before)
    wrong = []
    for folder, _, names in os.walk(host.root):
        wrong += [folder] if os.stat(folder).st_mode & 0o777 != 0o755 else []
        for name in names:
            mode = os.lstat(f"{folder}/{name}").st_mode & 0o777
            if name in ("state.json", "history.jsonl"):
                wrong += [name] if mode != 0o600 else []
            elif mode not in (0o444, 0o555, 0o644, 0o755, 0o777):
                wrong.append(f"{folder}/{name}")
    assert wrong == []


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("format", "wain-store 2\n", "'wain-store 2' found, expected wain-store 1"),
        ("state.json", '{"format": 2}', "format '2' found, this wain reads 1"),
        ("state.json", '{"format": 0}', "format '0' found"),
        ("state.json", '{"for', "is damaged"),
        ("state.json", '{"format": 1, "generation": "x"}', "a wrong value for generation"),
    ],
)
def test_files_of_another_format(
    host: Host, old: Manifest, file: str, text: str, what: str
) -> None:
    host.deploy(old)
    Path(host.root, file).write_text(text)
    with pytest.raises(HostError, match=what) as caught:
        host.open()
    assert caught.value.kind == "format"
    assert host.current == old.image_id


@pytest.mark.row("P3", "M3")
def test_a_link_in_the_place_of_a_folder(host: Host, tmp_path: Path) -> None:
    Path(host.root).mkdir()
    for name in ("agent", "objects", "releases"):
        place = Path(host.root, name)
        place.symlink_to(tmp_path)
        assert f"{place} (uid {os.geteuid()}) is a link" in refused(host)
        place.unlink()
        place.mkdir()
        place.chmod(0o777)
        assert f"{place} (uid {os.geteuid()}) is a link, or others may write" in refused(host)
        place.rmdir()


@pytest.mark.row("P1")
@pytest.mark.root
def test_a_planted_agent_folder(host: Host) -> None:
    planted = Path(host.root, "agent")
    planted.mkdir(parents=True)
    os.chown(planted, 4711, -1)
    assert f"{planted} (uid 4711)" in refused(host)
    assert os.listdir(planted) == []


@pytest.mark.row("V3")
def test_a_root_of_another_application(host: Host, old: Manifest, new: Manifest) -> None:
    with host.open() as session:
        missing = session.begin(old, name="shop")
        session.send_pack(host.packs.get(old, missing).pieces())
        assert session.facts.state.name == ""
        session.checkout(old.image_id)
    with host.open() as session:
        assert session.facts.state.name == "shop"
        with pytest.raises(HostError, match="is the root of 'shop', this is 'blog'") as caught:
            session.begin(new, name="blog")
        assert caught.value.kind == "root"
        assert session.adopt(["shop"]) == ""
        assert session.adopt(["blog"]) == "the root of 'shop'"
        session.begin(new, name="blog")
    assert not Path(host.root, "manifests", new.image_id).exists()
