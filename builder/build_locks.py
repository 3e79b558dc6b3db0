"""The build locks `wain lock` writes: what builds each sdist, and the project itself, by hash.

A build lock is kept as it is as long as its source and the machine that builds are the same and
nothing in it was asked to move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from builder import places
from builder.locks import build_lock_path
from builder.proof import Gap, ProofError
from builder.requirements import project_name
from builder.resolve import resolve_requirements
from builder.spec import BuildSpec
from builder.tools import build_interpreter, can_build
from images.errors import WainError
from wheelhouse.errors import WheelhouseError
from wheelhouse.lock import Lock, LockedPackage, read_lock
from wheelhouse.target import Target

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]
# A build that is tried to prove that an sdist is pure Python may take this long. Seconds.
_TRIAL = 900.0
_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class BuildLocking:
    """What to lock again and how; the fields are those of ``builder.locking.Locking``."""

    spec: BuildSpec
    upgrade: Mapping[str, str]
    newest: bool
    on_progress: Progress
    say: Say

    def plan(self, locks: Mapping[str, Lock]) -> dict[Path, Lock]:
        """The build locks that are needed, by the path each belongs at. Raises WainError."""
        wanted = [
            (name, lock.target, package)
            for name, lock in locks.items()
            for package in lock.packages
            if package.kind == "sdist"
        ]
        if not wanted and not self.spec.project:
            return {}
        from wheelhouse.index import Wheelhouse

        folder = Path(self.spec.locks)
        # Whether a name needs a lock for each target must not depend on which are locked now.
        each = len(self.spec.targets) > 1
        tasks: list[tuple[Path, Callable[[Path], Lock]]] = []
        for name, target, package in wanted:
            path = build_lock_path(folder, package.name, name if each else "")
            tasks.append((path, partial(self._sdist_lock, target, package)))
        if self.spec.project:
            own = project_name(Path(self.spec.project))
            for name, lock in locks.items():
                path = build_lock_path(folder, own, name if each else "")
                tasks.append((path, partial(self._project_lock, lock.target)))
        title, planned = "locking what builds from source", {}
        self.on_progress(title, 0, len(tasks))
        with Wheelhouse(self.spec.wheelhouse).in_use(), ThreadPoolExecutor(_AT_ONCE) as pool:
            running = {pool.submit(make, path): path for path, make in tasks}
            try:
                for done in as_completed(running):
                    planned[running[done]] = done.result()
                    self.on_progress(title, len(planned), len(tasks))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
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
        old = read_if_good(path)
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
        old = read_if_good(path)
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
            fetch(lock, wheelhouse, sources, places=known)

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
            deadline=spec.build_timeout,
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
                deadline=min(_TRIAL, self.spec.build_timeout),
            )
        except (WainError, WheelhouseError) as error:
            why = (
                f"there is only the sdist {package.file.filename}, and this machine cannot build "
                f"it for {target.platform}: {error.what}"
            )
            raise ProofError(target, (Gap(package.name, package.version, why),)) from None


def read_if_good(path: Path) -> Lock | None:
    """A lock, None when it is not there or cannot be read."""
    if not path.exists():
        return None
    try:
        return read_lock(path)
    except WheelhouseError:
        # It is about to be written anew: what an unreadable one said cannot be kept.
        return None
