"""A release's seal, and which of its files deserve a closer look."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet import agent_seal
from images.manifest import Manifest
from images.store import Store
from images.tree import Interpreter, checkout, scan
from tests.support.small_images import SITE, small_image

HERE = Interpreter(os.path.realpath(sys.executable), "3.11.0", sys.base_prefix)


def _write(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])


def _copy(path: Path) -> None:
    """A file of its own, as a check-out makes it where it cannot link."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o644)


def _link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("", lambda path: None),
        (f"{SITE}/app.py", _write),
        (f"{SITE}/app.py", lambda path: path.chmod(0o555)),
        (f"{SITE}/app.py", os.unlink),
        (f"{SITE}/app.py", os.utime),
        (f"{SITE}/app.py", _copy),
        (f"{SITE}/app.py", _link),
        (f"{SITE}/filler", lambda path: path.chmod(0o700)),
        (f"{SITE}/filler", shutil.rmtree),
        (f"{SITE}/filler", _link),
        ("bin", lambda path: path.chmod(0o700)),
        ("bin/app", lambda path: path.write_text("#!/bin/sh\n")),
        ("bin/python3", lambda path: (path.unlink(), path.symlink_to("sh"))),
        ("pyvenv.cfg", lambda path: path.chmod(0o444)),
    ],
)
def test_the_closer_look_finds_what_looking_at_everything_finds(
    tmp_path: Path, path: str, change: Callable[[Path], None]
) -> None:
    store = Store(str(tmp_path / "store"))
    image = small_image(store, "one")
    root = str(tmp_path / "tree")
    checkout(image, store, root, root, HERE)
    sealed, usual = agent_seal.measure(root, image)
    assert sealed
    assert all(entry.kind != "file" or not entry.size for entry in usual)
    change(tmp_path / "tree" / path)
    again, doubtful = agent_seal.measure(root, image)

    def look(part: Manifest) -> object:
        return scan(root, part, root, HERE, store=store, strays=False)

    assert look(image.part(doubtful)) == look(image)
    assert (again == sealed) == (not path)
