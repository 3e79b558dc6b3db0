"""What is shipped to a host: the agent as one deterministic archive, and its first stage.

The archive is a zip with sorted members, one fixed time and no compression, so the same
sources give the same bytes on every machine; it is named by its sha256.
"""

from __future__ import annotations

import ast
import base64
import functools
import hashlib
import io
import threading
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from fleet.packing import deflate
from images import TRAVELS

# For a host's own start at boot; a session never runs it.
MAIN = b"from fleet.agent_boot import main\n\nraise SystemExit(main())\n"
# It is sent in the command line.
FIRST = "fleet/agent_first.py"
_HERE = Path(__file__).resolve().parent.parent


class Payload(NamedTuple):
    """The archive's bytes, their sha256, and the deflated form that crosses the line."""

    data: bytes
    digest: str
    deflated: bytes


# A cache does not keep two threads from computing a value at once, and CPython 3.11 cannot
# parse in two threads at once (gh-106905).
_ALONE = threading.RLock()


def payload() -> Payload:
    """The agent of this wain."""
    with _ALONE:
        return _payload()


@functools.cache
def _payload() -> Payload:
    files = {path: (_HERE / path).read_bytes() for path in sources()}
    data = archive({**files, "__main__.py": MAIN})
    return Payload(data, hashlib.sha256(data).hexdigest(), deflate(data))


def sources() -> list[str]:
    """The files that travel: the agent's modules, and what they import of ours."""
    agent = {f"fleet/{path.name}" for path in (_HERE / "fleet").glob("agent*.py")}
    others = {"fleet/__init__.py", "fleet/frames.py", "images/__init__.py"}
    return sorted((agent - {FIRST}) | others | {f"images/{name}.py" for name in TRAVELS})


def archive(files: dict[str, bytes]) -> bytes:
    """A zip of these members that depends on nothing but them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            out.writestr(member, files[name])
    return buffer.getvalue()


def first_stage() -> str:
    """The program for ``python -c``: one line that no shell has to quote in a special way."""
    with _ALONE:
        return _first_stage()


@functools.cache
def _first_stage() -> str:
    tree = ast.parse((_HERE / FIRST).read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef):
            del node.body[0]  # its docstring
    packed = base64.b64encode(zlib.compress(ast.unparse(tree).encode(), 9)).decode()
    return f'import zlib,binascii;exec(zlib.decompress(binascii.a2b_base64("{packed}")))'


def command(python: str, root: str, *, keep: bool = True) -> list[str]:
    """The arguments that start the agent for one root."""
    shipped = payload()
    size = str(len(shipped.deflated))
    mode = "keep" if keep else "memory"
    return [python, "-I", "-S", "-c", first_stage(), root, shipped.digest, size, mode]
