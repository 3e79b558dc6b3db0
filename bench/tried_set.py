"""The package set the environment and fleet figures are measured on, and a project of it."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.pairs import command

PACKAGES = [
    "Django",
    "SQLAlchemy",
    "numpy",
    "pandas",
    "ply",
    "python-dateutil",
    "pytz",
    "requests",
    "six",
    "virtualenv",
]
_SCRIPT = Path(sys.executable).with_name("wain")
# What users run, where wain is installed.
WAIN = [str(_SCRIPT)] if _SCRIPT.exists() else [sys.executable, "-P", "-m", "wain"]


def project(folder: Path, packages: list[str], *, store: Path) -> None:
    """A project named `set` in `folder`, locked and built: its image is `set:latest`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.txt").write_text("\n".join(packages) + "\n")
    (folder / "wain.toml").write_text('name = "set"\nrequirements = ["requirements.txt"]\n')
    for words in (["lock"], ["build"], ["image", "build"]):
        command([*WAIN, "-C", str(folder), *words], WAIN_STORE=str(store))()


def wheels(folder: Path) -> list[Path]:
    """The wheels of a project's wheelhouse."""
    return sorted((folder / ".wain" / "wheelhouse").glob("*.whl"))
