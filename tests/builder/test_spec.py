"""What wain.toml may say, what a folder without one implies, and every refusal with its line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.spec import IndexSpec, TargetSpec, is_requirement_file, load_spec
from images.errors import UsageError
from wheelhouse.target import Target

FULL = """\
name = "shop"
requirements = ["requirements.txt", "six>=1"]
project = "."
resolver = "uv"
exclude-newer = 2026-11-01T00:00:00Z
wheelhouse = "../house"

[targets.prod]
python = "3.11"
platform = "manylinux_2_28_x86_64"
[targets.arm]
platform = "manylinux_2_28_aarch64"

[[index]]
name = "internal"
url = "https://index.example/simple"
projects = ["shop-*", "acme"]
[[index]]
name = "local"
url = "mirror/simple"

[build]
from-source = ["Py_YAML"]
timeout = "1h30m"
[image]
bytecode = false
prune = ["**/tests/**"]
[env]
path = "venv"
mode = "thin"
editable = false
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "Shop 1"
    home.mkdir()
    (home / "requirements.txt").write_text("six\n")
    (home / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\n')
    return home


def test_every_key(folder: Path) -> None:
    (folder / "wain.toml").write_text(FULL)
    spec = load_spec(folder)
    assert spec.name == "shop"
    assert spec.requirements == (str(folder / "requirements.txt"), "six>=1")
    assert (spec.project, spec.resolver) == (str(folder), "uv")
    assert spec.exclude_newer == datetime(2026, 11, 1, tzinfo=UTC)
    assert spec.wheelhouse == str(folder.parent / "house")
    assert spec.targets == (
        TargetSpec("prod", "3.11", "manylinux_2_28_x86_64", "wain.toml:8"),
        TargetSpec("arm", "", "manylinux_2_28_aarch64", "wain.toml:11"),
    )
    assert spec.indexes == (
        IndexSpec("internal", "https://index.example/simple", ("shop-*", "acme"), "wain.toml:14"),
        IndexSpec("local", f"file://{folder}/mirror/simple", (), "wain.toml:18"),
    )
    assert (spec.from_source, spec.bytecode, spec.prune) == (("py-yaml",), False, ("**/tests/**",))
    assert spec.build_timeout == 5400
    assert (spec.env_path, spec.env_mode, spec.editable) == (str(folder / "venv"), "thin", False)
    assert spec.lock_path("prod") == str(folder / "locks/pylock.prod.toml")
    assert spec.chosen_targets(["arm"]) == spec.targets[1:]
    with pytest.raises(UsageError, match="did you mean 'prod'"):
        spec.chosen_targets(["prd"])


def test_a_target_takes_what_it_leaves_out_from_this_machine() -> None:
    running = Target.running()
    assert TargetSpec("default").target() == Target.running("default")
    foreign = TargetSpec("arm", "", "manylinux_2_28_aarch64").target()
    assert (foreign.python, foreign.machine) == (running.python, "aarch64")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('nam = "x"', 1, "unknown key 'nam' (did you mean 'name'?)"),
        ('\n[targets.x]\npyton = "3.11"', 3, "[targets.x]: unknown key 'pyton'"),
        ("[evn]", 1, "unknown key 'evn' (did you mean 'env'?)"),
        ('name = "a b"', 1, "'name' is 'a b'"),
        ("name = 3", 1, "'name' expects a string"),
        ('requirements = "six"', 1, "expects a list of strings"),
        ('requirements = ["six", 1]', 1, "expects a list of strings"),
        ('requirements = ["missing.txt"]', 1, "there is no file 'missing.txt'"),
        ('resolver = "poetry"', 1, "expected one of 'pip', 'uv'"),
        ("exclude-newer = 2026-11-01", 1, "a date and time"),
        ("exclude-newer = 2026-11-01T00:00:00", 1, "no offset"),
        ('project = "nowhere"', 1, "there is no pyproject.toml in 'nowhere'"),
        ('[targets."a.b"]', 1, "a target's name is letters"),
        ("[targets.build-x]", 1, "cannot begin with 'build-'"),
        ('[targets.x]\npython = "3.11.4"', 2, "expected a minor version"),
        ("[[index]]\nname = 'a'", 1, "missing key 'url'"),
        ("[[index]]\nname = 'a'\nurl = 'ftp://x/'", 3, "no http, https or file address"),
        ("[[index]]\nname = 'a'\nurl = 'x'\nprojects = ['/']", 4, "no project name or pattern"),
        ("[[index]]\nname = 'a'\nurl = 'x'\n[[index]]\nname = 'a'\nurl = 'y'", 5, "two indexes"),
        ("[build]\nfrom-source = ['a b']", 2, "'a b' is no package name"),
        ("[build]\ntimeout = 'soon'", 2, "[build]: 'timeout': expected a duration such as '30s'"),
        ("[build]\ntimeout = '0.5s'", 2, "expected at least 1 s"),
        ("[build]\ntimeout = true", 2, "expected a duration"),
        ("[image]\nprune = ['../x']", 2, "leaves the image"),
        ("[image]\nbytecode = 'yes'", 2, "true or false"),
        ("[env]\nmode = 'fat'", 2, "expected one of 'thick', 'thin'"),
        ("name = ", 1, "not TOML"),
    ],
)
def test_refusals(folder: Path, text: str, line: int, says: str) -> None:
    """Exit 2, with file and line."""
    head = "" if "requirements" in text else 'requirements = ["requirements.txt"]\n'
    (folder / "wain.toml").write_text(head + text)
    line += bool(head)
    with pytest.raises(UsageError) as caught:
        load_spec(folder)
    assert str(caught.value).startswith(f"wain.toml:{line}: ")
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_wrong_platform_names_the_line(folder: Path) -> None:
    (folder / "wain.toml").write_text(
        'requirements = ["six"]\n[targets.x]\nplatform = "linux_x86_64"\n'
    )
    with pytest.raises(UsageError, match=r"wain\.toml:2: target x: platform is 'linux_x86_64'"):
        load_spec(folder).targets[0].target()


def test_nothing_to_lock(folder: Path) -> None:
    (folder / "wain.toml").write_text('name = "x"\n')
    with pytest.raises(UsageError, match="nothing to lock"):
        load_spec(folder)


def test_folder_without_wain_toml(folder: Path) -> None:
    spec = load_spec(folder)
    assert (spec.name, spec.file) == ("Shop-1", "")
    assert spec.requirements == (str(folder / "requirements.txt"),)
    assert spec.project == str(folder)
    assert spec.targets == (TargetSpec("default"),)
    (folder / "requirements.txt").unlink()
    (folder / "pylock.toml").write_text("")
    assert load_spec(folder).given_lock == str(folder / "pylock.toml")
    (folder / "pylock.toml").unlink()
    (folder / "pyproject.toml").write_text("[tool.x]\n")
    with pytest.raises(UsageError, match=r"there is no wain\.toml here"):
        load_spec(folder)


@pytest.mark.parametrize(
    ("entry", "is_file"),
    [
        ("requirements.txt", True),
        ("deps/base.in", True),
        ("./deps", True),
        ("pylock.toml", True),
        ("six", False),
        ("six==1.0", False),
        ("six @ https://x.example/six.txt", False),
    ],
)
def test_file_or_requirement(entry: str, is_file: bool) -> None:
    assert is_requirement_file(entry) is is_file
