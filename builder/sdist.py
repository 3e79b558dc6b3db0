"""From an sdist and its build lock to one reproducible wheel in the wheelhouse.

The build runs in isolation (:mod:`builder.hermetic`) in an environment made from the build
lock alone; the wheel is audited and tagged for its target (:mod:`builder.abi`), put in
canonical form (:mod:`builder.canonical`), checked like any other wheel, and remembered by
what decided it (:mod:`builder.built`), so that it is built once.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from builder import hermetic
from builder.abi import check_pure, check_tags, is_pure, repaired
from builder.buildenv import Builder, builder_of
from builder.built import BuildKey, WheelFile, build_key, find_build, log_path, record_build
from builder.canonical import canonical_wheel, first_difference
from builder.hooks import Bench
from builder.source_tree import (
    SdistName,
    build_requirements,
    copy_project,
    sdist_name,
    unpack_sdist,
)
from builder.spec import BUILD_TIMEOUT
from builder.workspace import Isolation, Workspace
from images.errors import DifferenceError, WainError
from wheelhouse.index import HashMismatch, Wheelhouse
from wheelhouse.lock import Lock, LockedPackage
from wheelhouse.target import Target
from wheelhouse.text import shown

Progress = Callable[[str, int, int], None]
# The wheel of a locked build requirement that is an sdist itself.
WheelOf = Callable[[LockedPackage], Path]


@dataclass(frozen=True, slots=True)
class Built:
    """A wheel in the wheelhouse: its file name, sha256 (hex), "built" or "kept", the seconds
    it took, the log of its build, and how the build was isolated ("" when kept)."""

    file: str
    sha256: str
    source: str
    seconds: float
    log_path: Path
    isolation: str = ""


@dataclass(frozen=True, slots=True)
class _Work:
    """One build: where its source comes from, and everything fixed before it begins."""

    where: str
    key: BuildKey
    lock: Lock
    target: Target
    builder: Builder
    wheelhouse: Wheelhouse
    wheel_of: WheelOf
    flags: Mapping[str, str]
    deadline: float
    log: Path
    expected: SdistName | None
    put: Callable[[Path], object]
    isolation: Isolation


def build_sdist(
    sdist_path: Path,
    build_lock: Lock,
    wheelhouse: Wheelhouse,
    target: Target,
    interpreter: str,
    *,
    deadline: float = BUILD_TIMEOUT,
    on_progress: Progress = lambda title, done, total: None,
    reproduce: bool = False,
    flags: Mapping[str, str] | None = None,
    wheel_of: WheelOf | None = None,
    isolation: Isolation | None = None,
) -> Built:
    """Build ``sdist_path`` for ``target`` with ``interpreter``, unless that was done before.

    ``deadline`` is in seconds, for everything the build runs. ``flags`` are extra environment
    variables, part of what the wheel is kept by. ``wheel_of`` gives the wheels of build
    requirements that are sdists themselves. With ``reproduce`` it is built twice in
    different folders, whether kept or not, and the wheels are compared byte by byte.

    Raises :class:`builder.hooks.BuildFailed` (with the log), :class:`builder.abi.AbiError`
    for a wheel its target cannot run, :class:`DifferenceError` naming the first differing
    member, :class:`WainError` and ``WheelhouseError`` otherwise.
    """
    name = sdist_name(sdist_path)
    builder = builder_of(interpreter)
    key = build_key(_sha256(sdist_path), build_lock, target, flags)
    work = _Work(
        where=sdist_path.name,
        key=key,
        lock=build_lock,
        target=target,
        builder=builder,
        wheelhouse=wheelhouse,
        wheel_of=finder(wheelhouse, wheel_of, sdist_path.name),
        flags=flags or {},
        deadline=deadline,
        log=log_path(key, wheelhouse, f"{name.name}-{name.version}"),
        expected=name,
        put=lambda folder: unpack_sdist(sdist_path, folder),
        isolation=isolation or hermetic.isolation(builder.executable, builder.prefix),
    )
    return _build(work, f"{name.name} {name.version}", on_progress, reproduce)


def build_project(
    source: Path,
    build_lock: Lock,
    wheelhouse: Wheelhouse,
    target: Target,
    interpreter: str,
    *,
    deadline: float = BUILD_TIMEOUT,
    on_progress: Progress = lambda title, done, total: None,
    reproduce: bool = False,
    flags: Mapping[str, str] | None = None,
    wheel_of: WheelOf | None = None,
    isolation: Isolation | None = None,
) -> Built:
    """The same for a project's own tree: kept as long as no file of it changes.

    Its version control is shown only to backends that read the version from it.
    """
    where = str(source)
    history = reads_history(build_requirements(source, where))
    builder = builder_of(interpreter)
    isolation = isolation or hermetic.isolation(builder.executable, builder.prefix)
    with Workspace(isolation) as place:
        # One copy decides the digest and is what every build sees, whatever is edited meanwhile.
        copy = place.kept / "src"
        key = build_key(copy_project(source, copy, history), build_lock, target, flags)
        work = _Work(
            where=where,
            key=key,
            lock=build_lock,
            target=target,
            builder=builder,
            wheelhouse=wheelhouse,
            wheel_of=finder(wheelhouse, wheel_of, where),
            flags=flags or {},
            deadline=deadline,
            log=log_path(key, wheelhouse, canonicalize_name(source.resolve().name)),
            expected=None,
            put=lambda folder: shutil.copytree(copy, folder, symlinks=True),
            isolation=isolation,
        )
        return _build(work, source.resolve().name, on_progress, reproduce)


def reads_history(requires: list[str]) -> bool:
    """Whether a backend with these requirements takes the version from version control."""
    return any("scm" in text or "vcs" in text or "versioneer" in text for text in requires)


def _build(work: _Work, title: str, on_progress: Progress, reproduce: bool) -> Built:
    started = time.monotonic()
    kept = find_build(work.key, work.wheelhouse)
    if kept is not None and not reproduce:
        seconds = time.monotonic() - started
        return Built(kept.filename, kept.sha256, "kept", seconds, work.log)
    _check_builder(work)
    steps = 2 if reproduce else 1
    with ExitStack() as stack:
        wheels = []
        for step in range(steps):
            on_progress(f"building {title}", step, steps)
            wheels.append(_build_once(work, stack, step))
        on_progress(f"building {title}", steps, steps)
        if reproduce:
            _compare(work, wheels[0], wheels[1], kept)
        wheel = _publish(work, wheels[0])
    record_build(work.key, wheel, work.wheelhouse)
    seconds = time.monotonic() - started
    isolation = work.isolation.describe()
    return Built(wheel.filename, wheel.sha256, "built", seconds, work.log, isolation)


def _build_once(work: _Work, stack: ExitStack, step: int) -> Path:
    """One build from nothing; the canonical wheel lies in a workspace that ``stack`` closes."""
    log = work.log if step == 0 else work.log.with_suffix(f".{step + 1}.log")
    workspace = stack.enter_context(Workspace(work.isolation))
    place = Bench(workspace, work.builder, work.where, log, work.deadline, work.flags)
    work.put(place.source)
    place.prepare(work.lock, work.wheel_of)
    wheel = place.wheel()
    _check_name(wheel, work)
    if is_pure(wheel):
        check_pure(wheel, work.target)
    elif work.target.libc is not None:
        inside = workspace.inside("out", wheel.name)
        wheel = repaired(wheel, inside, work.target, place.auditwheel, place.repaired)
    else:
        check_tags(wheel, work.target)
    folder = workspace.kept / "canonical"
    folder.mkdir()
    if work.expected is not None:
        return canonical_wheel(wheel, folder, work.key.build_tag)
    return canonical_wheel(wheel, folder, _content_tag(wheel, folder))


def _content_tag(wheel: Path, folder: Path) -> str:
    """A project's build tag comes from what was built: a change of its sources that leaves the
    wheel as it was (a new lock, a requirements file) leaves the image as it was too."""
    plain = canonical_wheel(wheel, folder)
    digest = _sha256(plain)
    plain.unlink()
    return f"1_{digest[:8]}"


def _publish(work: _Work, wheel: Path) -> WheelFile:
    digest = _sha256(wheel)
    try:
        entry = work.wheelhouse.add(wheel, sha256=digest, target=work.target, move=True)
    except HashMismatch as error:
        raise DifferenceError(
            work.where,
            f"built again it gives other bytes under the same name, {wheel.name}: "
            f"{error.found}, the wheelhouse has {error.expected}",
            "wain build --reproduce shows whether its build is reproducible at all",
        ) from None
    return WheelFile(entry.filename, entry.sha256, work.wheelhouse.path(entry.filename))


def _compare(work: _Work, one: Path, other: Path, kept: WheelFile | None) -> None:
    difference = first_difference(one, other)
    if difference:
        raise DifferenceError(
            work.where, f"two builds gave different wheels; the first difference is {difference}"
        )
    if kept is not None and (difference := first_difference(kept.path, one)):
        raise DifferenceError(
            work.where,
            f"differs from the wheel built earlier, {kept.filename}; the first difference is "
            f"{difference}",
        )


def _check_builder(work: _Work) -> None:
    """The lock says which minor version and which machine its wheels are for."""
    wanted = work.lock.target
    if work.builder.minor != wanted.python:
        raise WainError(
            work.where,
            f"its build lock is for Python {wanted.python}, the interpreter is "
            f"{work.builder.minor}",
            "run wain lock again",
        )


def _check_name(wheel: Path, work: _Work) -> None:
    expected = work.expected
    try:
        name, version, _, _ = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename:
        raise WainError(
            work.where, f"its build made {shown(wheel.name)}, which is no wheel's file name"
        ) from None
    if expected is not None and (name, str(version)) != (expected.name, expected.version):
        raise WainError(
            work.where,
            f"its build made {wheel.name}, expected {expected.name} {expected.version}",
        )


def finder(wheelhouse: Wheelhouse, wheel_of: WheelOf | None, where: str) -> WheelOf:
    """``wheel_of`` for sdists, and for wheels the file of that name in the wheelhouse."""

    def find(package: LockedPackage) -> Path:
        if package.kind == "wheel":
            return wheelhouse.path(package.file.filename)
        if wheel_of is None:
            raise WainError(
                where,
                f"its build requirement {package.name} {package.version} is an sdist itself",
                "build that one first",
            )
        return wheel_of(package)

    return find


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WainError(path.name, f"cannot be read: {error.strerror}") from None
