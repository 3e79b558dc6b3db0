"""Whether a lock still answers what is asked: decided from the files alone where that is possible.

Nothing is contacted. A lock whose inputs are the same answers them. Of one whose inputs changed,
the requirements may still be seen to be broken; when none is, only a resolver can tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from builder.inputs import inputs_digest
from builder.locks import find_build_lock
from builder.requirements import Inputs, project_name
from builder.spec import BuildSpec, TargetSpec
from wheelhouse.errors import WheelhouseError
from wheelhouse.lock import Lock, read_lock


class Verdict(NamedTuple):
    """``problems``: why the lock does not answer; ``decided`` is false when nobody can tell."""

    problems: tuple[str, ...]
    decided: bool = True
    lock: Lock | None = None


def check_lock(spec: BuildSpec, target: TargetSpec, inputs: Inputs) -> Verdict:
    """Judge the lock of one target. Raises UsageError for wrong requirements only."""
    path = Path(spec.lock_path(target.name))
    if not path.exists():
        return Verdict(("there is no lock",))
    try:
        lock = read_lock(path)
    except WheelhouseError as error:
        return Verdict((str(error),))
    wanted = target.target()
    if (lock.target.python, lock.target.platform) != (wanted.python, wanted.platform):
        return Verdict(
            (
                f"it is for Python {lock.target.python} on {lock.target.platform}, the target is "
                f"Python {wanted.python} on {wanted.platform}",
            ),
            lock=lock,
        )
    problems = _missing_build_locks(spec, lock, target.name)
    if lock.inputs_digest == inputs_digest(spec, inputs, wanted):
        return Verdict(problems, lock=lock)
    if spec.given_lock:
        return Verdict((*problems, f"{Path(spec.given_lock).name} has changed"), lock=lock)
    problems += _unanswered(inputs, lock)
    return Verdict(problems, decided=bool(problems), lock=lock)


def _unanswered(inputs: Inputs, lock: Lock) -> tuple[str, ...]:
    """The requirements and constraints the locked versions break, and names nobody asks for."""
    problems = []
    names = set()
    for line in inputs.for_target(lock.target):
        requirement = line.requirement()
        names.add(line.name)
        package = lock.package(line.name)
        if package is None:
            problems.append(f"{line.origin}: {line.name} is not in the lock")
        elif not requirement.specifier.contains(package.version, prereleases=True):
            problems.append(f"{line.origin}: {line.text} is asked for, locked is {package.version}")
    for line in inputs.constraints:
        package = lock.package(line.name)
        specifier = line.requirement().specifier
        if package is not None and not specifier.contains(package.version, prereleases=True):
            problems.append(f"{line.origin}: {line.text} holds, locked is {package.version}")
    gone = sorted(p.name for p in lock.packages if p.direct and p.name not in names)
    problems += [f"{name} is no longer asked for" for name in gone]
    return tuple(dict.fromkeys(problems))


def _missing_build_locks(spec: BuildSpec, lock: Lock, target: str) -> tuple[str, ...]:
    names = [package.name for package in lock.packages if package.kind == "sdist"]
    if spec.project:
        names.append(project_name(Path(spec.project)))
    return tuple(
        f"{name} has no build lock"
        for name in names
        if find_build_lock(Path(spec.locks), name, target) is None
    )
