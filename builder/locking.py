"""All that `wain lock` writes: a lock for each target, and a build lock for each sdist.

Everything is resolved before the first file is written, so a failed `wain lock` leaves the old
locks as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from builder import places
from builder.build_locks import BuildLocking, read_if_good
from builder.requirements import Inputs, read_inputs
from builder.resolve import resolve_target
from builder.spec import BuildSpec, TargetSpec
from builder.tools import can_build
from builder.urls import mask
from images.errors import UsageError
from wheelhouse.lock import Lock, write_lock
from wheelhouse.target import Target

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]
# So many resolvers run at once.
_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Written:
    """A lock as written: ``previous`` is what stood there, None for a new one."""

    path: Path
    lock: Lock
    previous: Lock | None
    changed: bool


@dataclass(frozen=True, slots=True)
class Locking:
    """What to lock and how: the options of one `wain lock`.

    ``upgrade``: names that may move → version to take, or an empty text. ``newest`` moves all.
    """

    spec: BuildSpec
    targets: tuple[TargetSpec, ...]
    upgrade: Mapping[str, str]
    newest: bool = False
    urls: bool = False
    on_progress: Progress = lambda stage, done, total: None
    say: Say = lambda text: None

    def resolve(self) -> dict[str, Lock]:
        """The new lock of each target; nothing is written. Raises WainError."""
        asked = Inputs(()) if self.spec.given_lock else read_inputs(self.spec)
        full = {spec.name: spec.target() for spec in self.targets}
        previous = {name: previous_lock(self.spec, name) for name in full}
        self._check_upgrades(previous.values(), asked)
        self.on_progress("resolving", 0, len(full))

        def one(name: str, leader: Lock | None) -> Lock:
            return resolve_target(
                self.spec,
                full[name],
                previous[name],
                self.upgrade,
                inputs=asked,
                say=self.say,
                newest=self.newest,
                prefer={p.name: p.version for p in leader.packages} if leader else {},
            )

        locks: dict[str, Lock] = {}

        def add(names: Sequence[str], leaders: Mapping[str, Lock]) -> None:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                found = pool.map(lambda name: one(name, leaders.get(full[name].python)), names)
                for name, lock in zip(names, found, strict=True):
                    locks[name] = lock
                    self.on_progress("resolving", len(locks), len(full))

        first = leading(full)
        add(first, {})
        add([name for name in full if name not in first], {full[n].python: locks[n] for n in first})
        return {name: locks[name] for name in full}

    def write(self, locks: Mapping[str, Lock]) -> dict[str, Written]:
        """Make the build locks, then write everything; by target's name. Raises WainError."""
        spec = self.spec
        building = BuildLocking(spec, self.upgrade, self.newest, self.on_progress, self.say)
        planned = building.plan(locks)
        places.remember(Path(spec.folder), [*locks.values(), *planned.values()])
        written = {}
        for name, lock in locks.items():
            written[name] = self._write(Path(spec.lock_path(name)), lock)
        for path, lock in planned.items():
            self._write(path, lock)
        if len(self.targets) == len(spec.targets):
            for path in Path(spec.locks).glob("pylock.build-*.toml"):
                if path not in planned:
                    path.unlink()
        return written

    def _write(self, path: Path, lock: Lock) -> Written:
        previous = read_if_good(path)
        house = Path(self.spec.wheelhouse)
        changed = write_lock(without_secrets(lock), path, house, urls=self.urls)
        return Written(path, lock, previous, changed)

    def _check_upgrades(self, previous: Iterable[Lock | None], asked: Inputs) -> None:
        known = {p.name for lock in previous if lock for p in lock.packages}
        known |= {line.name for line in asked.requirements}
        known |= {
            p.name
            for path in Path(self.spec.locks).glob("pylock.build-*.toml")
            if (lock := read_if_good(path))
            for p in lock.packages
        }
        for name in self.upgrade:
            if name not in known:
                from images.tomlfile import suggest

                raise UsageError(
                    "--upgrade", f"{name!a} is in no lock of this project", suggest(name, known)
                )


def without_secrets(lock: Lock) -> Lock:
    """The lock without the addresses that are secrets themselves, such as signed ones. Pure."""
    packages = tuple(
        replace(package, file=replace(package.file, url=None))
        if package.file.url and mask(package.file.url) != package.file.url
        else package
        for package in lock.packages
    )
    return replace(lock, packages=packages)


def leading(targets: Mapping[str, Target]) -> list[str]:
    """The first target to resolve of each Python version: one this machine can run if there is.

    The others of that version keep to its versions where they can, so that a project runs the
    same releases on all its machines. Pure but for looking at this machine.
    """
    chosen: dict[str, str] = {}
    for name, target in targets.items():
        leader = chosen.get(target.python)
        if leader is None or (can_build(target) and not can_build(targets[leader])):
            chosen[target.python] = name
    return list(chosen.values())


def previous_lock(spec: BuildSpec, target: str) -> Lock | None:
    """The lock of a target as it stands, None when there is none or it cannot be read."""
    return read_if_good(Path(spec.lock_path(target)))


def parse_upgrades(words: Sequence[str]) -> dict[str, str]:
    """``PKG`` or ``PKG==X`` → name and version. Raises UsageError."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, version = (part.strip() for part in word.partition("=="))
        try:
            key = canonicalize_name(name, validate=True)
            found[key] = str(Version(version)) if equals else ""
        except (InvalidName, InvalidVersion):
            raise UsageError("--upgrade", f"{word!a} is neither PKG nor PKG==VERSION") from None
    return found
