"""Fixtures of the wheelhouse's tests."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wheelhouse.index import Wheelhouse

# Small real wheels of many build backends and ages.
REAL = re.findall(
    r"\S+",
    """
    six attrs idna certifi urllib3 requests packaging wheel pluggy iniconfig click itsdangerous
    markupsafe jinja2 werkzeug flask pyyaml python-dateutil pytz tomli zipp colorama
    typing-extensions charset-normalizer cffi pycparser ply sqlparse asgiref mdurl filelock
    distlib platformdirs wcwidth zope.interface simplejson wrapt decorator toolz more-itertools
    termcolor tqdm
    """,
)


@pytest.fixture
def house(tmp_path: Path) -> Wheelhouse:
    """An empty wheelhouse."""
    return Wheelhouse(tmp_path / "house")


@pytest.fixture(scope="session")
def real_wheels(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Some forty real wheels, downloaded once for this checkout."""
    return download(REAL, kept_folder("wheels", pytestconfig, tmp_path_factory))


def kept_folder(name: str, config: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that lasts from one test run to the next, where pytest keeps such."""
    cache = getattr(config, "cache", None)
    if cache is None:
        return tmp_path_factory.getbasetemp().parent / name
    return Path(cache.mkdir(name))


def download(names: list[str], folder: Path) -> list[Path]:
    """Wheels of these projects in ``folder``, from the configured index."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / ".done"
    with (folder / ".lock").open("w") as lock:
        # Several workers of one run may want them at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != "\n".join(names):
            command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
            options = ["--no-deps", "--only-binary", ":all:", "-d", str(folder)]
            subprocess.run([*command, *options, *names], check=True, timeout=900)
            done.write_text("\n".join(names))
    return sorted(folder.glob("*.whl"))
