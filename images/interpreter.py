"""The interpreter an environment of this machine runs on, and whether an image can run here.

What is found is asked for itself: a shim on PATH that starts another interpreter, linked as
``bin/python``, would make no environment.
"""

from __future__ import annotations

import os
import re
import sys

from images.errors import WainError
from images.render import Interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from images.manifest import Manifest

_ASK = (
    "import os,sys,sysconfig as c;print(os.path.realpath(getattr(sys,'_base_executable','') or"
    " sys.executable));print('%d.%d.%d'%sys.version_info[:3]);print(sys.base_prefix);"
    "print('t' if c.get_config_var('Py_GIL_DISABLED') else '')"
)
_SECONDS = 20.0


def find_interpreter(python: str, program: str = "") -> Interpreter:
    """An interpreter of minor version *python* (``3.11``, ``3.13t``). Raises WainError.

    Looks at *program* only when it is given, else at the running one and then at PATH.
    """
    if program:
        found = ask(program)
        if found is None or _minor(found) != python:
            shown = f"Python {found[0].version}{found[1]}" if found else "no Python"
            raise WainError(program, f"is {shown}, the image needs {python}")
        return found[0]
    running = _running()
    if _minor(running) == python:
        return running[0]
    import shutil

    bare = python.rstrip("t")
    for name in (f"python{python}", f"python{bare}", "python3", "python"):
        path = shutil.which(name)
        found = ask(path) if path else None
        if found is not None and _minor(found) == python:
            return found[0]
    for path in _elsewhere(bare):
        found = ask(path)
        if found is not None and _minor(found) == python:
            return found[0]
    hint = "install it, or name it with --python"
    raise WainError("interpreter", f"no Python {python} found on this machine", hint)


def _elsewhere(bare: str) -> list[str]:
    """Interpreters of pyenv and uv, newest first: they are often not on PATH."""
    import glob

    home = os.path.expanduser("~")
    data = os.environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
    roots = (os.environ.get("PYENV_ROOT") or f"{home}/.pyenv", f"{data}/uv")
    found: list[str] = []
    for root, pattern in zip(
        roots, (f"versions/{bare}.*", f"python/cpython-{bare}.*"), strict=True
    ):
        found += glob.glob(f"{glob.escape(root)}/{pattern}/bin/python{bare}")

    def release(path: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", path)]

    return sorted(found, key=release, reverse=True)


def _running() -> tuple[Interpreter, str]:
    import sysconfig

    base: str = getattr(sys, "_base_executable", "") or sys.executable
    version = "{}.{}.{}".format(*sys.version_info[:3])
    threaded = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return Interpreter(os.path.realpath(base), version, sys.base_prefix), threaded


def _minor(found: tuple[Interpreter, str]) -> str:
    return found[0].version.rpartition(".")[0] + found[1]


def ask(program: str) -> tuple[Interpreter, str] | None:
    """What a program says of itself, and ``t`` when free-threaded; None when it is no Python."""
    import subprocess

    try:
        done = subprocess.run(
            [program, "-I", "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split("\n")
    if done.returncode or len(lines) != 5 or not os.path.isabs(lines[0]):
        return None
    return Interpreter(lines[0], lines[1], lines[2]), lines[3]


def machine_problem(manifest: Manifest) -> str:
    """Why an image cannot run on this machine; empty when it can."""
    platform = manifest.platform
    machine = os.uname().machine
    if platform == "any":
        return ""
    if not platform.endswith(f"_{machine}"):
        return f"the image is for {platform}, this machine is {machine}"
    floor = re.match(r"manylinux_(\d+)_(\d+)_", platform)
    if floor is None:
        return ""
    try:
        found = re.match(r"glibc (\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError):
        found = None
    if found is None:
        return f"the image is for {platform}, this machine's C library is not glibc"
    if tuple(map(int, found.groups())) < tuple(map(int, floor.groups())):
        return f"the image needs glibc {'.'.join(floor.groups())}, this machine has {found[0][6:]}"
    return ""


def python_of(manifest: Manifest) -> str:
    """The minor version an image needs, with ``t`` for a free-threaded one."""
    return manifest.python + ("t" if manifest.abi.endswith("t") else "")
