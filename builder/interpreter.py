"""Finds the interpreter of a target's minor version on this machine."""

from __future__ import annotations

import os
import platform
import re
import sys
from functools import cache
from pathlib import Path

from images.errors import UsageError
from images.render import Interpreter


class NoInterpreterError(UsageError):
    """No interpreter of this minor version is here. ``python`` is such as ``3.12``."""

    def __init__(self, where: str, python: str) -> None:
        self.python = python
        super().__init__(
            where,
            f"no CPython {python} on this machine to compile bytecode with",
            f"install python{python}, or set bytecode = false in [image]",
        )


def running() -> Interpreter:
    """The interpreter wain runs on; of an environment, the one it was made from."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return Interpreter(os.path.realpath(base), platform.python_version(), sys.base_prefix)


@cache
def find(python: str) -> Interpreter | None:
    """A CPython of this minor version: the running one, else the first that is found.

    Looks at what pyenv keeps, at PATH and at uv's own; environments are resolved to the
    interpreter they were made from.
    """
    if python == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return running()
    from python_discovery import get_interpreter

    found = get_interpreter(
        f"cpython{python}",
        try_first_with=_pyenv(python),
        # Free-threaded builds have another ABI and name other wheels.
        predicate=lambda info: not info.free_threaded,
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


def require(python: str, where: str) -> Interpreter:
    """`find`, or NoInterpreterError; ``where`` names the target for the message."""
    found = find(python)
    if found is None:
        raise NoInterpreterError(where, python)
    return found


def _pyenv(python: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    numbered = []
    for folder in root.glob(f"{python}.*"):
        patch = re.fullmatch(rf"{re.escape(python)}\.(\d+)", folder.name)
        if patch and (folder / "bin" / "python").exists():
            numbered.append((int(patch[1]), str(folder / "bin" / "python")))
    return [path for _, path in sorted(numbered, reverse=True)]
