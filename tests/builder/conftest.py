"""What tests of the builder share: a store, a target, the interpreters that are here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from builder.assemble import Image, Options, Wheel, assemble
from builder.interpreter import find
from images.render import Interpreter
from images.store import Store
from images.tree import checkout
from tests.support.httpserver import Server, serving
from wheelhouse.target import Target

PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


@pytest.fixture(scope="session")
def interpreters() -> dict[str, Interpreter]:
    """Minor version -> interpreter, of those this machine has."""
    found = {python: find(python) for python in PYTHONS}
    return {python: interpreter for python, interpreter in found.items() if interpreter}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def interpreter() -> Interpreter:
    found = find(Target.running().python)
    assert found
    return found


Build = Callable[..., Image]


@pytest.fixture
def build(store: Store, interpreter: Interpreter) -> Build:
    """`build(wheels, **options)`: an image of them for this machine."""

    def run(wheels: Sequence[Wheel], *, jobs: int = 2, **options: object) -> Image:
        return assemble(
            Target.running(),
            wheels,
            store,
            Options(**options),
            interpreter,
            jobs=jobs,  # type: ignore[arg-type]
        )

    return run


@pytest.fixture
def live(store: Store, interpreter: Interpreter, tmp_path: Path) -> Callable[..., Path]:
    """`live(image)`: the image checked out; gives its prefix."""

    def run(image: Image, prefix: str = "env") -> Path:
        path = str(tmp_path / prefix)
        Path(path).parent.mkdir(exist_ok=True)
        checkout(image.manifest, store, path, path, interpreter)
        return Path(path)

    return run


# Data files below share/, a namespace split over packages, a .pth file, headers, scripts below
# .data, C extensions and a vendored library.
REAL = [
    "cffi", "greenlet", "jmespath", "jupyterlab-widgets", "pyzmq", "setuptools",
    "zope.event", "zope.interface",
]  # fmt: skip


@pytest.fixture(scope="session")
def real_wheels(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`real_wheels(python)`: a folder of real wheels for a minor version, through pip."""
    folders: dict[str, Path] = {}

    def get(python: str) -> Path:
        if python not in folders:
            folder = tmp_path_factory.mktemp(f"wheels-{python}")
            subprocess.run(
                [
                    sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:",
                    "--python-version", python, "--platform", "manylinux_2_28_x86_64",
                    "--platform", "manylinux2014_x86_64", "-d", str(folder), *REAL,
                ],
                check=True, capture_output=True,
            )  # fmt: skip
            folders[python] = folder
        return folders[python]

    return get


@pytest.fixture
def own_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No configuration of pip's or uv's but what the test sets; no logins of the user's."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return monkeypatch


@pytest.fixture
def server() -> Iterator[Server]:
    """An HTTP server for the time of the test."""
    with serving() as served:
        yield served


@pytest.fixture
def other_server() -> Iterator[Server]:
    """A second one."""
    with serving() as served:
        yield served
