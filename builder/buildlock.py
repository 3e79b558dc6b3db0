"""What builds one sdist, by hash: making its build lock, and where it lies.

The requirements are the static ones of ``pyproject.toml`` and what the backend's own hook
asks for (PEP 517), which is run in isolation in an environment of the static ones. The
result is an ordinary lock, ``locks/pylock.build-<name>.toml``.

A build lock is for the interpreter and machine that build, not for those that will run the
wheel: its target is :func:`build_target`. Where several targets of one project need the same
package built, each has its own, ``pylock.build-<name>--<target>.toml``: their interpreters
differ, and so may the version. (A normalised name never holds two dashes in a row.)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder import hermetic
from builder.buildenv import Builder, builder_of
from builder.hooks import Bench
from builder.sdist import Progress, WheelOf, finder
from builder.source_tree import build_requirements, checked_requirements, copy_project, unpack_sdist
from builder.spec import BUILD_TIMEOUT
from builder.workspace import Isolation, Workspace
from images.errors import WainError
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock
from wheelhouse.target import Target

_FORMAT = 1


def build_target(target: Target, interpreter: str) -> Target:
    """The target a build's own requirements are resolved for.

    The interpreter's minor version on this machine. As long as this machine can run what
    runs on ``target``, the target's own platform is taken, so that the build lock does not
    depend on whose machine wrote it.
    """
    builder = builder_of(interpreter)
    here = Target.running()
    mine, theirs = here.libc, target.libc
    same = mine is not None and theirs is not None and mine[0] == theirs[0] and mine >= theirs
    platform = target.platform if same and here.machine == target.machine else here.platform
    full = target.python_full_version if builder.minor == target.python else ""
    return Target(target.name, builder.minor, platform, full)


def build_inputs(source: str, target: Target) -> str:
    """The digest a build lock records of what it was made for: ``source`` is the sdist's
    sha256, or :func:`project_inputs` for a project; ``target`` is the build's own."""
    text = json.dumps([_FORMAT, source, target.python, target.platform])
    return hashlib.sha256(text.encode()).hexdigest()


def project_inputs(source: Path) -> str:
    """What a project's build lock depends on: not on its every file, only on its build table
    and what setuptools reads requirements from."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "setup.py", "setup.cfg"):
        path = source / name
        data = path.read_bytes() if path.is_file() else b""
        digest.update(b"%d\0" % len(data) + data)
    return digest.hexdigest()


def plan_build_lock(
    source: Path,
    target: Target,
    interpreter: str,
    resolve: Callable[[list[str]], Lock],
    *,
    wheelhouse: Wheelhouse,
    fetch: Callable[[Lock], object],
    log: Path,
    inputs: str,
    deadline: float = BUILD_TIMEOUT,
    on_progress: Progress = lambda title, done, total: None,
    wheel_of: WheelOf | None = None,
    flags: Mapping[str, str] | None = None,
    isolation: Isolation | None = None,
) -> Lock:
    """The build lock of an sdist (a file) or a project (a folder).

    ``target`` is :func:`build_target`'s; ``resolve`` answers requirements for it, and
    ``fetch`` puts the files of a lock into ``wheelhouse``, where they are taken from.
    ``inputs`` is :func:`build_inputs`. Raises :class:`builder.source_tree.SourceError`,
    :class:`builder.hooks.BuildFailed`, and whatever ``resolve`` and ``fetch`` raise.
    """
    builder = builder_of(interpreter)
    kept = isolation or hermetic.isolation(builder.executable, builder.prefix)
    with Workspace(kept) as workspace:
        bench = Bench(workspace, builder, source.name, log, deadline, flags or {})
        on_progress(f"reading the build requirements of {source.name}", 0, 0)
        if source.is_dir():
            copy_project(source, bench.source, with_history=True)
        else:
            unpack_sdist(source, bench.source)
        static = build_requirements(bench.source, source.name)
        lock = _checked(resolve(static), builder, source.name)
        fetch(lock)
        bench.prepare(lock, finder(wheelhouse, wheel_of, source.name))
        asked = checked_requirements(bench.requires(), f"{source.name}: its build backend")
    missing = [text for text in asked if not answers(lock, text)]
    if missing:
        lock = _checked(resolve(sorted({*static, *missing})), builder, source.name)
        fetch(lock)
    return dataclasses.replace(lock, inputs_digest=inputs)


def answers(lock: Lock, text: str) -> bool:
    """Whether a lock already holds what a requirement asks for (pure)."""
    requirement = Requirement(text)
    if requirement.marker is not None and not lock.target.evaluate(requirement.marker):
        return True
    package = lock.package(canonicalize_name(requirement.name))
    return (
        package is not None
        and not requirement.extras
        and requirement.specifier.contains(package.version, prereleases=True)
    )


def _checked(lock: Lock, builder: Builder, where: str) -> Lock:
    if lock.target.python != builder.minor:
        raise WainError(
            where,
            f"its build requirements were resolved for Python {lock.target.python}, "
            f"the interpreter is {builder.minor}",
        )
    return lock
