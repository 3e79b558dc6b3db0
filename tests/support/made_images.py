"""Small images and their wheels, made by hand: no builder, no index."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import marshal
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from images.catalog import (
    Catalog,
    ImageDocument,
    ImageTarget,
    PackageRecord,
)
from images.claims import digests
from images.manifest import Entry, Manifest
from images.store import Store

PYTHON = "{}.{}".format(*sys.version_info[:2])
SITE = f"lib/python{PYTHON}/site-packages"


class Made(NamedTuple):
    """One package: files relative to site-packages, scripts relative to bin."""

    name: str
    version: str
    files: Mapping[str, bytes]
    scripts: Mapping[str, bytes] = {}

    @property
    def dist_info(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}.dist-info"

    def contents(self) -> dict[str, bytes]:
        """What site-packages holds, RECORD included."""
        own = dict(self.files)
        metadata = f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"
        own[f"{self.dist_info}/METADATA"] = metadata.encode()
        own[f"{self.dist_info}/WHEEL"] = (
            b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        return own

    def wheel(self, folder: Path) -> Path:
        """The package as a wheel in *folder*."""
        own = self.contents()
        for name, body in self.scripts.items():
            own[f"{self.dist_info[:-10]}.data/scripts/{name}"] = b"#!python\n" + body
        path = folder / f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"
        record = f"{self.dist_info}/RECORD"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in own.items():
                archive.writestr(name, data)
            archive.writestr(record, _record(own, record))
        return path


def _record(own: Mapping[str, bytes], record: str) -> str:
    rows = []
    for name, data in own.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        rows.append(f"{name},sha256={digest},{len(data)}")
    return "\n".join([*rows, f"{record},,", ""])


def regular(name: str, version: str, modules: int = 3) -> Made:
    """A package folder with some modules, data and a script."""
    files = {f"{name}/__init__.py": f"VERSION = {version!r}\n".encode()}
    files[f"{name}/empty.py"] = b""
    files[f"{name}/data/table.txt"] = b"one\ntwo\n" + version.encode() + b"\n"
    for number in range(modules):
        files[f"{name}/m{number}.py"] = f"N = {number}\nV = {version!r}\n".encode()
    body = f"import {name}\nprint({name}.VERSION)\n".encode()
    return Made(name, version, files, {f"{name}-say": body})


def module(name: str, version: str) -> Made:
    """A package that is one module."""
    return Made(name, version, {f"{name}.py": f"VERSION = {version!r}\n".encode()})


def namespaced(space: str, part: str, version: str) -> Made:
    """A package below a namespace folder."""
    source = f"VERSION = {version!r}\n".encode()
    return Made(f"{space}-{part}", version, {f"{space}/{part}/__init__.py": source})


SKELETON: dict[str, tuple[str, bool, bytes]] = {
    "bin/python": ("link", False, b"@WAIN_PYTHON@"),
    "bin/python3": ("link", False, b"python"),
    f"bin/python{PYTHON}": ("link", False, b"python"),
    "bin/activate": (
        "sh",
        False,
        b"VIRTUAL_ENV=@WAIN_PREFIX@\nexport VIRTUAL_ENV\n"
        b'PATH="$VIRTUAL_ENV/bin:$PATH"\nexport PATH\n',
    ),
    "pyvenv.cfg": (
        "plain",
        False,
        b"home = @WAIN_HOME@\ninclude-system-site-packages = false\nversion = @WAIN_VERSION@\n",
    ),
    ".gitignore": ("file", False, b"*\n"),
}


def make_image(
    store: Store,
    packages: Sequence[Made],
    *,
    bytecode: bool = True,
    extra: Mapping[str, tuple[str, bytes]] | None = None,
    platform: str = "",
) -> Manifest:
    """An image of these packages; *extra* maps paths to (owner, bytes)."""
    entries: list[Entry] = []
    with store.batch() as batch:

        def add(kind: str, flag: bool, data: bytes, owner: str, path: str) -> None:
            sha256, size = batch.put(data, flag and kind == "file")
            entries.append(Entry(kind, flag, sha256, size, owner, path))

        for path, (kind, flag, data) in SKELETON.items():
            add(kind, flag, data, "-", path)
        for package in packages:
            own = package.contents() | {f"{package.dist_info}/INSTALLER": b"wain\n"}
            for path, data in own.items():
                add("file", False, data, package.name, f"{SITE}/{path}")
            for path, data in list(own.items()):
                if bytecode and path.endswith(".py"):
                    folder, slash, name = path.rpartition("/")
                    tag = sys.implementation.cache_tag
                    cached = f"{folder}{slash}__pycache__/{name[:-3]}.{tag}.pyc"
                    own[cached] = _pyc(data, path)
                    add("file", False, own[cached], package.name, f"{SITE}/{cached}")
            for name, body in package.scripts.items():
                add("script", True, body, package.name, f"bin/{name}")
                own[f"../../../bin/{name}"] = body
            record = f"{package.dist_info}/RECORD"
            add("file", False, _record(own, record).encode(), package.name, f"{SITE}/{record}")
        for path, (owner, data) in (extra or {}).items():
            add("file", False, data, owner, path)
    import os

    manifest = Manifest(
        PYTHON,
        f"cp{PYTHON.replace('.', '')}",
        platform or f"manylinux_2_17_{os.uname().machine}",
        "virtualenv-21.15.7",
        entries,
    )
    store.put_manifest(manifest.to_bytes())
    return manifest


def _pyc(source: bytes, path: str) -> bytes:
    code = compile(source, path, "exec", dont_inherit=True)
    digest = importlib.util.source_hash(source)
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + digest + marshal.dumps(code)


def make_document(
    manifest: Manifest, packages: Sequence[Made], name: str = "shop", target: str = "default"
) -> ImageDocument:
    """The document of an image made by hand."""
    files = digests(manifest)
    return ImageDocument(
        id=manifest.image_id,
        name=name,
        target=ImageTarget(target, manifest.python, manifest.abi, manifest.platform),
        packages=tuple(
            PackageRecord(
                one.name,
                one.version,
                f"{one.name}-{one.version}-py3-none-any.whl",
                hashlib.sha256(one.name.encode()).hexdigest(),
                files[one.name],
            )
            for one in sorted(packages)
        ),
        lock="0" * 64,
        interpreter="{}.{}.{}".format(*sys.version_info[:3]),
        created="2026-11-21T03:00:00Z",
    )


def keep(catalog: Catalog, packages: Sequence[Made], tag: str = "latest", **more: str) -> Manifest:
    """Make an image, its document and a tag."""
    with catalog.store.writing():
        manifest = make_image(catalog.store, packages)
        catalog.put_document(make_document(manifest, packages, **more))
        catalog.tag(tag, manifest.image_id)
    return manifest
