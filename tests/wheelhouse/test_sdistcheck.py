"""sdists are looked at whole before anything unpacks them (row W11)."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.wheels import draft, make_sdist, sdist_files, tar_bytes, tar_member, zip_bytes
from tests.wheelhouse.conftest import kept_folder
from wheelhouse.index import Wheelhouse
from wheelhouse.sdistcheck import check_sdist
from wheelhouse.wheel import WheelError
from wheelhouse.zipcheck import Limits

Member = tuple[tarfile.TarInfo, bytes]
LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
TOP = "demo-1.0"

BAD_MEMBERS: dict[str, tuple[str, list[Member]]] = {
    "dotdot": ("'..'", [tar_member("../evil", b"x")]),
    "dotdot-inside": ("'..'", [tar_member(f"{TOP}/../../evil", b"x")]),
    "absolute": ("absolute", [tar_member("/etc/evil", b"x")]),
    "second-top": ("outside the folder", [tar_member("other/evil", b"x")]),
    "beside-the-top": ("outside the folder", [tar_member("evil", b"x")]),
    "backslash": ("backslash", [tar_member(f"{TOP}\\evil", b"x")]),
    "control": (r"\x1b", [tar_member(f"{TOP}/\x1b[2J", b"x")]),
    "symlink-absolute": ("may lead outside", [tar_member(f"{TOP}/a", kind=LINK, link="/etc")]),
    "symlink-out": ("may lead outside", [tar_member(f"{TOP}/a", kind=LINK, link="../../x")]),
    "symlink-to-parent": ("may lead outside", [tar_member(f"{TOP}/a", kind=LINK, link="..")]),
    "symlink-winding": (
        "may lead outside",
        [tar_member(f"{TOP}/a/b", kind=LINK, link="c/../../../../x")],
    ),
    "symlink-empty": ("may lead outside", [tar_member(f"{TOP}/a", kind=LINK, link="")]),
    "symlink-then-write": (
        "lies under the link",
        [tar_member(f"{TOP}/a", kind=LINK, link="b"), tar_member(f"{TOP}/a/evil", b"x")],
    ),
    "symlink-through-symlink": (
        "passes another link",
        [
            tar_member(f"{TOP}/a/b", kind=LINK, link="."),
            tar_member(f"{TOP}/c", kind=LINK, link="a/b/x"),
        ],
    ),
    "symlink-over-a-file": ("twice", [tar_member(f"{TOP}/setup.py", kind=LINK, link="x")]),
    "hardlink-out": ("hard link", [tar_member(f"{TOP}/a", kind=HARD, link="../../etc/passwd")]),
    "hardlink-absolute": ("hard link", [tar_member(f"{TOP}/a", kind=HARD, link="/etc/passwd")]),
    "hardlink-to-symlink": (
        "no file before it",
        [
            tar_member(f"{TOP}/a", kind=LINK, link="b"),
            tar_member(f"{TOP}/c", kind=HARD, link=f"{TOP}/a"),
        ],
    ),
    "fifo": ("named pipe", [tar_member(f"{TOP}/a", kind=tarfile.FIFOTYPE)]),
    "char-device": ("device", [tar_member(f"{TOP}/a", kind=tarfile.CHRTYPE)]),
    "block-device": ("device", [tar_member(f"{TOP}/a", kind=tarfile.BLKTYPE)]),
    "setuid": ("set-id", [tar_member(f"{TOP}/a", b"x", mode=0o4755)]),
    "duplicate": ("twice", [tar_member(f"{TOP}/setup.py", b"evil")]),
    "file-as-folder": ("lies under the file", [tar_member(f"{TOP}/setup.py/x", b"x")]),
    "folder-over-file": ("twice", [tar_member(f"{TOP}/setup.py", kind=tarfile.DIRTYPE)]),
    "pax-size-lie": ("second size", [tar_member(f"{TOP}/a", b"x" * 600, pax={"size": "600"})]),
    "pax-path": ("'..'", [tar_member(f"{TOP}/a", b"x", pax={"path": "../evil"})]),
    "sparse": ("second size", [tar_member(f"{TOP}/a", b"", kind=tarfile.GNUTYPE_SPARSE)]),
}


def snapshot(folder: Path) -> set[str]:
    return {os.path.join(root, name) for root, _, names in os.walk(folder) for name in names}


def refused(path: Path, house: Wheelhouse, rule: str = "W11") -> str:
    before = snapshot(path.parent)
    with pytest.raises(WheelError) as caught:
        house.add(path)
    message = str(caught.value)
    assert caught.value.rule == rule, message
    assert message.startswith(f"{path.name}: {rule}: ")
    assert message.isascii()
    assert message.isprintable()
    own = {str(house.folder / ".meta" / name) for name in ("lock", "format")}
    assert snapshot(path.parent) - before <= own
    assert list((house.folder / ".staging").iterdir()) == []
    return message


def test_a_good_sdist(tmp_path: Path) -> None:
    info = check_sdist(make_sdist(tmp_path, "demo-app", "2.0"))
    assert (info.name, str(info.version), info.top) == ("demo-app", "2.0", "demo_app-2.0")
    assert info.metadata.startswith(b"Metadata-Version")


def test_inward_links_are_allowed(tmp_path: Path) -> None:
    members = [
        tar_member(f"{TOP}/docs/README", kind=LINK, link="../demo.py"),
        tar_member(f"{TOP}/lib", kind=LINK, link="docs"),
        tar_member(f"{TOP}/again.py", kind=HARD, link=f"{TOP}/demo.py"),
    ]
    check_sdist(make_sdist(tmp_path, extra=members))


def test_names_may_begin_with_a_dot_slash(tmp_path: Path) -> None:
    members = [tar_member(".", kind=tarfile.DIRTYPE)]
    members += [tar_member(f"./{TOP}/{name}", data) for name, data in sdist_files().items()]
    path = tmp_path / f"{TOP}.tar.gz"
    path.write_bytes(tar_bytes(members))
    assert check_sdist(path).top == TOP


@pytest.mark.row("W11")
@pytest.mark.parametrize("name", BAD_MEMBERS)
def test_bad_members(name: str, tmp_path: Path, house: Wheelhouse) -> None:
    says, members = BAD_MEMBERS[name]
    assert says in refused(make_sdist(tmp_path, extra=members), house)


def _until_end(data: bytes) -> bytes:
    plain = gzip.decompress(data).rstrip(b"\0")
    return plain + bytes(-len(plain) % 512)


def _broken(plain: bytes) -> bytes:
    """The header of the last member is destroyed: it and what follows would be overlooked."""
    start = plain.rindex(b"demo-1.0/demo.py")
    return plain[:start] + b"\xff" * 512 + plain[start + 512 :]


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "empty": ("gzip", lambda data: b""),
    "not-gzip": ("gzip", gzip.decompress),
    "html": ("gzip", lambda data: b"<html>404</html>"),
    "cut-off": ("damaged", lambda data: data[: len(data) // 2]),
    "tar-cut-off": ("damaged", lambda data: gzip.compress(gzip.decompress(data)[:700])),
    "bad-crc": ("damaged", lambda data: data[:-8] + bytes(4) + data[-4:]),
    "no-tar": ("damaged", lambda data: gzip.compress(b"hello" * 1000)),
    "stream-appended": ("follows", lambda data: data + gzip.compress(b"hello")),
    "zeros-appended": ("follows", lambda data: data + bytes(512)),
    "no-end-mark": ("does not end", lambda data: gzip.compress(_until_end(data))),
    "hidden-after-end": (
        "does not end",
        lambda data: gzip.compress(gzip.decompress(data) + gzip.decompress(data)),
    ),
    "broken-header": ("does not end", lambda data: gzip.compress(_broken(gzip.decompress(data)))),
    "zip-appended": ("ZIP", lambda data: data + zip_bytes([])),
    "zip-appended-with-members": ("ZIP", lambda data: data + draft().to_bytes()),
    "holds-nothing": ("nothing", lambda data: tar_bytes([])),
}


@pytest.mark.row("W11")
def test_a_file_in_place_of_the_folder(tmp_path: Path, house: Wheelhouse) -> None:
    path = tmp_path / "demo-1.0.tar.gz"
    path.write_bytes(tar_bytes([tar_member("demo-1.0", b"x")]))
    assert "outside any folder" in refused(path, house)


@pytest.mark.row("W11")
def test_a_name_that_is_not_utf8(tmp_path: Path, house: Wheelhouse) -> None:
    path = make_sdist(tmp_path)
    plain = gzip.decompress(path.read_bytes())
    info = tarfile.TarInfo("demo-1.0/caf\udce9")
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    end = len(plain.rstrip(b"\0")) // 512 * 512 + 512
    path.write_bytes(gzip.compress(plain[:end] + header + bytes(10240)))
    assert "UTF-8" in refused(path, house)


def test_pkg_info_without_end(tmp_path: Path) -> None:
    files = {**sdist_files(), "PKG-INFO": bytes(33 << 20)}
    with pytest.raises(WheelError, match=r"W8: PKG-INFO has \d+ bytes"):
        check_sdist(make_sdist(tmp_path, files=files))


@pytest.mark.row("W11")
@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_archives(name: str, tmp_path: Path, house: Wheelhouse) -> None:
    says, damage = DAMAGE[name]
    path = make_sdist(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert says in refused(path, house)


@pytest.mark.row("W11")
def test_size_in_the_extended_header_that_hides_members(tmp_path: Path, house: Wheelhouse) -> None:
    """Two readers of this archive would see different members."""
    hidden = io.BytesIO()
    with tarfile.open(fileobj=hidden, mode="w") as archive:
        info, data = tar_member(f"{TOP}/hidden.py", b"evil = 1\n")
        archive.addfile(info, io.BytesIO(data))
    cover = tar_member(f"{TOP}/cover", hidden.getvalue()[:1024], pax={"size": "0"})
    refused(make_sdist(tmp_path, extra=[cover]), house)


@pytest.mark.row("W8")
def test_a_bomb(tmp_path: Path) -> None:
    path = make_sdist(tmp_path, extra=[tar_member(f"{TOP}/zeros", bytes(8 << 20))])
    check_sdist(path)
    with pytest.raises(WheelError, match="W8: unpacks"):
        check_sdist(path, limits=Limits(ratio_floor=1 << 20))
    with pytest.raises(WheelError, match="W8: has more than 3 members"):
        check_sdist(path, limits=Limits(members=3))


@pytest.mark.row("W9")
@pytest.mark.parametrize(
    ("filename", "says"),
    [
        ("other-1.0.tar.gz", "PKG-INFO 'demo'"),
        ("demo-2.0.tar.gz", "version 2.0, PKG-INFO 1.0"),
    ],
)
def test_names_that_disagree(filename: str, says: str, tmp_path: Path, house: Wheelhouse) -> None:
    path = make_sdist(tmp_path).rename(tmp_path / filename)
    assert says in refused(path, house, "W9")


def test_without_pkg_info(tmp_path: Path, house: Wheelhouse) -> None:
    path = make_sdist(tmp_path, files={"setup.py": b""})
    assert "PKG-INFO" in refused(path, house, "W9")


def test_a_zip_is_no_sdist(tmp_path: Path, house: Wheelhouse) -> None:
    path = tmp_path / "demo-1.0.zip"
    path.write_bytes(zip_bytes([]))
    assert ".tar.gz" in refused(path, house)


@pytest.mark.index
@pytest.mark.faults
def test_real_sdists_are_accepted(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = kept_folder("sdists", pytestconfig, tmp_path_factory)
    folder.mkdir(exist_ok=True)
    names = ["docopt", "six", "pyyaml", "markupsafe", "simplejson", "psutil", "zope.interface"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    if len(list(folder.glob("*.tar.gz"))) < len(names):
        subprocess.run([*command, "-d", str(folder), *names], check=True, timeout=600)
    for path in folder.glob("*.tar.gz"):
        assert check_sdist(path).top


@pytest.mark.row("W8")
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_the_memory(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 48 << 20
    path = tmp_path / f"{TOP}.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(48 << 20), 1))
    with pytest.raises(WheelError, match="has a header of 50331648 bytes") as caught:
        check_sdist(path)
    assert caught.value.rule == "W8"
