"""Build locks, and the environments made from them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.buildenv import BuildEnvError, builder_of
from builder.buildlock import (
    answers,
    build_inputs,
    build_target,
    plan_build_lock,
)
from builder.hooks import BuildFailed, reason
from builder.locks import build_lock_path, find_build_lock
from builder.source_tree import SourceError, build_requirements
from images.errors import WainError
from tests.support.sdists import (
    TARGET,
    backend,
    build,
    content,
    empty_lock,
    locked,
    make_sdist,
)
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock, LockedFile, LockedPackage
from wheelhouse.target import Target


@pytest.fixture
def house(tmp_path: Path) -> Wheelhouse:
    return Wheelhouse(tmp_path / "wheelhouse")


def helper_wheel(tmp_path: Path, house: Wheelhouse, name: str = "helper") -> Path:
    sdist = make_sdist(tmp_path / "helpers", backend(name=name), name=name)
    return house.path(build(sdist, house).file)


USES_HELPER = (
    "def extra(found):\n    import helper\n    found['from_helper.py'] = str(helper.value)\n"
)


def test_the_build_environment_is_the_locks(tmp_path: Path, house: Wheelhouse) -> None:
    wheel = helper_wheel(tmp_path, house)
    sdist = make_sdist(tmp_path, backend(extra=USES_HELPER), requires=("helper",))
    with pytest.raises(BuildFailed, match="No module named 'helper'"):
        build(sdist, house)
    lock = Lock(TARGET, (locked(wheel),))
    assert content(house, build(sdist, house, lock=lock), "from_helper.py") == b"1"


def test_a_build_requirement_with_other_bytes_is_refused(tmp_path: Path, house: Wheelhouse) -> None:
    package = locked(helper_wheel(tmp_path, house))
    file = dataclasses.replace(package.file, sha256="0" * 64)
    lock = Lock(TARGET, (dataclasses.replace(package, file=file),))
    with pytest.raises(BuildEnvError, match="the build lock says 0000"):
        build(make_sdist(tmp_path, backend()), house, lock=lock)


def test_a_build_requirement_that_is_an_sdist(tmp_path: Path, house: Wheelhouse) -> None:
    inner = make_sdist(tmp_path / "inner", backend(name="helper"), name="helper")
    sdist = make_sdist(tmp_path, backend(extra=USES_HELPER), requires=("helper",))
    lock = Lock(TARGET, (locked(inner, "sdist"),))
    with pytest.raises(WainError, match=r"helper 1\.0 is an sdist itself"):
        build(sdist, house, lock=lock)

    def wheel_of(package: object) -> Path:
        return house.path(build(inner, house).file)

    built = build(sdist, house, lock=lock, wheel_of=wheel_of)
    assert content(house, built, "from_helper.py") == b"1"


def test_a_build_lock_for_another_python_is_refused(tmp_path: Path, house: Wheelhouse) -> None:
    lock = empty_lock(Target("x", "3.8", TARGET.platform))
    with pytest.raises(WainError, match=r"build lock is for Python 3\.8"):
        build(make_sdist(tmp_path, backend()), house, lock=lock)


def test_an_interpreter_that_does_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildEnvError, match="does not run as a Python interpreter"):
        builder_of(str(tmp_path / "python"))


def plan(
    sdist: Path, house: Wheelhouse, tmp_path: Path, resolve: Callable[[list[str]], Lock]
) -> Lock:
    return plan_build_lock(
        sdist,
        build_target(TARGET, sys.executable),
        sys.executable,
        resolve,
        wheelhouse=house,
        fetch=lambda lock: None,
        log=tmp_path / "plan.log",
        inputs="digest",
    )


def test_the_hook_is_asked_too(tmp_path: Path, house: Wheelhouse) -> None:
    helper, more = helper_wheel(tmp_path, house), helper_wheel(tmp_path, house, "more")
    sdist = make_sdist(tmp_path, backend(asks=("more>=1", "helper")), requires=("helper",))
    asked: list[list[str]] = []

    def resolve(requirements: list[str]) -> Lock:
        asked.append(requirements)
        wheels = {"helper": helper, "more>=1": more}
        return Lock(TARGET, tuple(locked(wheels[text]) for text in requirements))

    lock = plan(sdist, house, tmp_path, resolve)
    assert asked == [["helper"], ["helper", "more>=1"]]
    assert [package.name for package in lock.packages] == ["helper", "more"]
    assert lock.inputs_digest == "digest"


def test_what_the_hook_asks_must_come_from_an_index(tmp_path: Path, house: Wheelhouse) -> None:
    for asks, what in (
        (("x @ https://index.example/x.whl",), "'x' comes from an address"),
        (("not a requirement",), "is no requirement"),
    ):
        sdist = make_sdist(tmp_path, backend(asks=asks))
        with pytest.raises(SourceError, match=what):
            plan(sdist, house, tmp_path, lambda requirements: empty_lock())


def test_answers() -> None:
    file = LockedFile("setuptools-70.1-py3-none-any.whl", "0" * 64)
    lock = Lock(TARGET, (LockedPackage("setuptools", "70.1", file),))
    assert answers(lock, "setuptools>=40")
    assert answers(lock, "Setuptools")
    assert answers(lock, "nothing; python_version < '3'")
    assert not answers(lock, "setuptools>=71")
    assert not answers(lock, "setuptools[core]")
    assert not answers(lock, "wheel")


def test_where_build_locks_lie(tmp_path: Path) -> None:
    shared, own = build_lock_path(tmp_path, "ply"), build_lock_path(tmp_path, "ply", "prod")
    assert (shared.name, own.name) == ("pylock.build-ply.toml", "pylock.build-ply--prod.toml")
    assert find_build_lock(tmp_path, "ply", "prod") is None
    shared.touch()
    assert find_build_lock(tmp_path, "ply", "prod") == shared
    own.touch()
    assert find_build_lock(tmp_path, "ply", "prod") == own
    assert find_build_lock(tmp_path, "ply", "other") == shared


def test_the_target_of_a_build() -> None:
    here = Target.running()
    older = dataclasses.replace(here, platform=f"manylinux_2_17_{here.machine}")
    assert build_target(older, sys.executable).platform == older.platform
    foreign = Target("pi", "3.9", "manylinux_2_17_riscv64")
    found = build_target(foreign, sys.executable)
    assert (found.python, found.platform) == (here.python, here.platform)
    assert build_inputs("ab", older) != build_inputs("ab", here)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[build-system]\nrequires = 'x'\n", "must be a list of strings"),
        ("[build-system]\nrequires = ['==1']\n", "'==1' is no requirement"),
        ("[build-system\n", "pyproject.toml: "),
    ],
)
def test_a_bad_build_table_is_named(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(SourceError, match=what):
        build_requirements(tmp_path, "x")


def test_without_a_build_table_setuptools_builds(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"neither pyproject\.toml nor setup\.py"):
        build_requirements(tmp_path, "x")
    (tmp_path / "setup.py").touch()
    assert build_requirements(tmp_path, "x") == ["setuptools>=40.8.0"]


def test_the_reason_of_a_failure_is_found_in_its_log() -> None:
    log = (
        b"running build_ext\nx.c:1:10: fatal error: foo.h: No such file\ncompilation terminated.\n"
        b"error: command '/usr/bin/gcc' failed with exit code 1\n"
        b"build backend: Backend subprocess exited when trying to invoke build_wheel\n"
    )
    assert reason(log) == "error: command '/usr/bin/gcc' failed with exit code 1"
    assert reason(b"") == "it printed nothing"
    assert reason(b"not buildable: no backend\n") == "no backend"
