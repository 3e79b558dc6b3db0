"""`wain init`, `wain lock` and `wain build` as a user runs them, against an index on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.httpserver import Server, serving, sha256, status
from tests.support.sdists import backend, make_sdist
from tests.support.wheels import make_wheel
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import read_lock
from wheelhouse.serve import IndexServer

Ran = subprocess.CompletedProcess[str]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as served:
        yield served


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "requirements.txt").write_text("demo\n")
    return folder


@pytest.fixture
def wain(server: Server, project: Path, tmp_path: Path) -> Callable[..., Ran]:
    """`wain(*words)`: runs the command in the project; pip knows nothing but the server."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "UV_")) and name not in ("PYTHONPATH",)
    }
    environment |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": server.url + "/simple/",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv-cache"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "NETRC": str(tmp_path / "netrc"),
    }

    def run(*words: str, **more: str) -> Ran:
        return subprocess.run(
            [sys.executable, "-P", "-m", "wain", "-C", str(project), *words],
            env=environment | more, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def good(ran: Ran) -> Ran:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


def error(ran: Ran, code: int, *words: str) -> str:
    """The one line of a failure."""
    assert ran.returncode == code, ran.stdout + ran.stderr
    lines = [line for line in ran.stderr.splitlines() if line.startswith("wain: error: ")]
    assert len(lines) == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    for word in words:
        assert word in lines[0]
    return lines[0]


def test_init_lock_build(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path
) -> None:
    """From a requirements file to a full wheelhouse; again: nothing to do, nothing asked."""
    demo = make_wheel(files, "demo", "1.0", requires=["needed"])
    needed = make_wheel(files, "needed", "2.0")
    server.index(demo, needed)
    (project / ".gitignore").write_text("*.pyc")
    assert json.loads(good(wain("init", "--json")).stdout) == {
        "written": ["wain.toml", ".gitignore"]
    }
    assert (project / ".gitignore").read_text() == "*.pyc\n/.wain/\n/.venv/\n"
    error(wain("init"), 2, "wain.toml: is there already")

    document = json.loads(good(wain("lock", "--json")).stdout)
    target = document["targets"]["default"]
    assert target["changed"] is True
    assert [(p["name"], p["version"], p["file"], p["sha256"]) for p in target["packages"]] == [
        ("demo", "1.0", demo.name, sha256(demo)),
        ("needed", "2.0", needed.name, sha256(needed)),
    ]
    text = (project / "locks/pylock.default.toml").read_text()
    assert "http" not in text
    assert tomllib.loads(text)["packages"][0]["wheels"][0]["path"] == (
        f"../.wain/wheelhouse/{demo.name}"
    )
    assert json.loads(good(wain("lock", "--json")).stdout)["targets"]["default"]["changed"] is False
    assert (project / "locks/pylock.default.toml").read_text() == text

    wheels = json.loads(good(wain("build", "--json")).stdout)["wheels"]
    assert [(one["file"], one["sha256"], one["source"]) for one in wheels] == [
        (demo.name, sha256(demo), "index"),
        (needed.name, sha256(needed), "index"),
    ]
    asked = len(server.requests)
    wheels = json.loads(good(wain("build", "--json")).stdout)["wheels"]
    assert {one["source"] for one in wheels} == {"kept"}
    good(wain("lock", "--check"))
    assert len(server.requests) == asked


def test_fresh_clone_finds_the_files_by_name_and_hash(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path
) -> None:
    """The lock names no place: without .wain, the index is asked for the file."""
    import shutil

    server.index(make_wheel(files, "demo", "1.0"), make_wheel(files, "demo", "0.9"))
    good(wain("lock"))
    shutil.rmtree(project / ".wain")
    good(wain("build"))
    assert len(Wheelhouse(project / ".wain/wheelhouse").files()) == 1


def test_sdist_is_locked_with_its_build_lock_and_built_once(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path
) -> None:
    helper = make_wheel(files, "helper", "1.0")
    source = make_sdist(
        files, backend("demo", asks=("helper",)), name="demo", files={"demo.py": "value = 1\n"}
    )
    server.index(helper, source)
    said = good(wain("lock")).stdout
    assert "1 packages, 1 from source" in said
    assert sorted(path.name for path in (project / "locks").iterdir()) == [
        "pylock.build-demo.toml",
        "pylock.default.toml",
    ]
    build_lock = read_lock(project / "locks/pylock.build-demo.toml")
    assert [package.name for package in build_lock.packages] == ["helper"]
    first = json.loads(good(wain("build", "--json")).stdout)["wheels"]
    assert [one["source"] for one in first] == ["built"]
    again = json.loads(good(wain("build", "--json")).stdout)["wheels"]
    assert [(one["source"], one["sha256"]) for one in again] == [("kept", first[0]["sha256"])]
    assert "every byte the same" in good(wain("build", "--reproduce")).stdout
    # A wheel that appears on the index changes no lock; taken up, the build lock goes.
    server.index(helper, source, make_wheel(files, "demo", "1.0"))
    assert "unchanged" in good(wain("lock")).stdout
    assert "demo | 1.0 | 1.0 | rebuilt" in good(wain("lock", "--upgrade", "demo")).stdout
    assert [path.name for path in (project / "locks").iterdir()] == ["pylock.default.toml"]


def test_pip_and_uv_install_what_was_built(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path, tmp_path: Path
) -> None:
    """From the lock beside the wheels: no index, nothing built. From the committed one, which
    names an sdist: built by the installer from what the wheelhouse serves."""
    pytest.importorskip("uv")
    (project / "wain.toml").write_text(
        'name = "my.shop"\nrequirements = ["demo", "plain"]\n[targets.here]\n'
    )
    sdist = make_sdist(files, backend("demo", asks=("helper",)), name="demo")
    server.index(make_wheel(files, "helper", "1.0"), make_wheel(files, "plain", "2.0"), sdist)
    good(wain("lock"))
    ran = good(wain("build", "--json"))
    house = project / ".wain/wheelhouse"
    lock = house / "pylock.my-shop-here.toml"
    assert json.loads(ran.stdout)["locks"] == {"here": str(lock)}
    packages = tomllib.loads(lock.read_text())["packages"]
    assert [package["wheels"][0]["path"] for package in packages] == [
        path.name for name in ("demo-1.0-1_", "plain-2.0") for path in house.glob(f"{name}*.whl")
    ]
    before = lock.stat()
    good(wain("build"))
    assert lock.stat().st_mtime_ns == before.st_mtime_ns
    assert Wheelhouse(house).verify() == ()

    with IndexServer(house) as index:
        threading.Thread(target=index.serve_forever, daemon=True).start()
        committed = str(project / "locks/pylock.here.toml")
        ways = {
            "pip-wheels": ["pip", "install", "--no-index", "-r", str(lock)],
            "pip-lock": ["pip", "install", "--index-url", index.url, "-r", committed],
            "uv-wheels": ["uv", "pip", "sync", "--offline", str(lock)],
            "uv-lock": ["uv", "pip", "sync", "--default-index", index.url, committed],
        }
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
        environment |= {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "PIP_NO_CACHE_DIR": "1"}
        running = {
            way: subprocess.Popen(
                [sys.executable, "-m", *words, "--target", str(tmp_path / way)],
                env=environment | {"UV_CACHE_DIR": str(tmp_path / f"cache-{way}")},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for way, words in ways.items()
        }  # fmt: skip
        for way, process in running.items():
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, f"{way}: {said}"
        index.shutdown()
    for way in ways:
        found = sorted(path.name for path in (tmp_path / way).glob("*.dist-info"))
        assert found == ["demo-1.0.dist-info", "plain-2.0.dist-info"], way
        assert (tmp_path / way / "demo.py").read_text() == "value = 1\n"


def test_a_build_that_takes_too_long(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path
) -> None:
    (project / "wain.toml").write_text('requirements = ["demo"]\n')
    # The resolver asks for its metadata without the variables of a build.
    after = "def after(path):\n    'SOURCE_DATE_EPOCH' in os.environ and time.sleep(600)\n"
    hangs = backend("demo", extra=after)
    server.index(make_sdist(files, hangs, name="demo"))
    good(wain("lock"))
    with (project / "wain.toml").open("a") as file:
        file.write('[build]\ntimeout = "1s"\n')
    error(wain("build"), 1, "demo-1.0.tar.gz: build_wheel was stopped", "of 1s ('timeout' in [bui")


def test_upgrade_prints_what_moved(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path
) -> None:
    (project / "requirements.txt").write_text("demo\nother\n")
    old = [make_wheel(files, name, "1.0") for name in ("demo", "other")]
    server.index(*old)
    good(wain("lock"))
    server.index(*old, *(make_wheel(files, name, "2.0") for name in ("demo", "other")))
    assert "| demo | 1.0 | 2.0 | upgraded | all |" in good(wain("lock", "--upgrade", "Demo")).stdout
    assert "demo | 2.0 | 1.0 | downgraded" in good(wain("lock", "--upgrade", "demo==1.0")).stdout
    error(wain("lock", "--upgrade", "demmo"), 2, "'demmo' is in no lock", "did you mean 'demo'")
    error(wain("lock", "--upgrade", "demo>=2"), 2, "neither PKG nor PKG==VERSION")
    error(wain("lock", "--upgrade", "demo==7"), 1, "demo")
    assert "other | 1.0 | 2.0" in good(wain("lock", "--upgrade-all")).stdout


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("demo # as before\n", 0, "answers its requirements"),
        ("demo>=2\n", 3, "demo>=2 is asked for, locked is 1.0"),
        ("demo\nmore\n", 3, "more is not in the lock"),
        ("six\n", 3, "demo is no longer asked for"),
        ("demo>=1\n", 0, "answers its requirements"),
    ],
)
def test_check(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path,
    text: str, code: int, says: str,
) -> None:  # fmt: skip
    server.index(make_wheel(files, "demo", "1.0"))
    assert "there is no lock" in wain("lock", "--check").stdout
    good(wain("lock"))
    before = (project / "locks/pylock.default.toml").read_bytes()
    (project / "requirements.txt").write_text(text)
    ran = wain("lock", "--check")
    assert (ran.returncode, says in ran.stdout) == (code, True), ran.stdout + ran.stderr
    assert (project / "locks/pylock.default.toml").read_bytes() == before


def test_several_targets_in_one_table(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path
) -> None:
    (project / "wain.toml").write_text(
        'requirements = ["requirements.txt"]\n[targets.here]\n'
        '[targets.arm]\npython = "3.12"\nplatform = "manylinux_2_28_aarch64"\n'
    )
    server.index(
        make_wheel(files, "demo", "1.0", tag="cp312-cp312-manylinux_2_28_aarch64", purelib=False),
        make_wheel(files, "demo", "1.0"),
    )
    said = [line.split() for line in good(wain("lock", "-v")).stdout.splitlines()]
    table = said.index(["package", "here", "arm"])
    assert said[table + 1] == ["demo", "1.0", "pure", "1.0", "manylinux_2_28_aarch64"]
    error(wain("lock", "--target", "am"), 2, "no target is named 'am'", "did you mean 'arm'")
    # A target without a file fails as a whole, and the old locks stay.
    before = (project / "locks/pylock.here.toml").read_bytes()
    server.index(make_wheel(files, "demo", "2.0", tag="cp39-cp39-win32", purelib=False))
    line = error(wain("lock", "--upgrade-all"), 1, "demo")
    assert "target here" in line or "target arm" in line
    assert (project / "locks/pylock.here.toml").read_bytes() == before


def test_pylock_of_another_tool(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path
) -> None:
    """A folder with nothing but a pylock.toml is built from that."""
    demo = make_wheel(files, "demo", "1.0")
    url = server.index(demo)
    (project / "requirements.txt").unlink()
    (project / "pylock.toml").write_text(
        'lock-version = "1.0"\ncreated-by = "other"\n[[packages]]\nname = "demo"\n'
        f'version = "1.0"\n[[packages.wheels]]\nurl = "{url}files/{demo.name}"\n'
        f'[packages.wheels.hashes]\nsha256 = "{sha256(demo)}"\n'
    )
    good(wain("lock"))
    good(wain("lock", "--check"))
    assert "1 fetched" in good(wain("build")).stdout


@pytest.mark.row("L1", "I1")
def test_errors_are_one_line_without_secrets(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path
) -> None:
    server.index(make_wheel(files, "demo", "1.0"))
    url = server.url.replace("http://", "http://me:c4n4ry@") + "/simple/"
    server.behave["/simple/demo/"] = status(403)
    for resolver in ("pip", "uv"):
        (project / "wain.toml").write_text(
            f'requirements = ["requirements.txt"]\nresolver = "{resolver}"\n'
        )
        ran = wain("lock", "-v", PIP_INDEX_URL=url)
        assert ran.returncode == 1
        assert "c4n4ry" not in ran.stdout + ran.stderr
    server.behave.clear()
    good(wain("lock", PIP_INDEX_URL=url))
    good(wain("build", PIP_INDEX_URL=url))
    for path in project.rglob("*"):
        if path.is_file():
            assert b"c4n4ry" not in path.read_bytes(), path
    (project / "wain.toml").write_text("resolver = 'pipp'\n")
    error(wain("lock"), 2, "wain.toml:1:", "did you mean 'pip'?")
    (project / "wain.toml").unlink()
    (project / "locks/pylock.default.toml").unlink()
    error(wain("build"), 1, "there is no lock for target default", "(wain lock)")


@pytest.mark.row("I4")
def test_changed_file_at_lock_and_at_build(
    wain: Callable[..., Ran], server: Server, project: Path, files: Path, tmp_path: Path
) -> None:
    old = make_wheel(files, "demo", "1.0")
    server.index(old)
    good(wain("lock"))
    (tmp_path / "new").mkdir()
    new = make_wheel(tmp_path / "new", "demo", "1.0", files={"demo.py": b"evil = True\n"})
    server.index(new)
    error(wain("build"), 1, sha256(old), sha256(new))
    error(wain("lock"), 1, sha256(old), sha256(new))
    server.index(old)
    good(wain("build"))
