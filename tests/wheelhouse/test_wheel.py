"""Good wheels are accepted, and what is reported of them is true."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from packaging.tags import Tag
from packaging.version import Version

from tests.support.wheels import Draft, draft, make_wheel, record_hash
from tests.wheelhouse.conftest import REAL, download, kept_folder
from wheelhouse.target import Target
from wheelhouse.wheel import WheelError, check_wheel

INFO = "demo-1.0.dist-info"


def check(wheel: Draft, folder: Path) -> None:
    check_wheel(wheel.write(folder))


def test_what_is_reported(tmp_path: Path) -> None:
    path = make_wheel(
        tmp_path,
        "Demo-App",
        "2.0rc1",
        tag="cp311.cp312-abi3.none-manylinux_2_17_x86_64.manylinux2014_x86_64",
        build="3_local",
        files={"demo/__init__.py": b"", "Demo_App-2.0rc1.data/scripts/run.sh": b"#!/bin/sh\n"},
        requires=["six>=1", "zipp; python_version < '3.9'"],
        requires_python=">=3.9,<4",
        entry_points="[console_scripts]\ndemo = demo:main [x]\nd2=demo : a.b\n[other]\n/x y = ?\n",
    )
    info = check_wheel(path, target=Target("t", "3.12", "manylinux_2_28_x86_64"))
    data = path.read_bytes()
    assert info.filename == path.name
    assert (info.name, info.version) == ("demo-app", Version("2.0rc1"))
    assert info.build == (3, "_local")
    assert len(info.tags) == 8
    assert Tag("cp312", "abi3", "manylinux2014_x86_64") in info.tags
    assert (info.sha256, info.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert info.requires_python == ">=3.9,<4"
    assert info.requires_dist == ("six>=1", "zipp; python_version < '3.9'")
    assert info.scripts == ("d2", "demo")
    with zipfile.ZipFile(path) as archive:
        assert info.metadata == archive.read("Demo_App-2.0rc1.dist-info/METADATA")
        assert [member.name for member in info.members] == archive.namelist()
        for member in info.members:
            content = archive.read(member.name)
            assert member.size == len(content)
            assert member.sha256 == hashlib.sha256(content).hexdigest()


def test_executables_are_known(tmp_path: Path) -> None:
    wheel = draft()
    wheel.add("demo/tool", b"#!/bin/sh\n", mode=0o100775)
    info = check_wheel(wheel.write(tmp_path))
    assert [m.name for m in info.members if m.executable] == ["demo/tool"]


# --- what real wheels do and must be allowed -------------------------------------------------


@pytest.mark.parametrize("mode", [0, 0o664, 0o100664, 0o100700, 0o100600, 0o100777, 0o100444])
def test_any_permission_bits(mode: int, tmp_path: Path) -> None:
    wheel = draft()
    wheel.add("demo/x.py", mode=mode)
    check(wheel, tmp_path)


def test_folder_members(tmp_path: Path) -> None:
    wheel = draft()
    for name, mode in [("demo/", 0o40755), ("demo/a b/", 0), ("demo-1.0.data/scripts/", 0o42775)]:
        wheel.add(name, b"", mode=mode, method=0)
    check(wheel, tmp_path)


def test_high_compression(tmp_path: Path) -> None:
    wheel = draft()
    wheel.add("demo/zeros", bytes(1 << 20))
    path = wheel.write(tmp_path)
    assert path.stat().st_size * 100 < 1 << 20
    check_wheel(path)


@pytest.mark.parametrize("method", [0, 8])
def test_end_record_bytes_inside_a_member(method: int, tmp_path: Path) -> None:
    wheel = draft()
    wheel.add("demo/zip.bin", b"PK\5\6" + bytes(18) + b"PK\1\2PK\3\4PK\6\6PK\6\7", method=method)
    check(wheel, tmp_path)


@pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
def test_stronger_hashes(algorithm: str, tmp_path: Path) -> None:
    wheel = draft()
    data = wheel.get("demo/__init__.py").data
    wheel.edit_record = lambda rows: [
        [rows[0][0], record_hash(data, algorithm), rows[0][2]],
        *rows[1:],
    ]
    info = check_wheel(wheel.write(tmp_path))
    assert info.members[0].sha256 == hashlib.sha256(data).hexdigest()


def test_uncommon_but_legal_names(tmp_path: Path) -> None:
    wheel = draft()
    for name in (
        "demo/with space.txt", "demo/café.txt", "demo/日本.txt", "demo/a,b.txt", 'demo/"q".txt',
        "demo/.hidden", "demo/...", "demo/~x", "demo/a'b", "demo/-rf", "demo/$HOME", "demo/x" * 1,
        "demo/" + "n" * 255, "demo/a\u200db.txt", "demo.pth", "sitecustomize.py",
        "demo/x-1.0.dist-info/METADATA", "demo/python", "demo-1.0.data/data/share/python3/x",
        "demo-1.0.data/data/libexec/x", "demo-1.0.data/data/etc/x.conf",
        "demo-1.0.data/scripts/python-argcomplete", "demo-1.0.data/headers/demo.h",
        "demo-1.0.data/platlib/demo/_c.so", "demo-1.0.data/purelib/demo/y.py",
    ):  # fmt: skip
        wheel.add(name, name.encode())
    check(wheel, tmp_path)


def test_uncommon_but_legal_record(tmp_path: Path) -> None:
    wheel = draft()
    wheel.record_eol = "\r\n"
    wheel.edit_record = lambda rows: [[*row[:2], ""] for row in reversed(rows)] + [[]]
    check(wheel, tmp_path)


def test_signature_files_need_no_row(tmp_path: Path) -> None:
    wheel = draft()
    wheel.add(f"{INFO}/RECORD.jws", b"{}")
    wheel.edit_record = lambda rows: [row for row in rows if not row[0].endswith(".jws")]
    check(wheel, tmp_path)


@pytest.mark.parametrize("kind", ["unused", "used"])
def test_zip64_fields(kind: str, tmp_path: Path) -> None:
    """zipfile writes them for files of unknown size (force_zip64), long or not."""
    wheel = draft()
    member = wheel.get("demo/__init__.py")
    sizes = (len(member.data), len(member.payload()))
    member.local["extra"] = struct.pack("<2H2Q", 1, 16, *sizes)
    if kind == "used":
        member.local["size"] = member.local["packed"] = 0xFFFFFFFF
        member.central["size"] = member.central["packed"] = 0xFFFFFFFF
        member.central["extra"] = struct.pack("<2H2Q", 1, 16, *sizes)
    check(wheel, tmp_path)


def test_zip64_end_record(tmp_path: Path) -> None:
    def edit(data: bytes) -> bytes:
        count, size, start = struct.unpack("<H2L", data[-12:-2])
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
        return data[:-22] + record + locator + end

    wheel = draft()
    wheel.edit = edit
    check(wheel, tmp_path)


def test_other_order_in_the_directory(tmp_path: Path) -> None:
    wheel = draft()
    wheel.order = lambda order: order[::-1]
    check(wheel, tmp_path)


def test_harmless_extra_fields(tmp_path: Path) -> None:
    wheel = draft()
    wheel.get("demo/__init__.py").extra = struct.pack("<2HBL", 0x5455, 5, 1, 0)
    check(wheel, tmp_path)


def test_old_spellings(tmp_path: Path) -> None:
    """Names and versions as older tools wrote them: the same after normalisation."""
    wheel = draft("Zope.Demo", "1.0")
    wheel.rename("Zope.Demo-1.0.dist-info", "Zope.Demo-1.0.0.dist-info")
    member = wheel.get("METADATA")
    member.data = member.data.replace(b"Name: Zope.Demo", b"Name: zope-demo")
    check(wheel, tmp_path)


def test_tags_may_be_written_compressed(tmp_path: Path) -> None:
    wheel = draft(tag="py2.py3-none-any")
    member = wheel.get("WHEEL")
    head, _, _ = member.data.partition(b"Tag:")
    member.data = head + b"Tag: py2.py3-none-any\n"
    check(wheel, tmp_path)


# --- real wheels -----------------------------------------------------------------------------


@pytest.mark.index
def test_real_wheels_are_accepted(real_wheels: list[Path]) -> None:
    assert len(real_wheels) >= 40
    for path in real_wheels:
        info = check_wheel(path)
        with zipfile.ZipFile(path) as archive:
            files = [entry for entry in archive.infolist() if not entry.is_dir()]
        assert sorted(member.name for member in info.members) == sorted(e.filename for e in files)


# Wheels whose tags in WHEEL are not those of their file name: refused, and rightly.
_LIES = ("playwright-",)
_MORE = re.findall(
    r"\S+",
    """
    django sqlalchemy numpy pandas virtualenv pip setuptools cryptography pydantic pydantic-core
    annotated-types rich pygments markdown-it-py boto3 botocore s3transfer jmespath protobuf grpcio
    googleapis-common-protos google-api-core google-auth pyasn1 rsa cachetools pillow scipy
    matplotlib contourpy cycler fonttools kiwisolver pyparsing scikit-learn joblib threadpoolctl
    psutil lxml beautifulsoup4 soupsieve aiohttp multidict yarl frozenlist fastapi starlette uvicorn
    h11 httpx httpcore anyio websockets orjson ujson msgpack redis psycopg2-binary celery kombu
    billiard tqdm coverage pytest mypy black isort flake8 ruff nox pre-commit identify sphinx babel
    docutils jsonschema rpds-py twisted gevent greenlet pyzmq tornado ipython jedi parso notebook
    jupyterlab bokeh plotly networkx sympy numba llvmlite pyarrow polars openpyxl paramiko bcrypt
    pynacl ansible-core keyring twine nh3 hatchling cython cmake ninja opencv-python-headless
    tokenizers safetensors regex nltk typer awscli zstandard lz4 shapely pyproj rasterio statsmodels
    xarray dask distributed alembic hypothesis faker playwright selenium ddtrace debugpy
    """,
)


@pytest.mark.index
@pytest.mark.faults
def test_many_real_wheels_are_accepted(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A hundred and more, large ones too; only known liars are refused."""
    folder = kept_folder("many-wheels", pytestconfig, tmp_path_factory)
    wheels = download([*REAL, *_MORE], folder)
    assert len(wheels) >= 140
    refused = []
    for path in wheels:
        try:
            check_wheel(path)
        except WheelError as error:
            refused.append(str(error))
    assert [line for line in refused if not line.startswith(_LIES)] == []


# --- no two readings -------------------------------------------------------------------------


def stream_names(data: bytes) -> list[str]:
    """The members a reader sees that walks the local headers and never the directory."""
    names = []
    position = 0
    while data[position : position + 4] == b"PK\3\4":
        packed, _, name, extra = struct.unpack("<2L2H", data[position + 18 : position + 30])
        names.append(data[position + 30 : position + 30 + name].decode("utf-8", "replace"))
        position += 30 + name + extra + packed
    return names


@pytest.mark.row("W6")
def test_every_accepted_archive_has_one_meaning(
    tmp_path: Path, sample: Callable[[Sequence[int], int], Sequence[int]]
) -> None:
    """Flip bits at every byte: refused, or all readers still agree on names and contents."""
    good = draft(entry_points="[console_scripts]\ndemo = demo:main\n").to_bytes()
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    accepted = 0
    for position in sample(range(len(good)), 400):
        for mask in (0x01, 0x80, 0xFF):
            data = bytearray(good)
            data[position] ^= mask
            path.write_bytes(data)
            try:
                info = check_wheel(path, threads=1)
            except WheelError:
                continue
            accepted += 1
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                assert archive.namelist() == stream_names(bytes(data))
                assert [member.name for member in info.members] == archive.namelist()
                for member in info.members:
                    content = archive.read(member.name)
                    assert hashlib.sha256(content).hexdigest() == member.sha256
                    mode = archive.getinfo(member.name).external_attr >> 16
                    assert stat.S_IFMT(mode) in (0, stat.S_IFREG)
    # Times, versions and permission bits may change without changing the meaning.
    assert accepted > 0


@pytest.mark.row("W6")
def test_cut_off_anywhere(tmp_path: Path) -> None:
    good = draft().to_bytes()
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(WheelError, match="W6"):
            check_wheel(path, threads=1)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = make_wheel(tmp_path)
    with path.open("r+b") as stream:
        stream.truncate(100)
        os.fsync(stream.fileno())
    with pytest.raises(WheelError, match="W6"):
        check_wheel(path)
