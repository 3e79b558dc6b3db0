"""`wain env`: one command from whatever is there to an environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from images import swap
from images.catalog import Catalog
from images.home import default_store
from images.stamp import read_stamp
from images.store import Store
from tests.support.made_images import SITE, keep, module, namespaced, regular
from wain.cli import main

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, dict[str, object]]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with requirements, and the wheels pip is configured to find."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for package in (
        regular("alpha", "1.0"), regular("alpha", "2.0"), module("beta", "1.0"),
        namespaced("gamma", "one", "1.0"),
    ):  # fmt: skip
        package.wheel(wheels)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "wain.toml").write_text('requirements = ["requirements.txt"]\n')
    (folder / "requirements.txt").write_text("alpha<2\nbeta\ngamma-one\n")
    return folder


@pytest.fixture
def wain(project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in the project; exit code and JSON document."""

    def run(*words: str) -> tuple[int, dict[str, object]]:
        capsys.readouterr()
        code = main(["-C", str(project), "--json", *words])
        text = capsys.readouterr().out
        return code, json.loads(text) if text else {}

    return run


def say(folder: Path, code: str = "import alpha, beta, gamma.one; print(alpha.VERSION)") -> str:
    python = folder / "bin" / "python"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def test_from_requirements_to_an_environment_and_back(project: Path, wain: Run) -> None:
    code, first = wain("env")
    assert code == 0
    assert (first["changed"], first["mode"], first["path"]) == (True, "thick", f"{project}/.venv")
    assert say(project / ".venv") == "1.0"
    assert (project / "locks" / "pylock.default.toml").is_file()
    code, second = wain("env")
    assert (code, second["changed"], second["image"]) == (0, False, first["image"])
    # A removed environment comes back without locking or building.
    shutil.rmtree(project / ".venv")
    shutil.rmtree(project / ".wain" / "wheelhouse")
    code, third = wain("env")
    assert (code, third["changed"], third["image"]) == (0, True, first["image"])
    assert say(project / ".venv") == "1.0"


def test_a_fresh_clone_with_only_the_lock(
    project: Path, wain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = wain("env")
    clone = tmp_path / "clone"
    shutil.copytree(project, clone, ignore=shutil.ignore_patterns(".wain", ".venv"))
    monkeypatch.setenv("WAIN_STORE", str(tmp_path / "other-store"))
    before = (clone / "locks" / "pylock.default.toml").read_bytes()
    assert main(["-C", str(clone), "-q", "env", "--locked"]) == 0
    stamp = read_stamp(str(clone / ".venv"))
    assert stamp is not None
    assert stamp.image == first["image"]
    assert (clone / "locks" / "pylock.default.toml").read_bytes() == before
    assert say(clone / ".venv") == "1.0"


def test_what_changed_decides_what_is_done(
    project: Path, wain: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    _, first = wain("env")
    inode = (project / ".venv").stat().st_ino
    (project / "requirements.txt").write_text("alpha<2\nbeta\n# only a comment\ngamma-one\n")
    code, same = wain("env")
    assert (code, same["changed"], same["image"]) == (0, False, first["image"])
    assert (project / ".venv").stat().st_ino == inode
    (project / "requirements.txt").write_text("alpha\nbeta\ngamma-one\n")
    (project / "locks" / "pylock.default.toml").unlink()
    code, other = wain("env")
    assert (code, other["changed"]) == (0, True)
    assert say(project / ".venv") == "2.0"
    assert wain("env", "--check")[0] == 0
    (project / "requirements.txt").write_text("alpha<2\nbeta\ngamma-one\n")
    code, check = wain("env", "--check")
    assert (code, check["inputs"]) == (3, ["requirements.txt"])
    # An image is what its lock says; that the lock is not what was asked for is said.
    assert main(["-C", str(project), "image", "build"]) == 0
    printed = capsys.readouterr()
    assert "warning: default: built from a lock that is out of date: requirements.txt:1" in (
        printed.err
    )
    assert str(other["image"])[:12] in printed.out
    assert wain("env", "--locked")[0] == 3
    assert say(project / ".venv") == "2.0"


def test_check_names_files_and_packages(project: Path, wain: Run) -> None:
    assert wain("env", "--check")[0] == 3
    wain("env")
    (project / ".venv" / SITE / "alpha" / "m0.py").unlink()
    code, document = wain("env", "--check")
    assert code == 3
    assert document["drift"] == [
        {"path": f"{SITE}/alpha/m0.py", "package": "alpha", "what": "missing"}
    ]
    assert wain("env")[1]["changed"] is False
    assert wain("env", "--force")[1]["changed"] is True
    assert wain("env", "--check", "--deep")[0] == 0


def test_thin_and_thick_take_turns(
    project: Path, wain: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    _, thick = wain("env")
    assert main(["-C", str(project), "env", "--thin"]) == 0
    # One figure for the environment's own files and the shared ones.
    assert capsys.readouterr().out.count("hard-linked") == 1
    code, thin = wain("env", "--thin")
    assert (code, thin["mode"], thin["image"], thin["files"]) == (
        0, "thin", thick["image"], thick["files"],
    )  # fmt: skip
    assert say(project / ".venv") == "1.0"
    assert wain("env", "--thin")[1]["changed"] is False
    assert wain("env", "--thin", "--check", "--deep")[0] == 0
    assert wain("env", "other")[1]["path"] == f"{project}/other"


def test_a_thin_environment_whose_store_was_deleted_is_made_again(project: Path, wain: Run) -> None:
    _, first = wain("env", "--thin")
    swap.remove_tree(default_store())
    assert say(project / ".venv") == ""
    code, again = wain("env", "--thin")
    assert (code, again["changed"], again["image"]) == (0, True, first["image"])
    assert say(project / ".venv") == "1.0"


def test_wain_toml_says_where_and_how(project: Path, wain: Run) -> None:
    with (project / "wain.toml").open("a") as file:
        file.write('[env]\npath = "envs/dev"\nmode = "thin"\n')
    _, document = wain("env")
    assert (document["path"], document["mode"]) == (f"{project}/envs/dev", "thin")
    assert wain("env")[1]["changed"] is False


@pytest.mark.parametrize("what", ["folder", "link", "venv"])
def test_a_foreign_place_is_refused(
    project: Path, wain: Run, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / ".venv"
    if what == "venv":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    elif what == "link":
        path.symlink_to(project)
    else:
        path.mkdir()
        (path / "mine").write_text("")
    assert main(["-C", str(project), "env"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("wain: error:")
    assert error.count("\n") == 1
    assert ("--force" in error) == (what == "venv")
    assert not (project / "locks").exists()
    assert wain("env", "--force")[0] == (0 if what == "venv" else 2)


def test_an_image_by_name_needs_no_project(tmp_path: Path, wain: Run, project: Path) -> None:
    (project / "wain.toml").unlink()
    (project / "requirements.txt").unlink()
    catalog = Catalog(Store(default_store()), str(project))
    v1 = keep(catalog, [regular("alpha", "1.0")], "v1").image_id
    v2 = keep(catalog, [regular("alpha", "2.0")]).image_id
    assert wain("env", "--image", "shop")[1]["image"] == v2
    assert wain("env", "--image", "shop")[1]["changed"] is False
    assert wain("env", "--image", "shop:v1")[1]["image"] == v1
    catalog.tag("v1", v2)
    assert wain("env", "--image", "shop:v1")[1]["image"] == v2
    assert wain("env", "--image", "nobody")[0] == 1
    assert wain("env", "--image", v1[:10])[1]["image"] == v1


def test_damaged_objects_are_made_again_from_the_wheels(project: Path, wain: Run) -> None:
    """Row S1: only the damaged object is replaced."""
    wain("env")
    victim = next(
        path for path in Path(default_store()).rglob("objects/*/*")
        if path.read_bytes() == b"N = 1\nV = '1.0'\n"
    )  # fmt: skip
    others = {path: path.stat().st_ino for path in victim.parent.parent.rglob("*")
              if path.is_file() and path != victim}  # fmt: skip
    victim.chmod(0o644)
    victim.write_bytes(b"N = 1\nV = 'bad'\n")
    assert wain("image", "verify", "shop")[0] == 3
    (project / ".venv").rename(project / "spoiled")
    code, document = wain("env")
    assert (code, document["changed"]) == (0, True)
    assert say(project / ".venv", "import alpha.m1; print(alpha.m1.V)") == "1.0"
    assert wain("image", "verify", "shop")[0] == 0
    assert {path: path.stat().st_ino for path in others} == others


@pytest.mark.parametrize("bad", ["--nothing", "--thin=3"])
def test_wrong_usage(project: Path, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-C", str(project), "env", bad]) == 2
    assert capsys.readouterr().err.startswith("wain: error:")


def test_an_editable_project(project: Path, wain: Run) -> None:
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "Shop.App"\nversion = "1.0"\ndependencies = ["beta"]\n'
        '[project.scripts]\nshop = "shopapp:main"\n'
    )
    (project / "shopapp.py").write_text("def main():\n    print('one')\n")
    (project / "backend.py").write_text(BACKEND)
    (project / "wain.toml").write_text('name = "shop"\nproject = "."\n')
    assert wain("env")[0] == 0
    script = project / ".venv" / "bin" / "shop"
    assert subprocess.run([script], capture_output=True, text=True).stdout == "one\n"
    (project / "shopapp.py").write_text("def main():\n    print('two')\n")
    assert subprocess.run([script], capture_output=True, text=True).stdout == "two\n"
    assert wain("env")[1]["changed"] is False
    assert wain("env", "--check", "--deep")[0] == 0
    code = (
        "import importlib.metadata as m; d = m.distribution('shop-app');"
        "print(d.version, 'editable' in d.read_text('direct_url.json'))"
    )
    assert say(project / ".venv", code) == "1.0 True"
    with (project / "wain.toml").open("a") as file:
        file.write("[env]\neditable = false\n")
    assert wain("env")[1]["changed"] is True
    assert (project / ".venv" / SITE / "shopapp.py").exists()
    (project / "shopapp.py").write_text("def main():\n    print('three')\n")
    assert subprocess.run([script], capture_output=True, text=True).stdout == "two\n"
    assert wain("env")[1]["changed"] is True
    assert subprocess.run([script], capture_output=True, text=True).stdout == "three\n"


BACKEND = """
import base64, hashlib, os, zipfile

def _wheel(folder, files):
    info = "shop_app-1.0.dist-info"
    files[info + "/METADATA"] = (
        "Metadata-Version: 2.1\\nName: Shop.App\\nVersion: 1.0\\nRequires-Dist: beta\\n"
    )
    files[info + "/WHEEL"] = (
        "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    )
    files[info + "/entry_points.txt"] = "[console_scripts]\\nshop = shopapp:main\\n"
    name = "shop_app-1.0-py3-none-any.whl"
    rows = []
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        for path, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
            rows.append(f"{path},sha256={digest.rstrip('=')},{len(text.encode())}\\n")
            archive.writestr(path, text)
        archive.writestr(info + "/RECORD", "".join(rows) + info + "/RECORD,,\\n")
    return name

def build_wheel(folder, settings=None, metadata=None):
    return _wheel(folder, {"shopapp.py": open("shopapp.py").read()})

def build_editable(folder, settings=None, metadata=None):
    return _wheel(folder, {"__editable__.shop.pth": os.getcwd() + "\\n"})
"""


def test_interrupted_by_the_user(project: Path, wain: Run) -> None:
    """Ctrl-C at any moment leaves the old environment or the new one, and exit 130."""
    wain("env")
    (project / "requirements.txt").write_text("alpha\nbeta\ngamma-one\n")
    (project / "locks" / "pylock.default.toml").unlink()
    command = [sys.executable, "-m", "wain", "-C", str(project), "env"]
    for delay in (0.15, 0.6):
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
        # Before the command line has begun, Python itself reports the interrupt.
        assert process.returncode in (0, 130, 1, -2), error
        assert say(project / ".venv") in ("1.0", "2.0")
    assert wain("env")[0] == 0
    assert say(project / ".venv") == "2.0"
    left = [name for name in os.listdir(project) if name.startswith(".venv.") or "wain-new" in name]
    assert left == []


def test_nothing_to_do_loads_next_to_nothing(project: Path, wain: Run) -> None:
    """Start-up is the figure: what is imported is what it costs."""
    wain("env")
    code = (
        "import sys; sys.argv = ['wain', '-q', '-C', sys.argv[1], 'env']\n"
        # An editable installation imports on its own account before ours begins.
        "before = set(sys.modules)\n"
        "from wain.cli import main\n"
        "code = main(); names = set(sys.modules) - before\n"
        "print(code, sorted(n for n in names if n.partition('.')[0] in "
        "('rich', 'packaging', 'pathlib', 'tomllib', 'json', 'subprocess', 'ctypes', 'builder', "
        "'wheelhouse', 'platformdirs', 'dataclasses', 'tempfile')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(project)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == "0 []\n", done.stdout + done.stderr
