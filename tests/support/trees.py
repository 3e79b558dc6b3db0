"""Small images for tests: put files into a store, get the manifest."""

from __future__ import annotations

import hashlib
import os
import sys

from images.manifest import Entry, Manifest
from images.render import Interpreter
from images.store import Store

INTERPRETER = Interpreter(
    os.path.realpath(sys.executable), ".".join(map(str, sys.version_info[:3])), sys.base_prefix
)
HEADER = ("3.11", "cp311", "manylinux_2_28_x86_64", "virtualenv-21.15.7")
SITE = "lib/python3.11/site-packages"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest_of(*entries: Entry) -> Manifest:
    return Manifest(*HEADER, entries)


def entry(path: str, data: bytes = b"x", kind: str = "file", owner: str = "shop") -> Entry:
    return Entry(kind, False, sha(data), len(data), owner, path)


# path -> (kind, executable, owner, object bytes)
FILES: dict[str, tuple[str, bool, str, bytes]] = {
    "bin/activate": ("sh", False, "-", b"VIRTUAL_ENV=@WAIN_PREFIX@\n"),
    "bin/python": ("link", False, "-", b"@WAIN_PYTHON@"),
    "bin/python3": ("link", False, "-", b"python"),
    "bin/shop": ("script", True, "shop", b"import sys\nprint(sys.argv[1:])\n"),
    "pyvenv.cfg": ("plain", False, "-", b"home = @WAIN_HOME@\nversion = @WAIN_VERSION@\n"),
    f"{SITE}/shop/__init__.py": ("file", False, "shop", b""),
    f"{SITE}/shop/data.txt": ("file", False, "shop", b"wheels\n"),
    f"{SITE}/shop/cart.py": ("file", False, "shop", b"WHEELS = 4\n"),
    f"{SITE}/shop/run": ("file", True, "shop", b"#!/bin/sh\necho wheels\n"),
    f"{SITE}/six.py": ("file", False, "six", b"PY3 = True\n"),
    "share/shop/empty": ("file", True, "shop", b""),
}


def put_image(
    store: Store, files: dict[str, tuple[str, bool, str, bytes]] | None = None
) -> Manifest:
    """Put objects and manifest of these files (default: FILES) into a store."""
    entries = []
    with store.batch() as batch:
        for path, (kind, executable, owner, data) in (files or FILES).items():
            digest, size = batch.put(data, executable and kind == "file")
            entries.append(Entry(kind, executable, digest, size, owner, path))
    manifest = manifest_of(*entries)
    store.put_manifest(manifest.to_bytes())
    return manifest
