"""What an environment of a project depends on, as files; and whether its lock is up to date."""

# Paths are str: the stamp they go into is read at every start, without pathlib.

from __future__ import annotations

import os
from pathlib import Path

from builder.buildenv import builder_of
from builder.requirements import files_read, read_inputs
from builder.resolve import inputs_digest
from builder.source_tree import project_files
from builder.spec import FILE, BuildSpec, TargetSpec
from images.errors import WainError
from images.render import Interpreter
from wheelhouse.lock import read_lock

# What a folder without a wain.toml is read from: one that appears changes the answer.
_IMPLIED = ("requirements.txt", "pylock.toml", "pyproject.toml")
_PROJECT = ("pyproject.toml", "setup.py", "setup.cfg")


def lock_problem(spec: BuildSpec, target: TargetSpec) -> str:
    """Why a target has to be locked first; empty when its lock is what the inputs lead to."""
    path = Path(spec.lock_path(target.name))
    if not path.is_file():
        return "there is no lock yet"
    wanted = target.target()
    if read_lock(path).inputs_digest != inputs_digest(spec, read_inputs(spec), wanted):
        return "the requirements have changed"
    return ""


def deciding_files(spec: BuildSpec, target: TargetSpec) -> list[str]:
    """The files that decide an environment, relative to the project's folder where below it.

    A file that is not there decides too: it would when it appeared.
    """
    names = [FILE, spec.lock_path(target.name)]
    if not spec.file:
        names += _IMPLIED
    names += files_read(spec)
    if spec.project:
        names += [os.path.join(spec.project, name) for name in _PROJECT]
        if not spec.editable:
            names += [str(path) for path in project_files(Path(spec.project))]
    shown = []
    for name in names:
        path = os.path.join(spec.folder, name)
        below = path.startswith(spec.folder + "/")
        shown.append(os.path.relpath(path, spec.folder) if below else path)
    return list(dict.fromkeys(shown))


def interpreter_at(program: str, python: str) -> Interpreter:
    """The interpreter a program really is. Raises WainError for another minor version."""
    found = builder_of(os.path.abspath(program) if os.sep in program else program)
    if found.minor != python:
        raise WainError(program, f"is Python {found.version}, the image needs {python}")
    return Interpreter(found.executable, found.version, found.prefix)
