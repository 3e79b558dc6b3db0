"""Small images that really run, made without a resolver: for tests of hosts."""

from __future__ import annotations

import sys

from images.manifest import Entry, Manifest
from images.store import Store

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
ABI = f"cp{sys.version_info[0]}{sys.version_info[1]}{sys.abiflags}"
SITE = f"lib/python{MINOR}/site-packages"


def small_image(
    store: Store,
    text: str,
    files: dict[str, bytes] | None = None,
    count: int = 5,
) -> Manifest:
    """An environment with the module ``app`` whose TEXT is ``text``, and the command ``app``.

    ``files`` adds or replaces files by path; ``count`` modules fill it up.
    """
    content: dict[str, tuple[str, bool, bytes]] = {
        "bin/python": ("link", False, b"@WAIN_PYTHON@"),
        "bin/python3": ("link", False, b"python"),
        "pyvenv.cfg": ("plain", False, b"home = @WAIN_HOME@\nversion = @WAIN_VERSION@\n"),
        "bin/app": ("script", True, b"import app\nprint(app.TEXT)\n"),
        "bin/plain": ("file", True, b"#!/bin/sh\necho plain\n"),
        f"{SITE}/app.py": ("file", False, f"TEXT = {text!r}\n".encode()),
        f"{SITE}/empty.py": ("file", False, b""),
    }
    for number in range(count):
        body = f"NUMBER = {number}\n".encode() * (number % 7 + 1)
        content[f"{SITE}/filler/m{number:05}.py"] = ("file", False, body)
    for path, data in (files or {}).items():
        content[path] = ("file", False, data)
    entries = []
    with store.batch() as batch:
        for path, (kind, executable, data) in content.items():
            sha256, size = batch.put(data, executable and kind == "file")
            entries.append(Entry(kind, executable, sha256, size, "app", path))
    manifest = Manifest(MINOR, ABI, "manylinux_2_28_x86_64", "virtualenv-21.15.7", entries)
    store.put_manifest(manifest.to_bytes())
    return manifest
