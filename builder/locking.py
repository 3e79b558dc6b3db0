"""All that `wain lock` writes: a lock for each target, and a build lock for each sdist.

Everything is resolved before the first file is written, so a failed `wain lock` leaves the old
locks as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from builder import places
from builder.proof import Gap, ProofError
from builder.requirements import Inputs, project_name, read_inputs
from builder.resolve import resolve_requirements, resolve_target
from builder.spec import BuildSpec, TargetSpec
from builder.tools import build_interpreter, can_build
from images.errors import UsageError, WainError
from wheelhouse.errors import WheelhouseError
from wheelhouse.lock import Lock, LockedPackage, read_lock, write_lock
from wheelhouse.target import Target

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]
# A build that is tried to prove that an sdist is pure Python may take this long. Seconds.
_TRIAL = 900.0


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

        def one(name: str) -> Lock:
            return resolve_target(
                self.spec,
                full[name],
                previous[name],
                self.upgrade,
                inputs=asked,
                say=self.say,
                newest=self.newest,
            )

        locks: dict[str, Lock] = {}
        with ThreadPoolExecutor(2) as pool:
            for name, lock in zip(full, pool.map(one, full), strict=True):
                locks[name] = lock
                self.on_progress("resolving", len(locks), len(full))
        return locks

    def write(self, locks: Mapping[str, Lock]) -> dict[str, Written]:
        """Make the build locks, then write everything; by target's name. Raises WainError."""
        spec = self.spec
        planned = self._build_locks(locks)
        places.remember(Path(spec.folder), [*locks.values(), *planned.values()])
        written = {}
        for name, lock in locks.items():
            written[name] = self._write(Path(spec.lock_path(name)), lock)
        for path, lock in planned.items():
            self._write(path, lock)
        if len(self.targets) == len(spec.targets):
            self._remove_stale(set(planned))
        return written

    def _write(self, path: Path, lock: Lock) -> Written:
        previous = _read(path)
        changed = write_lock(lock, path, Path(self.spec.wheelhouse), urls=self.urls)
        return Written(path, lock, previous, changed)

    def _check_upgrades(self, previous: Iterable[Lock | None], asked: Inputs) -> None:
        known = {p.name for lock in previous if lock for p in lock.packages}
        known |= {line.name for line in asked.requirements}
        known |= {
            p.name
            for path in Path(self.spec.locks).glob("pylock.build-*.toml")
            if (lock := _read(path))
            for p in lock.packages
        }
        for name in self.upgrade:
            if name not in known:
                from images.tomlfile import suggest

                raise UsageError(
                    "--upgrade", f"{name!a} is in no lock of this project", suggest(name, known)
                )

    # --- build locks ------------------------------------------------------------------------

    def _build_locks(self, locks: Mapping[str, Lock]) -> dict[Path, Lock]:
        """The build locks that are needed, by the path each belongs at."""
        wanted = [
            (name, lock.target, package)
            for name, lock in locks.items()
            for package in lock.packages
            if package.kind == "sdist"
        ]
        if not wanted and not self.spec.project:
            return {}
        from builder import buildlock

        folder = Path(self.spec.locks)
        # Whether a name needs a lock for each target must not depend on which are locked now.
        each = len(self.spec.targets) > 1
        planned: dict[Path, Lock] = {}
        total = len(wanted) + (len(locks) if self.spec.project else 0)
        for done, (name, target, package) in enumerate(wanted):
            self.on_progress("locking what builds from source", done, total)
            path = buildlock.build_lock_path(folder, package.name, name if each else "")
            planned[path] = self._sdist_lock(target, package, path)
        if self.spec.project:
            own = project_name(Path(self.spec.project))
            for name, lock in locks.items():
                path = buildlock.build_lock_path(folder, own, name if each else "")
                planned[path] = self._project_lock(lock.target, path)
        self.on_progress("locking what builds from source", total, total)
        return planned

    def _sdist_lock(self, target: Target, package: LockedPackage, path: Path) -> Lock:
        from builder import buildlock

        interpreter = build_interpreter(target)
        builder = buildlock.build_target(target, interpreter)
        inputs = buildlock.build_inputs(package.file.sha256, builder)
        kept = self._kept(path, inputs)
        if kept is None:
            kept = self._plan(target, package, inputs, path)
        if not can_build(target):
            self._prove_pure(target, package, kept)
        return kept

    def _project_lock(self, target: Target, path: Path) -> Lock:
        from builder import buildlock

        builder = buildlock.build_target(target, build_interpreter(target))
        source = buildlock.project_inputs(Path(self.spec.project))
        inputs = buildlock.build_inputs(source, builder)
        return self._kept(path, inputs) or self._plan(target, None, inputs, path)

    def _kept(self, path: Path, inputs: str) -> Lock | None:
        """The build lock that is there, when it is for the same source and nothing is to move."""
        old = _read(path)
        if old is None or old.inputs_digest != inputs or self.newest:
            return None
        return None if any(old.package(name) for name in self.upgrade) else old

    def _plan(
        self,
        target: Target,
        package: LockedPackage | None,
        inputs: str,
        path: Path,
    ) -> Lock:
        """The build lock of a package, or of the project itself."""
        from builder import buildlock
        from builder.fetch import fetch
        from builder.sources import sources_of
        from wheelhouse.index import Wheelhouse

        spec = self.spec
        wheelhouse = Wheelhouse(spec.wheelhouse)
        sources = sources_of(spec)
        interpreter = build_interpreter(target)
        builder = buildlock.build_target(target, interpreter)
        old = _read(path)
        known = places.recall(Path(spec.folder))

        def resolve(requirements: list[str]) -> Lock:
            return resolve_requirements(
                requirements,
                builder,
                spec,
                previous=None if self.newest else old,
                upgrade={name: v for name, v in self.upgrade.items() if old and old.package(name)},
                origin=f"what builds {package.name if package else spec.name}",
                say=self.say,
            )

        def bring(lock: Lock) -> None:
            fetch(lock, wheelhouse, sources, places=known, on_progress=self.on_progress)

        source = Path(spec.project)
        if package is not None:
            bring(Lock(target, (package,)))
            source = wheelhouse.path(package.file.filename)
        log = Path(spec.wheelhouse) / ".meta" / "built" / f"lock-{path.stem}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return buildlock.plan_build_lock(
            source,
            builder,
            interpreter,
            resolve,
            wheelhouse=wheelhouse,
            fetch=bring,
            log=log,
            inputs=inputs,
            on_progress=self.on_progress,
        )

    def _prove_pure(self, target: Target, package: LockedPackage, build_lock: Lock) -> None:
        """Build for a target this machine cannot run: only pure Python comes out right.

        Raises ProofError naming target and package.
        """
        from builder.fetch import fetch
        from builder.sdist import build_sdist
        from builder.sources import sources_of
        from wheelhouse.index import Wheelhouse

        wheelhouse = Wheelhouse(self.spec.wheelhouse)
        try:
            fetch(
                [build_lock, Lock(target, (package,))],
                wheelhouse,
                sources_of(self.spec),
                places=places.recall(Path(self.spec.folder)),
            )
            build_sdist(
                wheelhouse.path(package.file.filename),
                build_lock,
                wheelhouse,
                target,
                build_interpreter(target),
                deadline=_TRIAL,
                on_progress=self.on_progress,
            )
        except (WainError, WheelhouseError) as error:
            why = (
                f"there is only the sdist {package.file.filename}, and this machine cannot build "
                f"it for {target.platform}: {error.what}"
            )
            raise ProofError(target, (Gap(package.name, package.version, why),)) from None

    def _remove_stale(self, needed: set[Path]) -> None:
        for path in Path(self.spec.locks).glob("pylock.build-*.toml"):
            if path not in needed:
                path.unlink()


def previous_lock(spec: BuildSpec, target: str) -> Lock | None:
    """The lock of a target as it stands, None when there is none or it cannot be read."""
    return _read(Path(spec.lock_path(target)))


def _read(path: Path) -> Lock | None:
    if not path.exists():
        return None
    try:
        return read_lock(path)
    except WheelhouseError:
        # It is about to be written anew: what an unreadable one said cannot be kept.
        return None


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
