"""What an environment of a project depends on, as files; and whether its lock is up to date."""

# Paths are str: the stamp they go into is read at every start, without pathlib. What only a
# project's own package needs is imported where it is used: most of it is about building.

from __future__ import annotations

import os
from pathlib import Path

from builder.lockcheck import check_lock
from builder.locks import find_build_lock
from builder.requirements import Inputs, files_read, project_name, read_inputs
from builder.spec import FILE, BuildSpec, TargetSpec
from images.errors import WainError
from images.render import Interpreter
from wheelhouse.lock import read_lock

# What a folder without a wain.toml is read from: one that appears changes the answer.
_IMPLIED = ("requirements.txt", "pylock.toml", "pyproject.toml")
_PROJECT = ("pyproject.toml", "setup.py", "setup.cfg")


def lock_problem(spec: BuildSpec, target: TargetSpec) -> str:
    """Why a target has to be locked first; empty when its lock answers what is asked."""
    inputs = Inputs(()) if spec.given_lock else read_inputs(spec)
    verdict = check_lock(spec, target, inputs)
    if verdict.problems:
        return verdict.problems[0]
    if not verdict.decided:
        return "the requirements have changed"
    return _build_lock_problem(spec, target) if spec.project else ""


def _build_lock_problem(spec: BuildSpec, target: TargetSpec) -> str:
    """The same of the project's build lock, which depends on its build table alone."""
    from builder.buildlock import build_inputs, build_target, project_inputs
    from builder.tools import build_interpreter

    wanted = target.target()
    path = find_build_lock(Path(spec.locks), project_name(Path(spec.project)), target.name)
    if path is None:
        return "the project has no build lock"
    builder = build_target(wanted, build_interpreter(wanted))
    if read_lock(path).inputs_digest != build_inputs(project_inputs(Path(spec.project)), builder):
        return "what builds the project has changed"
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
            names += _sources(spec)
    shown = []
    for name in names:
        path = os.path.join(spec.folder, name)
        below = path.startswith(spec.folder + "/")
        shown.append(os.path.relpath(path, spec.folder) if below else path)
    return list(dict.fromkeys(shown))


def _sources(spec: BuildSpec) -> list[str]:
    """The files the project is built from, and what says which they are."""
    from builder.source_tree import project_files
    from builder.tracked import tracked_files

    project = Path(spec.project)
    tracked = tracked_files(project)
    if tracked is None:
        return [str(path) for path in project_files(project)]
    index = next(
        (str(folder / ".git" / "index") for folder in (project, *project.parents)
         if (folder / ".git" / "index").exists()),
        None,
    )  # fmt: skip
    return [str(path) for path in tracked] + ([index] if index else [])


def interpreter_at(program: str, python: str) -> Interpreter:
    """The interpreter a program really is. Raises WainError for another minor version."""
    from builder.buildenv import builder_of

    found = builder_of(os.path.abspath(program) if os.sep in program else program)
    if found.minor != python:
        raise WainError(program, f"is Python {found.version}, the image needs {python}")
    return Interpreter(found.executable, found.version, found.prefix)
