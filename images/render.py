"""Templates: what depends on where an image lives, made at check-out. Travels to hosts. Pure.

A template's object holds placeholders, so the image id does not depend on the prefix or on
the interpreter. Each kind quotes values as its language wants them:

- ``script``: the object is the script without its first line; the shebang goes before it.
- ``sh``, ``csh``, ``fish``, ``python``: a placeholder stands where a whole word or a literal
  stands, and is replaced by the quoted value.
- ``plain``: replaced as it is (pyvenv.cfg).
"""

from __future__ import annotations

import re

from images.errors import WainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NamedTuple

    from images.manifest import Entry

    class Interpreter(NamedTuple):
        """What a checkout runs on: resolved path, release such as 3.11.7, base prefix."""

        executable: str
        version: str
        base_prefix: str
else:
    from collections import namedtuple

    Interpreter = namedtuple("Interpreter", "executable version base_prefix")

PYTHON_LINK = "@WAIN_PYTHON@"  # as the target of a link: the resolved interpreter
MAX_SHEBANG = 127  # bytes; older kernels cut longer first lines off

_PLACEHOLDER = re.compile(r"@WAIN_(PREFIX|PYTHON|HOME|VERSION|BASE)@")
_UNSAFE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\\\:\\ud800-\\udfff]")


def prefix_problem(prefix: str) -> str:
    """Why an image cannot live there; empty when it can.

    A colon would split PATH, a backslash means something else in each shell and in Python.
    """
    if not prefix.startswith("/"):
        return "the folder is not an absolute path"
    if _UNSAFE.search(prefix) or "'''" in prefix:
        return "the folder's path has a colon, a backslash, control characters or is not UTF-8"
    return ""


def _quote_sh(value: str) -> str:
    return "'" + value.replace("'", "'\"'\"'") + "'"


def _quote_csh(value: str) -> str:
    # History expansion happens between single quotes too.
    return _quote_sh(value).replace("!", "\\!")


def _quote_fish(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


_QUOTES: dict[str, Callable[[str], str]] = {
    "sh": _quote_sh,
    "csh": _quote_csh,
    "fish": _quote_fish,
    "python": ascii,
    "plain": str,
}


def shebang(prefix: str) -> bytes:
    """The first line of a script, or the first three where one cannot hold the path.

    The long form is a shell script whose second line Python reads as the start of a string.
    """
    python = f"{prefix}/bin/python"
    line = f"#!{python}\n".encode()
    if len(line) <= MAX_SHEBANG + 1 and " " not in python:
        return line
    return f"#!/bin/sh\n'''exec' {_quote_sh(python)} \"$0\" \"$@\"\n' '''\n".encode()


def render(kind: str, data: bytes, prefix: str, interpreter: Interpreter) -> bytes:
    """A template's bytes for one prefix and interpreter. Raises WainError."""
    if kind == "script":
        return shebang(prefix) + data
    executable = interpreter.executable
    values = {
        "PREFIX": prefix,
        "PYTHON": executable,
        "HOME": executable.rpartition("/")[0] or "/",
        "VERSION": interpreter.version,
        "BASE": interpreter.base_prefix,
    }
    quote = _QUOTES[kind]
    try:
        return _PLACEHOLDER.sub(lambda match: quote(values[match[1]]), data.decode()).encode()
    except UnicodeError:
        raise WainError(prefix, f"a template of kind {kind} is not UTF-8") from None


def link_problem(path: str, target: str) -> str:
    """Why a link at ``path`` may not have this target; empty when it may.

    Only leading ``..`` parts, and no more than there are folders above the link: these are
    real folders, so the target stays inside whatever other links there are.
    """
    if target == PYTHON_LINK:
        return ""
    parts = target.split("/")
    if _UNSAFE.search(target) or "" in parts or "." in parts or len(target) > 1024:
        return "a link whose target is no plain relative path"
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    if ups > path.count("/") or ".." in parts[ups:] or ups == len(parts):
        return "a link whose target leaves the image"
    return ""


def link_target(entry: Entry, data: bytes, interpreter: Interpreter) -> str:
    """What a link entry points to, from its object's bytes. Raises WainError."""
    target = data.decode("utf-8", "surrogateescape")
    problem = link_problem(entry.path, target)
    if problem:
        raise WainError(entry.path, f"{problem}: {target[:200]!a}")
    return interpreter.executable if target == PYTHON_LINK else target
