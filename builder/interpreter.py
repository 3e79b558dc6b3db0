"""Finds the interpreter of a target's minor version on this machine."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from images.interpreter import running_interpreter
from images.render import Interpreter


@cache
def find(python: str) -> Interpreter | None:
    """A CPython of this minor version (``3.12``, ``3.13t``): the running one, else the first.

    Looks at what pyenv keeps, at PATH and at uv's own; environments are resolved to the
    interpreter they were made from.
    """
    name, running = running_interpreter()
    if python == name:
        return running
    from python_discovery import get_interpreter

    found = get_interpreter(
        f"cpython{python}",
        try_first_with=_pyenv(python),
        predicate=lambda info: info.free_threaded == python.endswith("t"),
    )
    if found is None:
        return None
    executable = found.system_executable or found.executable
    version = found.version_info
    patch = f"{version.major}.{version.minor}.{version.micro}"
    if version.releaselevel != "final":
        patch += f"{version.releaselevel[0]}{version.serial}".replace("c", "rc")
    base = found.base_prefix or found.prefix or ""
    return Interpreter(os.path.realpath(executable or ""), patch, base)


def _pyenv(python: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    numbered = []
    minor, threaded = python.rstrip("t"), python[len(python.rstrip("t")) :]
    for folder in root.glob(f"{minor}.*"):
        patch = re.fullmatch(rf"{re.escape(minor)}\.(\d+){threaded}", folder.name)
        if patch and (folder / "bin" / "python").exists():
            numbered.append((int(patch[1]), str(folder / "bin" / "python")))
    return [path for _, path in sorted(numbered, reverse=True)]
