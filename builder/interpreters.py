"""Interpreters of this machine, found by the version a target wants."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from wheelhouse.target import Target

_VERSION_FOLDER = re.compile(r"(\d+)\.(\d+)\.(\d+)(t?)")


def is_native(target: Target) -> bool:
    """Whether this machine could run what is built for the target: its machine and libc."""
    return target.platform in Target.running().platforms()


def find_interpreter(target: Target) -> Path | None:
    """An interpreter of the target's minor version and ABI on this machine, or None.

    The running one when it fits, else whatever python-discovery finds on PATH, in pyenv, in
    uv's store.
    """
    if Target.running().python == target.python:
        return Path(sys.executable)
    return _discover(target.minor, target.python.endswith("t"))


@lru_cache(maxsize=32)
def _discover(minor: tuple[int, int], threaded: bool) -> Path | None:
    from python_discovery import PythonInfo, get_interpreter

    def fits(info: PythonInfo) -> bool:
        found = (info.version_info.major, info.version_info.minor)
        return found == minor and bool(info.free_threaded) == threaded

    wanted = f"cpython{minor[0]}.{minor[1]}" + ("t" if threaded else "")
    # pyenv's shims start nothing but the chosen version; its folders hold the others.
    first = [str(path) for path in _pyenv(minor, threaded)]
    found = get_interpreter(wanted, try_first_with=first, predicate=fits)
    return Path(found.executable) if found is not None and found.executable else None


def _pyenv(minor: tuple[int, int], threaded: bool) -> Iterator[Path]:
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    matches = []
    for folder in root.glob("*"):
        match = _VERSION_FOLDER.fullmatch(folder.name)
        if match and (int(match[1]), int(match[2])) == minor and bool(match[4]) == threaded:
            matches.append((int(match[3]), folder / "bin" / "python"))
    for _, path in sorted(matches, reverse=True):
        if os.access(path, os.X_OK):
            yield path
