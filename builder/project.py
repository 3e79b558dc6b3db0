"""The project's own package (``project = "."``) as a wheel, built when an image is.

It is built from its tracked files by the build lock of the project, in isolation, and kept in
the wheelhouse by the digest of its sources: nothing is built as long as no file changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from builder.assemble import Wheel
from builder.buildlock import find_build_lock
from builder.editable import project_name
from builder.interpreter import find
from builder.sdist import WheelOf, build_project
from builder.spec import BuildSpec
from images.errors import WainError
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import read_lock
from wheelhouse.target import Target

Progress = Callable[[str, int, int], None]


def project_wheel(
    spec: BuildSpec,
    target: Target,
    wheelhouse: Wheelhouse,
    *,
    wheel_of: WheelOf | None = None,
    on_progress: Progress | None = None,
) -> Wheel:
    """The wheel of the project itself, for a target. Raises WainError and WheelhouseError."""
    name = project_name(spec.project) or canonicalize_name(Path(spec.project).name)
    lock_path = find_build_lock(Path(spec.locks), name, target.name)
    if lock_path is None:
        raise WainError(
            f"locks/pylock.build-{name}.toml", "there is no such build lock", "wain lock"
        )
    lock = read_lock(lock_path)
    interpreter = find(lock.target.python)
    if interpreter is None:
        raise WainError(
            lock_path.name,
            f"is for Python {lock.target.python}, which is not on this machine",
            "install it, or run wain lock with another",
        )
    built = build_project(
        Path(spec.project),
        lock,
        wheelhouse,
        target,
        interpreter.executable,
        on_progress=on_progress or (lambda stage, done, total: None),
        wheel_of=wheel_of,
    )
    found, version, _, _ = parse_wheel_filename(built.file)
    return Wheel(found, str(version), wheelhouse.path(built.file), built.sha256, direct=True)
