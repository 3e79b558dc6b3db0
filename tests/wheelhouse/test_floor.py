"""Row W13: a wheel whose compiled files want a newer glibc than its name promises."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import parse_tag

from tests.support.wheels import make_wheel
from wheelhouse.floor import Floor, glibc_floor, promised_glibc
from wheelhouse.index import Wheelhouse
from wheelhouse.wheel import WheelError

MACHINE = platform.machine()


def _glibc() -> tuple[int, int]:
    name, version = platform.libc_ver()
    parts = version.split(".")
    return (int(parts[0]), int(parts[1])) if name == "glibc" else (0, 0)


needs_new_glibc = pytest.mark.skipif(
    shutil.which("gcc") is None or _glibc() < (2, 34), reason="needs gcc and glibc 2.34"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A shared library that wants glibc 2.34: pthread_create moved into it there."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "x.c").write_text(
        "#include <pthread.h>\n"
        "static void *nothing(void *a) { return a; }\n"
        "int start(void) { pthread_t t; return pthread_create(&t, 0, nothing, 0); }\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "x.so", "x.c"], cwd=folder, check=True)
    return (folder / "x.so").read_bytes()


def wheel(folder: Path, data: bytes, platforms: str, member: str = "demo/_x.so") -> Path:
    files = {"demo/__init__.py": b"", member: data}
    return make_wheel(folder, tag=f"cp311-cp311-{platforms}", files=files, purelib=False)


@needs_new_glibc
@pytest.mark.row("W13")
def test_a_name_that_lies_is_refused(tmp_path: Path, library: bytes) -> None:
    house = Wheelhouse(tmp_path / "house")
    lying = wheel(tmp_path, library, f"manylinux_2_17_{MACHINE}.manylinux2014_{MACHINE}")
    with pytest.raises(WheelError, match=r"W13: 'demo/_x\.so' needs glibc 2\.34.* glibc 2\.17"):
        house.add(lying)
    assert list(house.files()) == []
    # The oldest of several promises counts.
    mixed = wheel(tmp_path, library, f"manylinux_2_34_{MACHINE}.manylinux_2_28_{MACHINE}")
    with pytest.raises(WheelError, match=r"glibc 2\.28"):
        house.add(mixed)
    assert house.add(wheel(tmp_path, library, f"manylinux_2_34_{MACHINE}")).size


@needs_new_glibc
def test_only_shared_libraries_are_asked(tmp_path: Path, library: bytes) -> None:
    tag = f"manylinux_2_17_{MACHINE}"
    assert glibc_floor(wheel(tmp_path, library, tag)) == Floor((2, 34), "demo/_x.so")
    assert glibc_floor(wheel(tmp_path, library, tag, "demo/data.bin")) is None
    assert glibc_floor(wheel(tmp_path, library, tag, "demo.libs/libx.so.1.2")) is not None
    assert glibc_floor(wheel(tmp_path, b"\x7fELF but no more", tag)) is None


@needs_new_glibc
@given(data=st.data())
def test_a_damaged_library_never_breaks_the_check(
    library: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from wheelhouse.floor import _asked

    damaged = bytearray(library[: data.draw(st.integers(64, len(library)))])
    for _ in range(data.draw(st.integers(1, 20))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    _asked(bytes(damaged))


def test_promises() -> None:
    def promised(text: str) -> tuple[int, int] | None:
        return promised_glibc(parse_tag(text))

    assert promised("py3-none-any") is None
    assert promised("cp311-cp311-linux_x86_64") is None
    assert promised("cp311-cp311-musllinux_1_2_x86_64") is None
    assert promised("cp311-cp311-manylinux1_x86_64.manylinux_2_28_x86_64") == (2, 5)
    assert promised("cp311-cp311-manylinux_2_28_x86_64") == (2, 28)
