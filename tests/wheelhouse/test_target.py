"""Targets: tags and marker variables come from the target, never from this machine."""

from __future__ import annotations

import platform
import sys

import pytest
from packaging import markers, tags
from packaging.markers import Marker
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from wheelhouse.target import MarkerError, Target, TargetError, build_key

PROD = Target("prod", "3.12", "manylinux_2_28_aarch64")


def test_the_running_target_equals_what_packaging_sees() -> None:
    running = Target.running()
    expected = [tag for tag in tags.sys_tags() if not tag.platform.startswith("linux_")]
    assert list(running.tags()) == expected
    seen = markers.default_environment()
    computed = running.environment()
    differing = {key for key in computed if computed[key] != seen[key]}  # type: ignore[literal-required]
    assert differing <= {"platform_release", "platform_version"}
    assert set(computed) == set(seen)


def test_nothing_is_read_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every source of host values broken, a target still has its tags and markers."""

    def forbidden(*args: object, **options: object) -> object:
        raise AssertionError("looked at the running machine")

    for name in (
        "machine",
        "system",
        "release",
        "version",
        "python_version",
        "mac_ver",
        "libc_ver",
    ):
        monkeypatch.setattr(platform, name, forbidden)
    for name in (
        "platform_tags",
        "_get_config_var",
        "sys_tags",
        "_cpython_abis",
        "_linux_platforms",
    ):
        monkeypatch.setattr(tags, name, forbidden)
    for python in ("3.9", "3.13t", "3.14"):
        for machine in ("manylinux_2_31_s390x", "macosx_13_0_x86_64", "win_amd64"):
            target = Target("t", python, machine)
            assert len(target.tags()) > 20
            assert len(target.environment()) == 11


def test_manylinux_order_and_aliases() -> None:
    platforms = Target("t", "3.12", "manylinux_2_18_x86_64").platforms()
    assert platforms[:4] == (
        "manylinux_2_18_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64",
        "manylinux_2_16_x86_64",
    )  # fmt: skip
    assert platforms[-2:] == ("manylinux_2_5_x86_64", "manylinux1_x86_64")
    assert "manylinux2010_x86_64" in platforms
    assert not any(p == "linux_x86_64" or "musl" in p for p in platforms)


def test_other_machines_begin_at_2_17() -> None:
    assert PROD.platforms()[-2:] == ("manylinux_2_17_aarch64", "manylinux2014_aarch64")
    assert not any(name.startswith(("manylinux1_", "manylinux2010")) for name in PROD.platforms())


def test_musl_and_glibc_never_mix() -> None:
    platforms = Target("t", "3.12", "musllinux_1_2_x86_64").platforms()
    assert platforms == ("musllinux_1_2_x86_64", "musllinux_1_1_x86_64", "musllinux_1_0_x86_64")


def test_unrepaired_wheels_only_when_asked() -> None:
    local = Target("t", "3.12", "manylinux_2_28_x86_64", local_wheels=True)
    assert local.platforms()[0] == "linux_x86_64"
    assert local.rank([Tag("cp312", "cp312", "linux_x86_64")]) == 0
    strict = Target("t", "3.12", "manylinux_2_28_x86_64")
    assert strict.rank([Tag("cp312", "cp312", "linux_x86_64")]) is None


@pytest.mark.parametrize(
    ("filename", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-py2-none-any.whl", False),
        ("a-1-cp312-cp312-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", True),
        ("a-1-cp38-abi3-manylinux_2_28_aarch64.whl", True),
        ("a-1-cp313-abi3-manylinux_2_28_aarch64.whl", False),
        ("a-1-cp312-cp312-manylinux_2_29_aarch64.whl", False),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp312-cp312-musllinux_1_2_aarch64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_28_aarch64.whl", False),
        ("a-1-cp312-none-any.whl", True),
        ("a-1-py312-none-any.whl", True),
        ("a-1-py313-none-any.whl", False),
        ("a-1-cp312-cp312t-manylinux_2_28_aarch64.whl", False),
    ],
)
def test_which_wheels_fit(filename: str, fits: bool) -> None:
    assert (PROD.rank(parse_wheel_filename(filename)[3]) is not None) == fits


def test_free_threaded() -> None:
    target = Target("t", "3.13t", "manylinux_2_28_x86_64")
    assert (target.abi, target.version) == ("cp313t", "3.13")
    assert target.rank([Tag("cp313", "cp313t", "manylinux_2_28_x86_64")]) == 0
    assert target.rank([Tag("cp313", "cp313", "manylinux_2_28_x86_64")]) is None
    assert target.environment()["python_version"] == "3.13"


def test_other_systems() -> None:
    mac = Target("t", "3.12", "macosx_14_0_arm64")
    assert mac.rank([Tag("cp312", "cp312", "macosx_11_0_arm64")]) is not None
    assert mac.rank([Tag("cp312", "cp312", "macosx_10_9_universal2")]) is not None
    assert mac.rank([Tag("cp312", "cp312", "macosx_10_9_x86_64")]) is None
    assert mac.evaluate("sys_platform == 'darwin' and platform_machine == 'arm64'")
    windows = Target("t", "3.12", "win_amd64")
    assert windows.evaluate("os_name == 'nt' and platform_machine == 'AMD64'")
    assert windows.platforms() == ("win_amd64",)


def test_markers_are_the_targets() -> None:
    assert PROD.evaluate("platform_machine == 'aarch64' and python_version == '3.12'")
    assert PROD.evaluate("python_full_version == '3.12.0' and implementation_name == 'cpython'")
    known = Target("t", "3.12", "manylinux_2_28_aarch64", "3.12.7")
    assert known.evaluate("python_full_version >= '3.12.4' and implementation_version == '3.12.7'")
    assert PROD.evaluate(Marker("extra == 'x'"), extra="x")
    assert not PROD.evaluate(Marker("extra == 'x'"))


@pytest.mark.parametrize("name", ["platform_release", "platform_version"])
def test_what_only_a_running_kernel_has_is_refused(name: str) -> None:
    with pytest.raises(MarkerError, match=f"asks for {name}"):
        PROD.evaluate(f"sys_platform == 'linux' and {name} >= '5'")
    # The word as a value is no question.
    assert not PROD.evaluate(f"sys_platform == '{name}'")


def test_legacy_platform_names_are_rewritten() -> None:
    assert Target("t", "3.12", "manylinux2014_x86_64") == Target(
        "t", "3.12", "manylinux_2_17_x86_64"
    )


@pytest.mark.parametrize(
    ("python", "platform_name", "says"),
    [
        ("3", "manylinux_2_28_x86_64", "'3'"),
        ("2.7", "manylinux_2_28_x86_64", "'2.7'"),
        ("3.12.1", "manylinux_2_28_x86_64", "minor version"),
        ("3.012", "manylinux_2_28_x86_64", "minor version"),
        ("3.12", "linux_x86_64", "C library"),
        ("3.12", "manylinux_2_28", "platform"),
        ("3.12", "manylinux_2_28_toaster", "toaster"),
        ("3.12", "manylinux_2_12_aarch64", "manylinux_2_17_aarch64"),
        ("3.12", "macosx_14_0_universal2", "platform"),
        ("3.12", "", "platform"),
        ("3.12", "any", "platform"),
        ("3.12", "evil\x1b[2J", r"\x1b"),
    ],
)
def test_what_is_no_target(python: str, platform_name: str, says: str) -> None:
    with pytest.raises(TargetError) as caught:
        Target("prod", python, platform_name)
    message = str(caught.value)
    assert says in message
    assert message.startswith("target prod: ")
    assert message.isprintable()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("full", ["3.11.2", "3.12.x", "3"])
def test_a_release_of_another_python(full: str) -> None:
    with pytest.raises(TargetError, match="release"):
        Target("prod", "3.12", "manylinux_2_28_x86_64", full)


def test_build_tags_are_ordered_by_number_then_text() -> None:
    builds = [(), (0, ""), (1, ""), (1, "a"), (2, ""), (10, "")]
    mixed = [builds[index] for index in (5, 2, 0, 4, 1, 3)]
    assert sorted(mixed, key=build_key) == builds


def test_running_is_this_interpreter() -> None:
    assert Target.running().minor == sys.version_info[:2]
