"""The files of an environment that belong to no package: virtualenv's, as templates.

The texts come from the installed virtualenv, so its release is in the manifest's header. They
depend on the target's minor version and nothing else: not on a prefix, a user, the machine,
or the patch release of an interpreter. What they need of those stands in them as a
placeholder (images/render.py), each where the language wants a quoted word.

Left out of what virtualenv writes:

- ``activate.nu`` and ``activate.xsh``: for nushell no quoting holds every path (a raw string
  ends at its own mark), and xonsh expands ``$NAME`` in a path it is given.
- Tcl and Tk library paths, which are paths of the interpreter that virtualenv ran on.
- ``CACHEDIR.TAG``: a backup of a host may well want its releases.
- A ``lib64`` link: CPython looks into ``lib`` as well wherever it uses ``lib64``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from images.errors import WainError
from images.manifest import TEMPLATES, Entry
from images.render import PYTHON_LINK
from images.store import Batch

OWNER = "-"
_PREFIX = "@WAIN_PREFIX@"
_LEFT_OVER = re.compile(r"__[A-Z]+(?:_[A-Z]+)*__")

# What stands in bin/: template of virtualenv, name there, kind.
_ACTIVATION = (
    ("bash/activate.sh", "activate", "sh"),
    ("cshell/activate.csh", "activate.csh", "csh"),
    ("cshell/deactivate.csh", "deactivate.csh", "file"),
    ("fish/activate.fish", "activate.fish", "fish"),
    ("powershell/activate.ps1", "activate.ps1", "file"),
    ("python/activate_this.py", "activate_this.py", "file"),
)

# One line a value. No `command`, which names a user's folder, and no build date.
_PYVENV_CFG = """\
home = @WAIN_HOME@
implementation = CPython
version = @WAIN_VERSION@
version_info = @WAIN_VERSION@
include-system-site-packages = false
executable = @WAIN_PYTHON@
base-prefix = @WAIN_BASE@
base-exec-prefix = @WAIN_BASE@
base-executable = @WAIN_PYTHON@
virtualenv = {release}
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of the skeleton: where, of which kind, and the template's bytes."""

    path: str
    kind: str
    data: bytes


def release() -> str:
    """What the manifest's header says: ``virtualenv-`` and the installed release."""
    return f"virtualenv-{_installed_release()}"


@cache
def _installed_release() -> str:
    try:
        return metadata.version("virtualenv")
    except metadata.PackageNotFoundError:
        raise WainError("virtualenv", "is not installed beside wain", "install wain anew") from None


@cache
def pieces(python: str) -> tuple[Piece, ...]:
    """The skeleton of an environment for a minor version (``3.12``, ``3.13t``), by path.

    Raises WainError when virtualenv is not as this release of wain knows it.
    """
    found = [
        Piece(".gitignore", "file", b"*\n"),
        Piece("pyvenv.cfg", "plain", _PYVENV_CFG.format(release=_installed_release()).encode()),
        Piece("bin/python", "link", PYTHON_LINK.encode()),
        Piece("bin/python3", "link", b"python"),
        Piece(f"bin/python{python}", "link", b"python"),
    ]
    for template, name, kind in _ACTIVATION:
        found.append(Piece(f"bin/{name}", kind, _activation(template, kind, python)))
    return tuple(sorted(found, key=lambda piece: piece.path))


def reserved(path: str, python: str) -> bool:
    """Whether a path belongs to the environment itself, so that no package may own it.

    The skeleton's files, every interpreter name in ``bin``, and the standard library's place.
    """
    folder, _, rest = path.partition("/")
    if folder in ("lib", "lib64") and rest.startswith("python"):
        return not path.startswith(f"lib/python{python}/site-packages/")
    if folder == "bin" and re.fullmatch(r"(?i)pythonw?[0-9.]*t?(?:-config|\.exe)?", rest):
        return True
    return path.lower() in _names(python)


@cache
def _names(python: str) -> frozenset[str]:
    return frozenset(piece.path.lower() for piece in pieces(python))


def put(batch: Batch, python: str) -> Iterator[Entry]:
    """Add the skeleton's objects to a batch and give its entries."""
    for piece in pieces(python):
        sha256, size = batch.put(piece.data)
        yield Entry(piece.kind, False, sha256, size, OWNER, piece.path)


def _activation(template: str, kind: str, python: str) -> bytes:
    text = _read(template)
    values = _values(template, kind, python)
    for placeholder in sorted(values, key=len, reverse=True):
        text = text.replace(placeholder, values[placeholder])
    _check(template, text, kind)
    if template.endswith(".ps1"):
        # Without the mark, Windows PowerShell reads the file as the machine's code page.
        return text.encode("utf-8-sig")
    return text.encode()


def _values(template: str, kind: str, python: str) -> dict[str, str]:
    """What replaces virtualenv's own placeholders: constants, and ours for the prefix."""
    values = dict.fromkeys(("__VIRTUAL_PROMPT__", "__TCL_LIBRARY__", "__TK_LIBRARY__"), "''")
    values |= {"__BIN_NAME__": "'bin'", "__PATH_SEP__": "':'"}
    if kind in TEMPLATES:
        values["__VIRTUAL_ENV__"] = _PREFIX
    if template == "cshell/activate.csh":
        # The folder's name as the prompt shows it; a per cent sign is a code to tcsh.
        values["__VIRTUAL_PROMPT_DISPLAY_TCSH__"] = '"$VIRTUAL_ENV:t:gas/%/%%/:q"'
        values["__VIRTUAL_PROMPT_DISPLAY_PLAIN__"] = '"$VIRTUAL_ENV:t:q"'
    if template == "python/activate_this.py":
        values["__LIB_FOLDERS__"] = f"'../lib/python{python}/site-packages'"
        values["__DECODE_PATH__"] = "''"
    return values


def _check(template: str, text: str, kind: str) -> None:
    code = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))
    left = set(_LEFT_OVER.findall(code)) - {"__file__"}
    if left or (kind in TEMPLATES) != (_PREFIX in code):
        raise WainError(
            f"virtualenv {_installed_release()}",
            f"its {template} is not of the form this wain knows ({', '.join(sorted(left))})",
            "install the release wain asks for",
        )


def _read(template: str) -> str:
    spec = find_spec("virtualenv")
    if spec is None or spec.origin is None:
        raise WainError("virtualenv", "is not installed beside wain", "install wain anew")
    path = Path(spec.origin).parent / "activation" / template
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise WainError(str(path), error.strerror or "cannot be read") from None
