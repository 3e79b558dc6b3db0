"""The modules that are sent to hosts: what they import, and that they run there."""

from __future__ import annotations

import ast
import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images import TRAVELS

ROOT = Path(__file__).parents[2]
SLOW = {
    *("asyncio", "concurrent.futures", "ctypes", "dataclasses", "inspect", "json", "logging"),
    *("pathlib", "shutil", "subprocess", "tempfile", "threading", "typing", "urllib", "zipfile"),
}
RUN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from images.delta import apply_delta, encode_delta
from images.manifest import Entry, Manifest
from images.store import Store
from images.tree import Interpreter, checkout, scan
root = sys.argv[2]
store = Store(root + "/store")
entries = []
with store.batch() as batch:
    for number in range(200):
        digest, size = batch.put(b"%d" % number, number % 3 == 0)
        path = "lib/a/b/c%d/m%d.py" % (number % 9, number)
        entries.append(Entry("file", number % 3 == 0, digest, size, "six", path))
    digest, size = batch.put(b"@WAIN_PYTHON@")
    entries.append(Entry("link", False, digest, size, "-", "bin/python"))
manifest = Manifest("3.9", "cp39", "manylinux_2_17_x86_64", "virtualenv-1", entries)
data = manifest.to_bytes()
assert apply_delta(b"", encode_delta(b"", data)) == data
image = store.manifest(store.put_manifest(data))
here = Interpreter(os.path.realpath(sys.executable), "3.9.0", sys.base_prefix)
print(checkout(image, store, root + "/env", root + "/env", here).files)
print(scan(root + "/env", image, root + "/env", here, True, store=store), store.verify())
"""


def _pythons() -> list[str]:
    """One interpreter of each release from 3.9 on this machine."""
    found = {}
    for minor in range(9, 16):
        name = f"python3.{minor}"
        places = [shutil.which(name) or "", f"/usr/bin/{name}"]
        places += glob.glob(os.path.expanduser(f"~/.pyenv/versions/3.{minor}.*/bin/{name}"))
        for place in places:
            if place and "shims" not in place and os.access(place, os.X_OK):
                found[minor] = place
    return list(found.values()) or [sys.executable]


@pytest.mark.parametrize("python", _pythons())
def test_they_run_on_every_interpreter_here(tmp_path: Path, python: str) -> None:
    done = subprocess.run(
        [python, "-I", "-S", "-W", "error", "-c", RUN, str(ROOT), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout == "201\n[] []\n"


@pytest.mark.parametrize("name", TRAVELS)
def test_their_grammar_is_that_of_3_9(name: str) -> None:
    source = (ROOT / "images" / f"{name}.py").read_text()
    ast.parse(source, feature_version=(3, 9))


def test_they_import_little() -> None:
    names = ", ".join(f"images.{name}" for name in TRAVELS)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        f"import {names}\nprint(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & SLOW
    ours = {name for name in loaded if name.startswith("images.")}
    assert ours == {f"images.{name}" for name in TRAVELS}
    outside = {name.partition(".")[0] for name in loaded} - {"images"}
    assert outside <= set(sys.stdlib_module_names)
