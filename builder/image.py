"""One image of a project: lock and wheelhouse in, a named and tagged image out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from builder import image_lock
from builder.assemble import Image, Options, Wheel, assemble
from builder.image_lock import ImageDiffersError, LockedImage
from builder.interpreter import find
from builder.locks import lock_of
from builder.spec import BuildSpec, TargetSpec
from builder.wheels import MissingWheelError, wheels_of
from images.catalog import Catalog, ImageDocument, ImageTarget, PackageRecord
from images.errors import UsageError, WainError
from images.render import Interpreter
from images.store import Store
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock, lock_digest
from wheelhouse.target import Target

Progress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


class NoInterpreterError(UsageError):
    """No interpreter of a target's minor version is here. ``python`` is such as ``3.12``."""

    def __init__(self, target: Target) -> None:
        self.python = target.python
        super().__init__(
            f"target {target.name}",
            f"there is no CPython {target.python} on this machine to compile bytecode with",
            f"install python{target.python}, or set bytecode = false in [image]",
        )


@dataclass(frozen=True, slots=True)
class Built:
    """An image of one target, its document, and whether ``image.<target>.txt`` changed."""

    image: Image
    document: ImageDocument
    changed: bool


def default_jobs() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def build_image(
    spec: BuildSpec,
    target: TargetSpec,
    catalog: Catalog,
    *,
    tags: tuple[str, ...] = ("latest",),
    locked: bool = False,
    jobs: int = 0,
    on_progress: Progress = _silent,
) -> Built:
    """Assemble the image of a target, keep its document and tag it.

    What the wheelhouse lacks is fetched and built first. With ``locked``, the image must be the one
    ``locks/image.<target>.txt`` names, else ImageDiffersError and nothing is tagged; without,
    that file is written. Raises WainError and WheelhouseError.
    """
    jobs = jobs or default_jobs()
    path = image_lock.image_lock_path(spec.locks, target.name)
    expected = image_lock.read(path) if locked else None
    store = catalog.store
    with Wheelhouse(spec.wheelhouse).in_use():
        plan = _Plan.of(spec, target, jobs, on_progress)
        with store.writing():
            image = plan.assemble(store, jobs, on_progress)
            found = locked_image(image)
            if expected:
                lines = image_lock.differences(expected, found)
                if lines:
                    hint = "without --locked the file is written anew"
                    raise ImageDiffersError(_shown(path, spec), lines, hint)
            document = _document(plan, image)
            catalog.put_document(document)
            for tag in tags:
                catalog.tag(tag, image.id, target.name)
    changed = not locked and image_lock.write(path, found)
    return Built(image, document, changed)


def check_image(
    spec: BuildSpec,
    target: TargetSpec,
    image: Image,
    *,
    jobs: int = 0,
    on_progress: Progress = _silent,
) -> None:
    """Build again elsewhere and otherwise: a new store, the other order, another job count.

    Raises ImageDiffersError when the result is not the same image.
    """
    import tempfile

    jobs = jobs or default_jobs()
    with (
        Wheelhouse(spec.wheelhouse).in_use(),
        tempfile.TemporaryDirectory(prefix="wain-check-") as folder,
    ):
        plan = _Plan.of(spec, target, jobs, on_progress)
        again = plan.backwards().assemble(Store(folder), 1 if jobs > 1 else 2, on_progress)
    lines = image_lock.differences(locked_image(image), locked_image(again))
    if lines:
        raise ImageDiffersError(f"target {target.name}", lines, "building is not reproducible here")


def locked_image(image: Image) -> LockedImage:
    """What ``image.<target>.txt`` says of an image."""
    manifest = image.manifest
    return LockedImage(
        image.id,
        f"{manifest.python} {manifest.abi} {manifest.platform}",
        manifest.skeleton,
        image.interpreter or "-",
        {one.name: (one.version, one.sha256, one.files) for one in image.packages},
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """What goes into one image."""

    lock: Lock
    wheels: tuple[Wheel, ...]
    options: Options
    interpreter: Interpreter | None

    @classmethod
    def of(cls, spec: BuildSpec, target: TargetSpec, jobs: int, on_progress: Progress) -> _Plan:
        """The plan; what the wheelhouse lacks is fetched and built first."""
        try:
            return cls._of(spec, target, on_progress)
        except MissingWheelError:
            # Here: nothing is fetched or built for most images, and that takes many modules.
            from builder.fill import fill

            fill(spec, [target], jobs=jobs, on_progress=on_progress)
            return cls._of(spec, target, on_progress)

    @classmethod
    def _of(cls, spec: BuildSpec, target: TargetSpec, on_progress: Progress) -> _Plan:
        lock = lock_of(spec, target)
        wheelhouse = Wheelhouse(spec.wheelhouse)
        options = Options(spec.name, spec.bytecode, spec.prune)
        interpreter = None
        if spec.bytecode:
            interpreter = find(lock.target.python)
            if interpreter is None:
                raise NoInterpreterError(lock.target)
        wheels = wheels_of(lock, spec, wheelhouse)
        if spec.project:
            from builder.project import project_wheel

            wheels.append(project_wheel(spec, lock.target, wheelhouse, on_progress))
        _one_of_each(wheels)
        return cls(lock, tuple(wheels), options, interpreter)

    def backwards(self) -> _Plan:
        return _Plan(self.lock, self.wheels[::-1], self.options, self.interpreter)

    def assemble(self, store: Store, jobs: int, on_progress: Progress) -> Image:
        return assemble(
            self.lock.target,
            self.wheels,
            store,
            self.options,
            self.interpreter,
            jobs=jobs,
            on_progress=on_progress,
        )


def _one_of_each(wheels: list[Wheel]) -> None:
    """The project may not be among its own requirements under the same name."""
    seen: set[str] = set()
    for wheel in wheels:
        if wheel.name in seen:
            raise WainError(
                wheel.path.name,
                f"{wheel.name} is in the lock and is the project itself",
                "leave it out of the requirements",
            )
        seen.add(wheel.name)


def _document(plan: _Plan, image: Image) -> ImageDocument:
    target = plan.lock.target
    return ImageDocument(
        id=image.id,
        name=plan.options.name,
        target=ImageTarget(target.name, target.python, target.abi, target.platform),
        packages=tuple(
            PackageRecord(one.name, one.version, one.wheel, one.sha256, one.files)
            for one in image.packages
        ),
        lock=lock_digest(plan.lock),
        interpreter=image.interpreter,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _shown(path: Path, spec: BuildSpec) -> str:
    return os.path.relpath(path, spec.folder)
