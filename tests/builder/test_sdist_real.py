"""Real sdists from the package index, with and without C."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from builder.buildlock import (
    build_target,
    plan_build_lock,
)
from builder.built import build_key, built_wheel
from tests.support.sdists import (
    TARGET,
    build,
    locked,
    needs_gcc,
)
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock


@pytest.fixture
def house(tmp_path: Path) -> Wheelhouse:
    return Wheelhouse(tmp_path / "wheelhouse")


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """Fetches one file with pip, which knows where this machine's index is."""

    def fetch(requirement: str, source: bool) -> Path:
        folder = tmp_path_factory.mktemp("fetched")
        name = Requirement(requirement).name
        kind = ["--no-binary", name] if source else ["--only-binary", ":all:"]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *kind, requirement],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        return next(folder.iterdir())

    return fetch


def _real(
    requirement: str, house: Wheelhouse, tmp_path: Path, downloads: Callable[[str, bool], Path]
) -> tuple[Path, Lock]:
    sdist = downloads(requirement, True)

    def resolve(requirements: list[str]) -> Lock:
        wheels = []
        for text in requirements:
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate(default_environment()):
                wheels.append(downloads(f"{wanted.name}{wanted.specifier}", False))
        for wheel in wheels:
            house.add(wheel)
        unique = {wheel.name: locked(wheel) for wheel in wheels}
        return Lock(build_target(TARGET, sys.executable), tuple(unique.values()))

    lock = plan_build_lock(
        sdist,
        build_target(TARGET, sys.executable),
        sys.executable,
        resolve,
        wheelhouse=house,
        fetch=lambda lock: None,
        log=tmp_path / "plan.log",
        inputs="",
    )
    return sdist, lock


@pytest.mark.index
@needs_gcc
def test_a_real_extension(
    tmp_path: Path, house: Wheelhouse, downloads: Callable[[str, bool], Path]
) -> None:
    sdist, lock = _real("MarkupSafe==3.0.2", house, tmp_path, downloads)
    built = build(sdist, house, lock=lock, reproduce=True)
    machine = TARGET.machine
    assert built.file.endswith(
        f"-{TARGET.abi}-{TARGET.abi}-manylinux2014_{machine}.manylinux_2_17_{machine}.whl"
    )
    folder = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target",
         str(folder), str(house.path(built.file))],
        check=True,
    )  # fmt: skip
    code = "import markupsafe._speedups as s; print(s.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    path = Path(done.stdout.strip())
    assert path.is_relative_to(folder)
    assert b"/build/src" not in path.read_bytes()


@pytest.mark.index
@pytest.mark.faults
@needs_gcc
@pytest.mark.parametrize(
    "requirement", ["PyYAML==6.0.2", "simplejson==3.19.3", "psutil==6.1.0", "ply==3.11"]
)
def test_more_real_sdists_give_equal_bytes(
    requirement: str, tmp_path: Path, house: Wheelhouse, downloads: Callable[[str, bool], Path]
) -> None:
    sdist, lock = _real(requirement, house, tmp_path, downloads)
    built = build(sdist, house, lock=lock, reproduce=True)
    kept = built_wheel(locked(sdist, "sdist"), lock, TARGET, house)
    assert kept is not None
    assert kept.filename == built.file
    assert build_key(locked(sdist, "sdist").file.sha256, lock, TARGET).build_tag in built.file
