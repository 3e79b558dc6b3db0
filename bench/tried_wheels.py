"""The tried set: real packages locked, built, reproduced, and installed by pip and by uv."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from bench.pairs import Figure, command
from bench.report import Result
from bench.tried_set import PACKAGES, WAIN
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import read_lock
from wheelhouse.serve import IndexServer

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


_FOREIGN = "manylinux_2_28_aarch64"
_IMPORT = Path(__file__).with_name("imported.py")


def make_project(folder: Path, requirements: list[str], settings: str = "") -> Path:
    """A project that asks for these."""
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


def tried_set(folder: Path) -> list[Result]:
    """Forty and more packages on three targets, everything from source twice, and installed."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    other = next((p for p in OTHER_PYTHONS if p != running and shutil.which(f"python{p}")), None)
    names = sorted({*(p.lower() for p in PACKAGES), *FROM_SOURCE, *MORE})
    targets = {"here": f'python = "{running}"', "other": f'python = "{other}"',
               "arm": f'python = "{running}"\nplatform = "{_FOREIGN}"'}  # fmt: skip
    if other is None:
        del targets["other"]
    settings = "".join(f"[targets.{name}]\n{text}\n" for name, text in targets.items())
    settings = f'name = "tried"\n{settings}[build]\nfrom-source = {json.dumps(FROM_SOURCE)}\n'
    project = make_project(folder / "project", names, settings)
    _wain(project, "lock")
    _wain(project, "build")
    locks = {name: read_lock(project / "locks" / f"pylock.{name}.toml") for name in targets}
    sdists = [(n, p.name) for n, lock in locks.items() for p in lock.packages if p.kind == "sdist"]
    house = project / ".wain" / "wheelhouse"
    compiled = {
        entry.name
        for entry in Wheelhouse(house).files()
        if entry.build and not entry.filename.endswith("-any.whl")
    }
    reproduced = _wain(project, "build", "--reproduce")["wheels"]
    assert isinstance(reproduced, list)
    equal = sum(wheel["source"] == "built" for wheel in reproduced)
    fewest = min(len(lock.packages) for lock in locks.values())
    note = (
        f"{len(names)} requirements on {platform.machine()} (Python {running}"
        f"{f' and {other}' if other else ''}) and, from wheels, on {_FOREIGN}"
    )
    return [
        Figure("Tried set: targets locked and built", len(targets), "", least=3, note=note),
        Figure("Packages on the target with the fewest", fewest, "", least=40),
        Figure("Packages built from source", len({name for _, name in sdists}), "", least=6),
        Figure("Packages that compile C", len(compiled), "", least=3,
               note=", ".join(sorted(compiled))),
        Figure("Wheels built from source twice with equal bytes", equal, "", least=len(sdists)),
        *_installed(folder, project, len(locks["here"].packages)),
    ]  # fmt: skip


def _installed(folder: Path, project: Path, count: int) -> list[Result]:
    """What pip and uv install of the target `here`, from the index and from both locks.

    Every distribution must be there and import. The index is the wheelhouse, served.
    """
    house = project / ".wain" / "wheelhouse"
    asked, committed = project / "requirements.txt", project / "locks" / "pylock.here.toml"
    beside = house / "pylock.tried-here.toml"
    figures: list[Result] = []
    with IndexServer(house) as index:
        threading.Thread(target=index.serve_forever, daemon=True).start()
        ways: dict[str, tuple[list[object], list[object]]] = {
            "the served index": (["--index-url", index.url, "-r", asked],
                                 ["install", "--default-index", index.url, "-r", asked]),
            "the committed lock": (["--index-url", index.url, "-r", committed],
                                   ["sync", "--default-index", index.url, committed]),
            "the lock beside the wheels": (["--no-index", "-r", beside],
                                           ["sync", "--offline", beside]),
        }  # fmt: skip
        for number, (way, (pip, uv)) in enumerate(ways.items()):
            for tool in ("pip", "uv"):
                python = _environment(folder / f"{tool}-{number}")
                words: list[object] = [sys.executable, "-m"]
                if tool == "pip":
                    words += ["pip", "--python", python, "install", "--no-cache-dir", *pip]
                else:
                    words += ["uv", "pip", uv[0], "--no-cache", "--python", python, *uv[1:]]
                with_nothing_else = {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}
                command(words, without=("PIP_", "UV_"), **with_nothing_else)()
                title = f"Distributions that {tool} installed from {way} and that import"
                figures.append(Figure(title, _importing(python), "", least=count))
        index.shutdown()
    return figures


def _environment(folder: Path) -> Path:
    """An empty environment of this interpreter; its Python."""
    command([sys.executable, "-m", "virtualenv", "-q", "--no-seed", folder])()
    return folder / "bin" / "python"


def _importing(python: Path) -> int:
    """How many distributions an environment has. Raises RuntimeError when one does not import."""
    result = subprocess.run([python, "-I", _IMPORT], capture_output=True, text=True, check=True)
    document = json.loads(result.stdout.splitlines()[-1])
    if document["failed"]:
        raise RuntimeError(f"installed and not importable: {document['failed']}")
    return int(document["distributions"])
