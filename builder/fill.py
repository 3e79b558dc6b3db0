"""Locks to a full wheelhouse: wheels fetched by hash, sdists and the project itself built.

Nothing is resolved here and no index is asked while something is built: what a build needs was
locked, and is fetched before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from packaging.utils import parse_wheel_filename

from builder import places
from builder.built import WheelFile, built_wheel
from builder.hermetic import stop_running
from builder.locks import build_lock_of, lock_of
from builder.requirements import project_name
from builder.sdist import Built, build_project, build_sdist
from builder.sources import sources_of
from builder.spec import BuildSpec, TargetSpec
from builder.tools import build_interpreter
from images.errors import WainError
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock, LockedFile, LockedPackage
from wheelhouse.target import Target

if TYPE_CHECKING:
    from builder.fetch import Fetched

Progress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


class Made(NamedTuple):
    """A wheel of the wheelhouse. ``source``: ``index``, ``built`` or ``kept``.

    ``isolation`` says how a build was kept apart from this machine; ``log`` is its log.
    """

    file: str
    sha256: str
    source: str
    seconds: float
    targets: tuple[str, ...] = ()
    isolation: str = ""
    log: str = ""


class Filled(NamedTuple):
    """What a wheelhouse was filled with. ``locks``: target → its lock of wheels there."""

    made: list[Made]
    locks: dict[str, Path]


class _Task(NamedTuple):
    """One sdist to build for one target."""

    package: LockedPackage
    build_lock: Lock
    target: Target


def fill(
    spec: BuildSpec,
    targets: Sequence[TargetSpec],
    *,
    jobs: int = 0,
    reproduce: bool = False,
    on_progress: Progress = _silent,
) -> Filled:
    """Bring everything the targets' locks name into the wheelhouse.

    Beside the wheels goes a lock of each target that names nothing but them. ``reproduce``
    builds every sdist twice in different folders and compares the bytes. Raises WainError and
    WheelhouseError; what was done before stays, and the same call continues.
    """
    wheelhouse = Wheelhouse(spec.wheelhouse)
    with wheelhouse.in_use():
        return _fill(spec, targets, wheelhouse, jobs, reproduce, on_progress)


def _fill(
    spec: BuildSpec,
    targets: Sequence[TargetSpec],
    wheelhouse: Wheelhouse,
    jobs: int,
    reproduce: bool,
    on_progress: Progress,
) -> Filled:
    # Here: a filled wheelhouse is looked at often, and loads no HTTP client for it.
    from builder.fetch import fetch

    locks = {target.name: lock_of(spec, target) for target in targets}
    tasks, kept = _tasks(spec, locks, wheelhouse, reproduce)
    built_names = {task.package.file.sha256 for task in tasks}
    wanted = [
        Lock(
            lock.target,
            tuple(p for p in lock.packages if p.kind == "wheel" or p.file.sha256 in built_names),
        )
        for lock in locks.values()
    ]
    project_locks = _project_locks(spec, targets)
    fetched = fetch(
        [*wanted, *(task.build_lock for task in tasks), *project_locks.values()],
        wheelhouse,
        sources_of(spec),
        jobs=jobs,
        places=places.recall(Path(spec.folder)),
        on_progress=on_progress,
    )
    by_target = _targets_by_hash(locks)
    made = [_made(one, by_target) for one in fetched if one.sha256 in by_target]
    made += kept
    made += _build_all(tasks, wheelhouse, jobs, reproduce, spec.build_timeout, on_progress)
    written = {}
    for target in targets:
        own = None
        if spec.project:
            own = make_project(
                spec, target, wheelhouse, reproduce=reproduce, on_progress=on_progress
            )
            made.append(_from_build(own, target.name))
        lock = _of_wheels(spec, locks[target.name], own, wheelhouse)
        written[target.name] = wheelhouse.write_lock(lock, wheel_lock_name(spec, target.name))
    return Filled(sorted(made, key=lambda one: one.file), written)


def wheel_lock_name(spec: BuildSpec, target: str) -> str:
    """What a target's lock in the wheelhouse is called: projects may share a wheelhouse."""
    # A lock's name holds no dot (PEP 751).
    return f"{spec.name.replace('.', '-')}-{target}"


def _of_wheels(spec: BuildSpec, lock: Lock, own: Built | None, wheelhouse: Wheelhouse) -> Lock:
    """The lock with each sdist's wheel in its place, and the project's own wheel.

    What installs from it needs no index and builds nothing.
    """
    packages = [_as_wheel(spec, lock, package, wheelhouse) for package in lock.packages]
    if own is not None:
        name, version, _, _ = parse_wheel_filename(own.file)
        file = _locked_file(own.file, wheelhouse)
        packages.append(LockedPackage(name, str(version), file, direct=True))
    return Lock(lock.target, tuple(packages), lock.inputs_digest)


def _as_wheel(
    spec: BuildSpec, lock: Lock, package: LockedPackage, wheelhouse: Wheelhouse
) -> LockedPackage:
    if package.kind == "wheel":
        return package
    build_lock = build_lock_of(spec, package.name, lock.target.name)
    wheel = built_wheel(package, build_lock, lock.target, wheelhouse)
    if wheel is None:
        raise WainError(package.file.filename, "its wheel has left the wheelhouse", "wain build")
    return replace(package, file=_locked_file(wheel.filename, wheelhouse), kind="wheel")


def _locked_file(filename: str, wheelhouse: Wheelhouse) -> LockedFile:
    entry = wheelhouse.entry(filename)
    if entry is None:
        raise WainError(filename, "has left the wheelhouse", "wain build")
    return LockedFile(entry.filename, entry.sha256, entry.size)


def make_project(
    spec: BuildSpec,
    target: TargetSpec,
    wheelhouse: Wheelhouse,
    *,
    reproduce: bool = False,
    on_progress: Progress = _silent,
) -> Built:
    """The wheel of the project itself for a target, built unless nothing of it changed.

    The files of its build lock are fetched where they are missing. Raises WainError.
    """
    from builder.fetch import fetch

    full = lock_of(spec, target).target
    folder = Path(spec.project)
    build_lock = build_lock_of(spec, project_name(folder), target.name)
    fetch(
        build_lock,
        wheelhouse,
        sources_of(spec),
        places=places.recall(Path(spec.folder)),
        on_progress=on_progress,
    )
    return build_project(
        folder,
        build_lock,
        wheelhouse,
        full,
        build_interpreter(full),
        deadline=spec.build_timeout,
        on_progress=on_progress,
        reproduce=reproduce,
    )


def _tasks(
    spec: BuildSpec, locks: dict[str, Lock], wheelhouse: Wheelhouse, reproduce: bool
) -> tuple[list[_Task], list[Made]]:
    """What has to be built, and what was."""
    tasks: list[_Task] = []
    kept: list[Made] = []
    for name, lock in locks.items():
        for package in lock.packages:
            if package.kind != "sdist":
                continue
            build_lock = build_lock_of(spec, package.name, name)
            wheel = built_wheel(package, build_lock, lock.target, wheelhouse)
            if wheel is not None and not reproduce:
                kept.append(_kept(wheel, name))
            else:
                tasks.append(_Task(package, build_lock, lock.target))
    return tasks, kept


def _kept(wheel: WheelFile, target: str) -> Made:
    return Made(wheel.filename, wheel.sha256, "kept", 0.0, (target,))


def _project_locks(spec: BuildSpec, targets: Sequence[TargetSpec]) -> dict[str, Lock]:
    if not spec.project:
        return {}
    name = project_name(Path(spec.project))
    return {target.name: build_lock_of(spec, name, target.name) for target in targets}


def _targets_by_hash(locks: dict[str, Lock]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, lock in locks.items():
        for package in lock.packages:
            if package.kind == "wheel":
                found[package.file.sha256] = (*found.get(package.file.sha256, ()), name)
    return found


def _made(one: Fetched, by_target: dict[str, tuple[str, ...]]) -> Made:
    return Made(one.file, one.sha256, one.source, one.seconds, by_target[one.sha256])


def _from_build(built: Built, target: str) -> Made:
    return Made(
        built.file,
        built.sha256,
        built.source,
        built.seconds,
        (target,),
        built.isolation,
        str(built.log_path),
    )


def _build_all(
    tasks: Iterable[_Task],
    wheelhouse: Wheelhouse,
    jobs: int,
    reproduce: bool,
    deadline: float,
    on_progress: Progress,
) -> list[Made]:
    ordered = list(tasks)
    if not ordered:
        return []
    lock, done = threading.Lock(), 0

    def build(task: _Task) -> Made:
        nonlocal done
        sdist = wheelhouse.path(task.package.file.filename)
        built = build_sdist(
            sdist,
            task.build_lock,
            wheelhouse,
            task.target,
            build_interpreter(task.target),
            deadline=deadline,
            reproduce=reproduce,
        )
        with lock:
            done += 1
            on_progress("building from source", done, len(ordered))
        return _from_build(built, task.target.name)

    on_progress("building from source", 0, len(ordered))
    with ThreadPoolExecutor(jobs or 2) as pool:
        running = [pool.submit(build, task) for task in ordered]
        try:
            return [future.result() for future in running]
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            # One failed build lets the others finish; an interrupted wain waits for none.
            if not isinstance(error, Exception):
                stop_running()
            raise
