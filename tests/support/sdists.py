"""Makes small sdists with a build backend of their own: no index, no setuptools, quick."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from builder.sdist import Built, build_sdist
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock, LockedFile, LockedPackage
from wheelhouse.target import Target

TARGET = Target.running()
needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None or (TARGET.libc or ("",))[0] != "glibc",
    reason="needs gcc and glibc",
)

BACKEND = '''
import base64, hashlib, os, time, zipfile

NAME, VERSION, TAG = {name!r}, {version!r}, {tag!r}

def get_requires_for_build_wheel(config_settings=None):
    return {asks!r}

def members():
    """What the wheel holds: path -> bytes or str."""
    found = {{f"{{NAME}}.py": "value = 1\\n"}}
    extra(found)
    return found

{extra}

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    info = f"{{NAME}}-{{VERSION}}.dist-info"
    found = members()
    found[f"{{info}}/METADATA"] = (
        f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n")
    pure = "true" if TAG.endswith("any") else "false"
    found[f"{{info}}/WHEEL"] = (
        f"Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: {{pure}}\\nTag: {{TAG}}\\n")
    rows = ""
    name = f"{{NAME}}-{{VERSION}}-{{TAG}}.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        for path, data in found.items():
            data = data.encode() if isinstance(data, str) else data
            wheel.writestr(path, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows += f"{{path}},sha256={{digest}},{{len(data)}}\\n"
        wheel.writestr(f"{{info}}/RECORD", rows + f"{{info}}/RECORD,,\\n")
    after(os.path.join(wheel_directory, name))
    return name
'''
NOTHING = "def extra(found):\n    pass\n\ndef after(path):\n    pass\n"


def backend(
    name: str = "small",
    version: str = "1.0",
    tag: str = "py3-none-any",
    asks: tuple[str, ...] = (),
    extra: str = "",
) -> str:
    """The source of an in-tree backend; ``extra`` redefines ``extra(found)``, ``after(path)``."""
    return BACKEND.format(
        name=name, version=version, tag=tag, asks=list(asks), extra=NOTHING + "\n" + extra
    )


def project(requires: tuple[str, ...] = ()) -> str:
    """A pyproject.toml that names the in-tree backend."""
    return (
        f"[build-system]\nrequires = {list(requires)!r}\n"
        'build-backend = "own_backend"\nbackend-path = ["."]\n'
    )


def make_sdist(
    folder: Path,
    code: str,
    *,
    name: str = "small",
    version: str = "1.0",
    requires: tuple[str, ...] = (),
    files: dict[str, str] | None = None,
) -> Path:
    """Write ``<name>-<version>.tar.gz`` into ``folder``."""
    top = f"{name}-{version}"
    members = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": project(requires),
        "own_backend.py": code,
        **(files or {}),
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path, text in members.items():
            info = tarfile.TarInfo(f"{top}/{path}")
            data = text.encode()
            info.size, info.mtime, info.mode = len(data), 1_700_000_000, 0o644
            archive.addfile(info, io.BytesIO(data))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{top}.tar.gz"
    target.write_bytes(gzip.compress(raw.getvalue(), mtime=0))
    return target


def locked(path: Path, kind: str = "wheel") -> LockedPackage:
    """The lock's entry of a wheel or sdist file."""
    name, version = path.name.removesuffix(".tar.gz").split("-")[:2]
    data = path.read_bytes()
    file = LockedFile(path.name, hashlib.sha256(data).hexdigest(), len(data))
    return LockedPackage(name, version, file, kind)


def empty_lock(target: Target | None = None) -> Lock:
    """A build lock of a backend that needs nothing."""
    return Lock(target or Target.running(), ())


def build(sdist: Path, house: Wheelhouse, **options: object) -> Built:
    target = options.pop("target", TARGET)
    lock = options.pop("lock", empty_lock())
    return build_sdist(sdist, lock, house, target, sys.executable, **options)  # type: ignore[arg-type]


def content(house: Wheelhouse, built: Built, member: str) -> bytes:
    with zipfile.ZipFile(house.path(built.file)) as wheel:
        return wheel.read(member)
