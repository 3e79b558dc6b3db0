"""Figures of locks, the wheelhouse and builds, against pip and uv."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.pairs import Action, Figure, Pair, command, nothing, paired
from bench.report import Result
from bench.tried_set import PACKAGES, WAIN
from tests.support.wheels import make_wheel

# Built here from source; the first four compile C.
FROM_SOURCE = ["pyyaml", "markupsafe", "simplejson", "psutil", "docopt", "termcolor", "six"]
MORE = [
    "jinja2",
    "click",
    "flask",
    "httpx",
    "attrs",
    "pydantic",
    "lxml",
    "pillow",
    "cryptography",
    "rich",
    "wrapt",
    "tqdm",
    "tabulate",
    "colorama",
    "toml",
    "sqlparse",
    "werkzeug",
    "itsdangerous",
    "blinker",
    "anyio",
    "idna",
    "certifi",
    "urllib3",
    "pygments",
    "packaging",
    "platformdirs",
    "filelock",
    "pluggy",
    "iniconfig",
]
OTHER_PYTHONS = ["3.12", "3.13", "3.11", "3.10"]

UV = str(Path(sys.executable).parent / "uv")
PIP = [sys.executable, "-m", "pip"]


def measure(folder: Path) -> list[Result]:
    """All figures of this section."""
    folder.mkdir(parents=True)
    return [
        *_tried_set(folder / "tried"),
        _lock_with_pip(folder / "pip"),
        _lock_with_uv(folder / "uv"),
        *_large_wheelhouse(folder / "large"),
    ]


def _project(folder: Path, requirements: list[str], settings: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    (folder / "wain.toml").write_text(f'requirements = ["requirements.txt"]\n{settings}')
    return folder


def _wain(folder: Path, *words: str) -> dict[str, object]:
    result = subprocess.run(
        [*WAIN, "-C", str(folder), *words, "--json"],
        env={**os.environ, "WAIN_STORE": str(folder / "store")},
        capture_output=True,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"wain {' '.join(words)}:\n{result.stderr.decode(errors='replace')}")
    document: dict[str, object] = json.loads(result.stdout)
    return document


def _tried_set(folder: Path) -> list[Result]:
    """Forty and more packages on three targets; everything built from source twice."""
    machine = platform.machine()
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    other = next((p for p in OTHER_PYTHONS if p != running and shutil.which(f"python{p}")), None)
    names = sorted({*(p.lower() for p in PACKAGES), *FROM_SOURCE, *MORE})
    targets = [f'[targets.here]\npython = "{running}"\n']
    if other:
        targets.append(f'[targets.other]\npython = "{other}"\n')
    built = _project(
        folder / "built",
        names,
        "\n".join([*targets, f"[build]\nfrom-source = {json.dumps(FROM_SOURCE)}\n"]),
    )
    foreign = _project(
        folder / "foreign",
        [name for name in names if name != "docopt"],
        f'[targets.arm]\npython = "{running}"\nplatform = "manylinux_2_28_aarch64"\n',
    )
    packages = 0
    for project in (built, foreign):
        document = _wain(project, "lock")
        locked = document["targets"]
        assert isinstance(locked, dict)
        packages += sum(len(target["packages"]) for target in locked.values())
        _wain(project, "build")
    reproduced = _wain(built, "build", "--reproduce")
    wheels = reproduced["wheels"]
    assert isinstance(wheels, list)
    sources = [wheel for wheel in wheels if wheel["source"] == "built"]
    count = len(targets) + 1
    note = f"{len(names)} requirements, {count} targets ({machine}, and aarch64 from wheels only)"
    return [
        Figure("Tried set: packages locked and built, over all targets", packages, "", None, note),
        Figure("Wheels built from source twice with equal bytes", len(sources), ""),
    ]


def _lock_with_pip(folder: Path) -> Pair:
    project = _project(folder, PACKAGES, 'resolver = "pip"\n')
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
    project = _project(folder, PACKAGES, 'resolver = "uv"\n')
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
    project = _project(folder, [f"part-{i:04}" for i in range(1000)])
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
    add = command([*WAIN, "-C", str(project), "wheelhouse", "add", str(last)])
    one_more = _seconds(add)
    return [
        Figure(
            "wain build with nothing to do, 1,000 wheels", statistics.median(idle), "s", bound=1.0
        ),
        Figure("One wheel added to 1,000", one_more, "s"),
    ]


def _seconds(action: Action) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun
