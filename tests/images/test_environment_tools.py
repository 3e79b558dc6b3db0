"""What other tools may do to an environment: never anything to the store or a shared checkout."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from images.environment import check, recreate
from images.interpreter import running_interpreter
from images.manifest import Manifest
from images.stamp import read_stamp
from images.store import Store
from tests.support import users
from tests.support.made_images import SITE, Made, make_image, module, namespaced, regular

PACKAGES = [regular("alpha", "1.0"), module("beta", "1.0"), namespaced("gamma", "one", "1.0")]


class Place(NamedTuple):
    """One environment, its store, and a folder of wheels to install from."""

    path: Path
    store: Store
    manifest: Manifest
    wheels: Path
    mode: str

    @property
    def python(self) -> str:
        return str(self.path / "bin" / "python")

    def say(self, code: str, *options: str) -> str:
        done = subprocess.run(
            [self.python, *options, "-c", code],
            capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        return done.stdout.strip()

    def site(self) -> Path:
        return self.path / SITE


def contents(root: str) -> dict[str, tuple[str, int, int]]:
    """Every file and link below a folder: digest, mode and mtime; folders by mode."""
    found = {}
    for folder, names, files in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            found[path] = ("folder", os.lstat(path).st_mode, 0)
        for name in files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            with open(path, "rb") as stream:
                digest = hashlib.sha256(stream.read()).hexdigest()
            found[path] = (digest, status.st_mode, status.st_mtime_ns)
    return found


def kept(store: Store) -> dict[str, tuple[str, int, int]]:
    """What nobody may change: objects, manifests, shared checkouts."""
    return {
        path: what
        for part in ("objects", "manifests", "checkouts")
        for path, what in contents(f"{store.root}/{part}").items()
    }


@pytest.fixture(params=["thick", "thin"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    store = Store(str(tmp_path / "store"))
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for package in [
        *PACKAGES,
        regular("alpha", "2.0", 1),
        module("beta", "2.0"),
        namespaced("gamma", "one", "2.0"),
        namespaced("gamma", "two", "1.0"),
        # Another distribution that writes into the folder of one that is there.
        Made("intruder", "1.0", {"alpha/m0.py": b"N = 'intruder'\n", "alpha/extra.py": b""}),
    ]:
        package.wheel(wheels)
    manifest = make_image(store, PACKAGES)
    path = tmp_path / "env"
    recreate(store, manifest, str(path), running_interpreter()[1], mode=request.param)
    return Place(path, store, manifest, wheels, request.param)


def _pip(place: Place, *words: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-m", "pip", "--python", place.python, *words],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(place.wheels),
             "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )  # fmt: skip


def _uv(place: Place, *words: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    uv = shutil.which("uv", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed here")
    more = [] if words[0] == "uninstall" else ["--no-index", "--find-links", str(place.wheels)]
    return subprocess.run(
        [*before, uv, "pip", words[0], "--python", place.python, "--no-cache", *more,
         *(word for word in words[1:] if word != "-y")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


Tool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=[_pip, _uv], ids=["pip", "uv"])
def tool(request: pytest.FixtureRequest) -> Tool:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def untouched(place: Place) -> Iterator[None]:
    """Nothing in the store is different afterwards."""
    before = kept(place.store)
    yield
    assert kept(place.store) == before


@pytest.mark.usefixtures("untouched")
def test_upgrade(place: Place, tool: Tool) -> None:
    done = tool(place, "install", "--upgrade", "alpha", "beta", "gamma-one")
    assert done.returncode == 0, done.stderr
    code = "import alpha, beta, gamma.one as o; print(alpha.VERSION, beta.VERSION, o.VERSION)"
    assert place.say(code) == "2.0 2.0 2.0"


def test_looking_with_uv_is_no_difference(place: Place) -> None:
    assert _uv(place, "install", "beta").returncode == 0  # which is there
    stamp = read_stamp(str(place.path))
    assert stamp is not None
    found = check(place.store, place.manifest, stamp, str(place.path), running_interpreter()[1])
    assert found == []


@pytest.mark.usefixtures("untouched")
def test_install_more_into_a_namespace(place: Place, tool: Tool) -> None:
    done = tool(place, "install", "gamma-two")
    assert done.returncode == 0, done.stderr
    code = "import gamma.one, gamma.two; print(gamma.one.VERSION, gamma.two.VERSION)"
    assert place.say(code) == "1.0 1.0"


@pytest.mark.usefixtures("untouched")
def test_install_over_another_packages_files(place: Place, tool: Tool) -> None:
    tool(place, "install", "intruder")
    assert (place.site() / "alpha" / "extra.py").exists()


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", ["alpha", "beta", "gamma-one"])
def test_uninstall_works_or_refuses(place: Place, tool: Tool, name: str) -> None:
    done = tool(place, "uninstall", "-y", name)
    imported = {"gamma-one": "gamma.one"}.get(name, name)
    code = (
        "import importlib.util as u, importlib.metadata as m\n"
        f"try: found = u.find_spec('{imported}') is not None\n"
        "except ModuleNotFoundError: found = False\n"
        f"print(found, any(d.name == '{name}' for d in m.distributions()))"
    )
    # Never in between: either all of it is gone, or all of it is there.
    state = place.say(code)
    assert state in ("True True", "False False"), (state, done.stdout, done.stderr)
    if state == "True True":
        assert place.mode == "thin"
        assert place.say(f"import {imported} as p; print(p.VERSION)") == "1.0"
    elif place.mode == "thick":
        assert done.returncode == 0


@pytest.mark.usefixtures("untouched")
def test_uninstall_after_upgrade_shows_the_image_again(place: Place, tool: Tool) -> None:
    assert tool(place, "install", "--upgrade", "alpha").returncode == 0
    assert tool(place, "uninstall", "-y", "alpha").returncode == 0
    code = "import importlib.util as u; print(u.find_spec('alpha') is not None)"
    assert place.say(code) == str(place.mode == "thin")


# What `python -m compileall -f` does, but for the standard library, which is not ours to compile.
COMPILE_PATH = (
    "import compileall, sys; sys.path = [p for p in sys.path if p.endswith('site-packages')];"
    "compileall.compile_path(force=True, quiet=1)"
)


@pytest.mark.usefixtures("untouched")
def test_compileall_cannot_reach_the_store(place: Place) -> None:
    place.say(COMPILE_PATH)
    for words in (["-f", "-q", str(place.path)], ["-f", "-q", "-r", "9", "."]):
        subprocess.run([place.python, "-m", "compileall", *words], check=False, cwd=place.path)
    assert place.say("import alpha, beta; print(alpha.VERSION, beta.VERSION)") == "1.0 1.0"


@pytest.mark.root
@pytest.mark.usefixtures("untouched")
def test_all_of_it_as_an_ordinary_user(place: Place, tmp_path: Path) -> None:
    """The owner of store and environment, without root's power to pass over modes."""
    for folder, names, files in os.walk(tmp_path):
        for name in [".", *names, *files]:
            os.chown(os.path.join(folder, name), users.OTHER, users.OTHER, follow_symlinks=False)
    for parent in (tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)

    def run(command: subprocess.CompletedProcess[str]) -> None:
        assert command.returncode == 0, command.stderr

    run(_pip(place, "install", "--upgrade", "alpha", "beta", before=users.AS_OTHER))
    run(_uv(place, "install", "gamma-two", "gamma-one==2.0", before=users.AS_OTHER))
    run(_uv(place, "uninstall", "gamma-two", before=users.AS_OTHER))
    run(_pip(place, "uninstall", "-y", "beta", before=users.AS_OTHER))
    for words in (["-c", COMPILE_PATH], ["-m", "compileall", "-f", "-q", "."]):
        command = [*users.AS_OTHER, place.python, *words]
        subprocess.run(command, check=False, cwd=place.path, capture_output=True)
    state = place.say(
        "import alpha, gamma.one, importlib.util as u;"
        "print(alpha.VERSION, gamma.one.VERSION, u.find_spec('beta') is None)"
    )
    # beta is one module: its own part of a thin environment, so it can go there too.
    assert state == "2.0 2.0 True"
    assert (place.site() / "alpha").stat().st_uid == users.OTHER


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("options", [[], ["-O"], ["-OO"]])
def test_running_writes_no_bytecode_into_the_store(place: Place, options: list[str]) -> None:
    assert place.say("import alpha.m0, beta; print(alpha.m0.N)", *options) == "0"


@pytest.mark.parametrize("place", ["thin"], indirect=True)
def test_no_path_of_a_thin_environment_leads_into_the_store(place: Place) -> None:
    for folder, names, files in os.walk(place.path):
        for name in names + files:
            target = os.path.realpath(os.path.join(folder, name))
            assert not target.startswith(place.store.root), target


def test_a_write_in_place_is_caught_before_the_object_is_used_again(place: Place) -> None:
    """Row S2: through a hard link, even root's editor reaches the object. It must not spread."""
    wheel_file = next(
        path for root in (place.path, Path(place.store.root) / "checkouts")
        for path in root.rglob("alpha/m1.py")
    )  # fmt: skip
    before = wheel_file.read_bytes()
    os.chmod(wheel_file, 0o644)
    wheel_file.write_bytes(b"N = 1\nV = 'bad'\n"[: len(before)].ljust(len(before), b"#"))
    from images.layout import SuspectError

    with pytest.raises(SuspectError, match="alpha"):
        recreate(
            place.store, place.manifest, str(place.path.parent / "second"),
            running_interpreter()[1], mode=place.mode,
        )  # fmt: skip
    assert not (place.path.parent / "second").exists()
