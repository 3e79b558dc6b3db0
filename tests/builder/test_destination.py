"""One wheel into the store: schemes, scripts, modes, and wheels that must be refused."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from builder import unpack as unpack_module
from builder.destination import Row, WheelContentError
from builder.unpack import Unpacked, unpack
from images.store import Store
from tests.support.handmade import make_wheel, record_row

DATA = "demo-1.0.data"
INFO = "demo-1.0.dist-info"


def ignore(row: Row, data: bytes) -> None:
    pass


def into(store: Store, path: Path, digest: str) -> Unpacked:
    with store.batch() as batch:
        return unpack(path, digest, batch, store.tmp, ignore)


def by_path(unpacked: Unpacked) -> dict[tuple[str, str], Row]:
    return {(row.scheme, row.path): row for row in unpacked.rows}


def test_every_scheme_and_mode(store: Store, tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path,
        "demo",
        {
            "demo/__init__.py": "x = 1\n",
            "demo/tool.sh": "#!/bin/sh\n",
            f"{DATA}/purelib/pure.py": "p = 1\n",
            f"{DATA}/platlib/plat.so": b"\x7fELF",
            f"{DATA}/headers/demo.h": "int x;\n",
            f"{DATA}/data/share/demo/words.txt": "words\n",
            f"{DATA}/scripts/python-script": "#!python -s\nprint(1)\n",
            f"{DATA}/scripts/window-script": "#!pythonw\nprint(2)\n",
            f"{DATA}/scripts/shell-script": "#!/bin/sh\necho 3\n",
            f"{DATA}/scripts/python3-script": "#!python3\nprint(4)\n",
        },
        executable=("demo/tool.sh",),
        entry_points="[console_scripts]\nrun = demo:main\n"
        "[gui_scripts]\nwin = demo.gui : App.main\n",
    )
    unpacked = into(store, wheel.path, wheel.sha256)
    rows = by_path(unpacked)
    assert unpacked.dist_info == INFO
    assert {place for place in rows if "dist-info" not in place[1]} == {
        ("lib", "demo/__init__.py"), ("lib", "demo/tool.sh"), ("lib", "pure.py"),
        ("lib", "plat.so"), ("headers", "demo.h"), ("data", "share/demo/words.txt"),
        ("scripts", "python-script"), ("scripts", "window-script"), ("scripts", "shell-script"),
        ("scripts", "python3-script"), ("scripts", "run"), ("scripts", "win"),
    }  # fmt: skip
    assert {name for scheme, name in rows if "dist-info" in name} == {
        f"{INFO}/METADATA", f"{INFO}/WHEEL", f"{INFO}/entry_points.txt",
    }  # fmt: skip

    def text(scheme: str, path: str) -> bytes:
        row = rows[scheme, path]
        return store.read(row.sha256, row.executable and row.kind == "file")

    assert rows["lib", "demo/tool.sh"].executable
    assert not rows["lib", "demo/__init__.py"].executable
    assert (rows["scripts", "python-script"].kind, text("scripts", "python-script")) == (
        "script",
        b"print(1)\n",
    )
    assert rows["scripts", "window-script"].kind == "script"
    for plain in ("shell-script", "python3-script"):
        row = rows["scripts", plain]
        assert (row.kind, row.executable) == ("file", True)
    assert b"from demo import main\n" in text("scripts", "run")
    assert b"from demo.gui import App\n" in text("scripts", "win")
    assert b"sys.exit(App.main())" in text("scripts", "win")


def test_what_only_an_installer_writes_is_left_out(store: Store, tmp_path: Path) -> None:
    extra = {
        f"{INFO}/INSTALLER": "evil\n",
        f"{INFO}/REQUESTED": "",
        f"{INFO}/direct_url.json": '{"url": "https://user:secret@example.org/x"}',
        f"{INFO}/RECORD.jws": "{}",
        f"{INFO}/licenses/LICENSE": "free\n",
        f"{INFO}/sboms/demo.cdx.json": "{}",
        "demo/__pycache__/x.cpython-311.pyc": b"evil",
        "demo/x.py": "",
    }
    wheel = make_wheel(tmp_path, "demo", extra, record={f"{INFO}/RECORD.jws": ""})
    names = {row.path for row in into(store, wheel.path, wheel.sha256).rows}
    assert names == {
        f"{INFO}/METADATA", f"{INFO}/WHEEL", f"{INFO}/licenses/LICENSE",
        f"{INFO}/sboms/demo.cdx.json", "demo/x.py",
    }  # fmt: skip


@pytest.mark.row("W10")
@pytest.mark.parametrize(
    "line",
    [
        "../x = demo:main", "/abs = demo:main", "a/b = demo:main", ".. = demo:main",
        "x = os:system;x", "x = os:system('rm')", "x = demo", "x = :main", "x = demo:",
        "x = 1demo:main", "a\tb = demo:main\n  evil", "back\\slash = demo:main",
    ],
)  # fmt: skip
def test_entry_points_that_are_none(store: Store, tmp_path: Path, line: str) -> None:
    wheel = make_wheel(tmp_path, "demo", {}, entry_points=f"[console_scripts]\n{line}\n")
    with pytest.raises(WheelContentError) as caught:
        into(store, wheel.path, wheel.sha256)
    assert caught.value.where == wheel.path.name
    assert "\n" not in str(caught.value)
    assert list(store.keys()) == []


def test_the_bytes_are_checked_against_the_lock(store: Store, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "demo", {"a.py": "1\n"})
    wheel.path.write_bytes(wheel.path.read_bytes() + b" ")
    with pytest.raises(WheelContentError, match="the lock says"):
        into(store, wheel.path, wheel.sha256)


@pytest.mark.parametrize("inflating", ["isal.isal_zlib", "zlib"])
def test_compressed_bytes_that_are_damaged(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inflating: str
) -> None:
    """Whoever inflates: what is broken is a refused wheel, what is not comes out the same."""
    module = pytest.importorskip(inflating)
    monkeypatch.setattr(unpack_module, "inflating", module)
    text = "".join(f"line {number * number}\n" for number in range(4000))
    wheel = make_wheel(tmp_path, "demo", {"a.py": text})
    rows = by_path(into(store, wheel.path, wheel.sha256))
    assert store.read(rows["lib", "a.py"].sha256) == text.encode()
    data = bytearray(wheel.path.read_bytes())
    start = data.index(b"a.py") + 100
    for at in range(start, start + 3000, 300):
        broken = bytes(data[:at]) + bytes([data[at] ^ 0x55]) + bytes(data[at + 1 :])
        wheel.path.write_bytes(broken)
        with pytest.raises(WheelContentError, match="is no sound wheel"):
            into(store, wheel.path, hashlib.sha256(broken).hexdigest())


def test_a_wheel_changed_while_it_is_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was hashed is what is unpacked: in memory, or from a private copy."""
    for limit in (1 << 20, 0):
        monkeypatch.setattr(unpack_module, "_IN_MEMORY", limit)
        good = make_wheel(tmp_path / str(limit), "demo", {"a.py": "good\n"})
        evil = make_wheel(tmp_path / "evil", "demo", {"a.py": "evil\n"})
        install = unpack_module.install

        def swapped(*arguments: object) -> None:
            shutil.copyfile(evil.path, good.path)  # noqa: B023
            install(*arguments)  # type: ignore[arg-type] # noqa: B023

        monkeypatch.setattr(unpack_module, "install", swapped)
        rows = by_path(into(store, good.path, good.sha256))
        assert store.read(rows["lib", "a.py"].sha256) == b"good\n"
        monkeypatch.undo()


def test_record_is_held_against_the_files(store: Store, tmp_path: Path) -> None:
    other = record_row("a.py", b"other\n")
    for rows, what in (
        ({"a.py": other}, "not what the wheel's RECORD says"),
        ({"a.py": ""}, "which RECORD lacks"),
        ({"a.py": "a.py,md5=abc,2\n"}, "not what the wheel's RECORD says"),
    ):
        wheel = make_wheel(tmp_path, "demo", {"a.py": "1\n"}, record=rows)
        with pytest.raises(WheelContentError, match=what):
            into(store, wheel.path, wheel.sha256)


def test_a_script_is_checked_before_its_first_line_goes(store: Store, tmp_path: Path) -> None:
    name = f"{DATA}/scripts/s"
    wheel = make_wheel(
        tmp_path, "demo", {name: "#!python\n1\n"}, record={name: record_row(name, b"#!python\n2\n")}
    )
    with pytest.raises(WheelContentError, match="RECORD"):
        into(store, wheel.path, wheel.sha256)


def test_large_files_go_in_pieces(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.destination._ONE_PIECE", 1000)
    files = {"big.bin": bytes(range(256)) * 40, "exact.bin": b"x" * 1000, "big.py": "# x\n" * 900}
    wheel = make_wheel(tmp_path, "demo", files)
    seen = []
    with store.batch() as batch:
        unpacked = unpack(
            wheel.path, wheel.sha256, batch, store.tmp, lambda row, data: seen.append(data)
        )
    rows = by_path(unpacked)
    for name, data in files.items():
        wanted = data if isinstance(data, bytes) else data.encode()
        assert store.read(rows["lib", name].sha256) == wanted
    assert seen == [b"# x\n" * 900]


@pytest.mark.parametrize("how", ["no zip", "cut", "twice", "no RECORD", "no WHEEL", "wheel 2"])
def test_what_is_no_wheel(store: Store, tmp_path: Path, how: str) -> None:
    wheel = make_wheel(tmp_path, "demo", {"a.py": "1\n"})
    data = wheel.path.read_bytes()
    if how == "no zip":
        wheel.path.write_bytes(b"hello")
    elif how == "cut":
        wheel.path.write_bytes(data[: len(data) // 2])
    elif how == "twice":
        with (
            zipfile.ZipFile(wheel.path, "a") as archive,
            pytest.warns(UserWarning, match="Duplicate"),
        ):
            archive.writestr("a.py", "2\n")
    else:
        with zipfile.ZipFile(wheel.path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        if how == "wheel 2":
            members[f"{INFO}/WHEEL"] = members[f"{INFO}/WHEEL"].replace(b"1.0", b"2.0", 1)
        else:
            del members[f"{INFO}/{how.split()[1]}"]
        with zipfile.ZipFile(wheel.path, "w") as archive:
            for name, member in members.items():
                archive.writestr(name, member)
    from tests.support.handmade import wheel_at

    with pytest.raises(WheelContentError) as caught:
        into(store, wheel.path, wheel_at(wheel.path).sha256)
    assert caught.value.where == wheel.path.name
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", ["_AT_ONCE", "_IN_MEMORY"])
def test_members_give_the_same_whether_inflated_at_once_or_not(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    files = {"a.py": "a = 1\n" * 500, "é.bin": bytes(range(256)) * 40, "empty.py": ""}
    wheel = make_wheel(tmp_path, "demo", files)
    at_once = into(store, wheel.path, wheel.sha256)
    monkeypatch.setattr(unpack_module, limit, -1)
    assert into(Store(str(tmp_path / "other")), wheel.path, wheel.sha256) == at_once
    for name, data in files.items():
        wanted = data if isinstance(data, bytes) else data.encode()
        assert store.read(by_path(at_once)["lib", name].sha256) == wanted


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("what", ["content", "size", "sum", "local name", "mark", "place"])
def test_a_damaged_member_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, at_once: bool
) -> None:
    """Even where the lock names the damaged bytes."""
    wheel = make_wheel(tmp_path, "demo", {"a.py": "a = 1\n" * 500})
    with zipfile.ZipFile(wheel.path) as archive:
        item = archive.getinfo("a.py")
    data = bytearray(wheel.path.read_bytes())
    entry = data.index(b"PK\1\2")
    while data[entry + 46 : entry + 50] != b"a.py":
        entry = data.index(b"PK\1\2", entry + 4)
    at = {
        "content": item.header_offset + 30 + 4 + 5,
        "sum": entry + 16,
        "size": entry + 24,
        "local name": item.header_offset + 30,
        "mark": item.header_offset,
        "place": entry + 42,
    }[what]
    data[at] ^= 8
    wheel.path.write_bytes(data)
    if not at_once:
        monkeypatch.setattr(unpack_module, "_AT_ONCE", -1)
    with pytest.raises(WheelContentError):
        into(store, wheel.path, hashlib.sha256(data).hexdigest())
    assert list(store.keys()) == []
