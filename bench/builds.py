"""Figures of locks, the wheelhouse and builds, against pip and uv."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path

from bench.pairs import Action, Figure, Pair, command, nothing, paired
from bench.report import Result
from bench.tried_set import PACKAGES, WAIN
from bench.tried_wheels import make_project, tried_set
from bench.validation import accepted_and_refused
from tests.support.wheels import make_wheel
from wheelhouse import notes
from wheelhouse.index import Wheelhouse

UV = str(Path(sys.executable).parent / "uv")
PIP = [sys.executable, "-m", "pip"]


def measure(folder: Path) -> list[Result]:
    """All figures of this section."""
    folder.mkdir(parents=True)
    return [
        *tried_set(folder / "tried"),
        *accepted_and_refused(folder / "wheels"),
        _lock_with_pip(folder / "pip"),
        _lock_with_uv(folder / "uv"),
        *_large_wheelhouse(folder / "large"),
    ]


def _lock_with_pip(folder: Path) -> Pair:
    project = make_project(folder, PACKAGES, 'resolver = "pip"\n')
    requirements = str(project / "requirements.txt")
    return paired(
        "Lock with pip",
        ("wain lock", lambda: _forget(project), command([*WAIN, "-C", str(project), "lock"])),
        (
            "pip lock",
            nothing,
            command([*PIP, "lock", "-q", "-r", requirements, "-o", str(folder / "pylock.toml")]),
        ),
        runs=5,
        bound=1.3,
    )


def _lock_with_uv(folder: Path) -> Result:
    project = make_project(folder, PACKAGES, 'resolver = "uv"\n')
    compile_it = [UV, "pip", "compile", "-q", "--generate-hashes"]
    pair = paired(
        "Lock with uv",
        ("wain lock", lambda: _forget(project), command([*WAIN, "-C", str(project), "lock"])),
        (
            "uv pip compile",
            nothing,
            command([*compile_it, str(project / "requirements.txt"), "-o", str(folder / "out")]),
        ),
        runs=7,
    )
    ours, peer = statistics.median(pair.our_seconds), statistics.median(pair.peer_seconds)
    return Figure(
        "Lock with uv: time of wain lock over 1.3 × uv pip compile + 0.2 s",
        ours / (1.3 * peer + 0.2),
        "×",
        bound=1.0,
        note=f"ratio of the medians themselves {pair.ratio:.2f}",
    )


def _forget(project: Path) -> None:
    shutil.rmtree(project / "locks", ignore_errors=True)


def _large_wheelhouse(folder: Path) -> list[Result]:
    """A wheelhouse of 1,000 wheels: nothing to do, and one more."""
    project = make_project(folder, [f"part-{i:04}" for i in range(1000)])
    wheels = folder / "made"
    wheels.mkdir()
    for number in range(1001):
        make_wheel(wheels, f"part_{number:04}")
    last = wheels / "part_1000-1.0-py3-none-any.whl"
    others = [str(wheel) for wheel in sorted(wheels.glob("*.whl")) if wheel != last]
    find_links = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    command([*WAIN, "-C", str(project), "wheelhouse", "add", *others])()
    command([*WAIN, "-C", str(project), "lock"], **find_links)()
    build = command([*WAIN, "-C", str(project), "build"], **find_links)
    build()
    idle = [_seconds(build) for _ in range(5)]
    one_more = _seconds(command([*WAIN, "-C", str(project), "wheelhouse", "add", str(last)]))
    hashed = _hashed(project / ".wain" / "wheelhouse", make_wheel(folder / "made", "one_more"))
    return [
        Figure(
            "wain build with nothing to do, 1,000 wheels", statistics.median(idle), "s", bound=1.0
        ),
        Figure("One wheel added to 1,000", one_more, "s"),
        Figure("Files of the 1,000 hashed again for it", hashed, "", bound=0),
    ]


def _seconds(action: Action) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def _hashed(folder: Path, wheel: Path) -> int:
    """How many files that are there are hashed when one more is added."""
    count = 0
    real = notes.file_sha256

    def counting(handle: int) -> str:
        nonlocal count
        count += 1
        return real(handle)

    notes.file_sha256 = counting
    try:
        Wheelhouse(folder).add(wheel)
    finally:
        notes.file_sha256 = real
    return count
