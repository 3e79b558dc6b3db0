"""The project's own package (``project = "."``) as a wheel, built when an image is.

It is built from its tracked files by the build lock of the project, in isolation, and kept in
the wheelhouse by the digest of its sources: nothing is built as long as no file changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from packaging.utils import parse_wheel_filename

from builder.assemble import Wheel
from builder.locks import build_lock_of
from builder.requirements import project_name
from builder.sdist import build_project
from builder.spec import BuildSpec
from builder.tools import build_interpreter
from builder.wheels import MissingWheelError
from wheelhouse.errors import WheelhouseError
from wheelhouse.index import Wheelhouse
from wheelhouse.target import Target

Progress = Callable[[str, int, int], None]


def project_wheel(
    spec: BuildSpec,
    target: Target,
    wheelhouse: Wheelhouse,
    on_progress: Progress,
) -> Wheel:
    """The wheel of the project itself, for a target.

    Raises MissingWheelError when something it is built with is not in the wheelhouse, and
    WainError.
    """
    name = project_name(Path(spec.project))
    build_lock = build_lock_of(spec, name, target.name)
    try:
        built = build_project(
            Path(spec.project),
            build_lock,
            wheelhouse,
            target,
            build_interpreter(target),
            on_progress=on_progress,
        )
        path = wheelhouse.path(built.file)
    except WheelhouseError as error:
        raise MissingWheelError(name, error.where, error.what) from None
    version = str(parse_wheel_filename(built.file)[1])
    return Wheel(name, version, path, built.sha256, direct=True)
