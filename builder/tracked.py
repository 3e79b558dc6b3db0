"""Which files of a project git knows: only those are its source.

What lies around untracked (notes, data, a secret) then never reaches an image, and a fresh
clone builds the same package as the folder it was cloned from.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from images.errors import WainError

_SECONDS = 60.0


def tracked_files(source: Path) -> list[Path] | None:
    """The tracked files below a folder that are there, sorted; None where git does not track it.

    A folder counts as tracked when its pyproject.toml or setup.py is. Raises WainError when
    there is a repository but git cannot read it.
    """
    repository = _repository(source)
    if repository is None:
        return None
    command = ["git", "-c", "safe.directory=*", "-c", "core.quotePath=off"]
    command += ["-C", str(source), "ls-files", "-z", "--cached", "--recurse-submodules", "."]
    # Variables of a hook this runs from would lead to another repository.
    variables = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_SECONDS, check=False, env=variables
        )
    except FileNotFoundError:
        hint = "install git"
        raise WainError(str(repository), "is a git repository, and there is no git", hint) from None
    except subprocess.TimeoutExpired:
        raise WainError(str(repository), "git did not answer in time") from None
    if done.returncode:
        line = done.stderr.decode("ascii", "backslashreplace").strip().partition("\n")[0]
        raise WainError(str(repository), f"git cannot list its files: {line[:200]}")
    names = {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}
    if not names & {"pyproject.toml", "setup.py"}:
        return None
    return [path for name in sorted(names) if (path := source / name).is_file()]


def _repository(source: Path) -> Path | None:
    for folder in (source.resolve(), *source.resolve().parents):
        if (folder / ".git").exists():
            return folder
    return None
