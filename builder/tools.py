"""Which interpreters of this machine resolve and build for a target."""

from __future__ import annotations

import sys
from pathlib import Path

from builder.interpreter import find
from wheelhouse.target import Target


def is_native(target: Target) -> bool:
    """Whether this machine could run what is built for the target: its machine and libc."""
    return target.platform in Target.running().platforms()


def interpreter_for(target: Target) -> Path | None:
    """An interpreter of the target's minor version and ABI here: the running one if it fits."""
    if Target.running().python == target.python:
        return Path(sys.executable)
    found = find(target.python) if not target.python.endswith("t") else None
    return Path(found.executable) if found is not None else None


def can_build(target: Target) -> bool:
    """Whether this machine builds for the target whatever the package holds."""
    return is_native(target) and interpreter_for(target) is not None


def build_interpreter(target: Target) -> str:
    """The interpreter that builds for a target: of its minor version, else the running one.

    What another one builds is only right when it is pure Python; the builder checks that.
    """
    return str(interpreter_for(target) or sys.executable)
