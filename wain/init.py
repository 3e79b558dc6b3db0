"""`wain init`: a commented wain.toml from what the folder has."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from wain.output import Output

if TYPE_CHECKING:
    from builder.spec import BuildSpec

_TEMPLATE = """\
# What this project's images are made of. `wain lock` resolves it, `wain env` makes it real.
name = {name}
{wishes}
# resolver = "uv"                        # "pip" is the default; uv also for foreign targets
# exclude-newer = 2026-01-01T00:00:00Z   # nothing that was uploaded later

# One table for each kind of machine the image has to run on. Without `platform`, this machine's.
[targets.default]
python = "{python}"
{platform}

# A package index of your own; the names in `projects` come from there and from nowhere else.
# Without any, pip's configuration decides.
# [[index]]
# name = "internal"
# url = "https://index.example/simple"
# projects = ["{name_text}-*"]

# [build]
# from-source = []                       # built here even where a wheel exists
# timeout = "1h"                         # for everything that builds one sdist

# [image]
# prune = ["**/tests/**"]                # left out of the image

[env]
path = ".venv"
mode = "thick"                           # "thin" shares one copy between all environments
"""


_STARTS = ("requirements.txt", "pylock.toml", "pyproject.toml")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wain init`."""
    parser.add_argument("--name", metavar="NAME", help="the image's name (default: the folder's)")


def run(args: argparse.Namespace, out: Output) -> int:
    """Write wain.toml, and keep working state out of git."""
    from builder.spec import FILE, load_spec
    from images.errors import UsageError

    folder = Path(args.directory).absolute()
    path = folder / FILE
    if path.exists() or path.is_symlink():
        raise UsageError(FILE, "is there already", "remove it to begin anew")
    written = []
    if not any((folder / name).is_file() for name in _STARTS):
        (folder / "requirements.txt").write_text(
            "# One requirement a line, for example: requests>=2.32\n"
        )
        written.append("requirements.txt")
    spec = load_spec(folder)
    with path.open("x") as file:
        file.write(_text(spec, args.name or _package_name(spec) or spec.name))
    # What was written must be what wain reads: a bad --name shows here.
    load_spec(folder)
    written.append(FILE)
    written += _ignore(folder)
    for name in written:
        out.say(f"wrote {name}")
    out.result({"written": written})
    return 0


def _text(spec: BuildSpec, name: str) -> str:
    from wheelhouse.target import Target

    running = Target.running()
    wishes = []
    entries = [Path(entry).name for entry in (*spec.requirements, spec.given_lock) if entry]
    if entries:
        wishes.append(f"requirements = {json.dumps(entries)}")
    if spec.project:
        wishes.append('project = "."                            # this package itself goes in too')
    return _TEMPLATE.format(
        name=json.dumps(name),
        name_text=name,
        wishes="\n".join(wishes),
        python=running.python,
        platform=f'platform = "{running.platform}"   # the newest tag the hosts accept',
    )


def _package_name(spec: BuildSpec) -> str:
    """The name pyproject.toml gives the project, when it is one an image can have."""
    if not spec.project:
        return ""
    from builder.requirements import project_name
    from images.errors import UsageError

    try:
        return project_name(Path(spec.project))
    except UsageError:
        return ""


def _ignore(folder: Path) -> list[str]:
    """Add .wain/ to .gitignore, in a folder git looks after."""
    path = folder / ".gitignore"
    if not (path.is_file() or (folder / ".git").exists()):
        return []
    text = path.read_text() if path.is_file() else ""
    have = {line.strip().strip("/") for line in text.splitlines()}
    missing = [line for line in ("/.wain/", "/.venv/") if line.strip("/") not in have]
    if not missing:
        return []
    if text and not text.endswith("\n"):
        text += "\n"
    path.write_text(text + "".join(f"{line}\n" for line in missing))
    return [".gitignore"]
