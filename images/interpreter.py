"""The running interpreter, and whether an image can run on this machine."""

from __future__ import annotations

import os
import re
import sys

from images.render import Interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from images.manifest import Manifest


def running_interpreter() -> tuple[str, Interpreter]:
    """The running interpreter's minor version (``3.11``, ``3.13t``) and what it is.

    Of an environment, the interpreter it was made from, with every link resolved.
    """
    base: str = getattr(sys, "_base_executable", "") or sys.executable
    major, minor, patch = sys.version_info[:3]
    # What sysconfig would say of Py_GIL_DISABLED, without importing it.
    threaded = "t" if "t" in getattr(sys, "abiflags", "") else ""
    found = Interpreter(os.path.realpath(base), f"{major}.{minor}.{patch}", sys.base_prefix)
    return f"{major}.{minor}{threaded}", found


def python_of(manifest: Manifest) -> str:
    """The minor version an image needs, with ``t`` for a free-threaded one."""
    return manifest.python + ("t" if manifest.abi.endswith("t") else "")


def machine_problem(platform: str) -> str:
    """Why an image for *platform* cannot run on this machine; empty when it can."""
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
