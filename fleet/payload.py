"""What is shipped to a host: the agent as one deterministic archive, and its first stage.

The archive is a zip with sorted members, one fixed time and no compression, so the same
sources give the same bytes on every machine; it is named by its sha256. To hosts of this very
interpreter its modules go compiled as well, which saves them that. They are compiled once, and kept
where Python keeps the bytecode of our own modules: who can write there can change what wain does.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import functools
import hashlib
import io
import os
import sys
import threading
import zipfile
import zlib
from importlib.util import cache_from_source
from pathlib import Path
from typing import NamedTuple

from fleet import agent_loader
from fleet.packing import deflate
from images import TRAVELS, durable

# For a host's own start at boot; a session never runs it.
MAIN = b"from fleet.agent_boot import main\n\nraise SystemExit(main())\n"
# It is sent in the command line.
FIRST = "fleet/agent_first.py"
# This interpreter, as the first stage calls its host's.
TAG = f"{sys.implementation.cache_tag}-{sys.hexversion:x}"
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


def shipment(tag: str) -> bytes:
    """What the first stage takes when it lacks the agent; ``tag`` is its host's interpreter.

    The length of the modules (4 bytes), the archive, the modules; both deflated.
    """
    shipped = payload()
    modules = b""
    if tag == TAG and sys.implementation.name == "cpython":
        with _ALONE:
            modules = _modules()
    return len(modules).to_bytes(4, "big") + shipped.deflated + modules


@functools.cache
def _modules() -> bytes:
    """The modules as the first stage keeps them (their sha256, then they), deflated."""
    shipped, place = _payload(), _place()

    def guarded(found: bytes) -> bytes:
        return shipped.digest.encode() + hashlib.sha256(found).hexdigest().encode() + found

    with contextlib.suppress(OSError):
        kept = place.read_bytes()
        if kept == guarded(kept[128:]):
            return kept[128:]
    archive = zipfile.ZipFile(io.BytesIO(shipped.data))
    modules = agent_loader.pack(agent_loader.compile_all(archive))
    found = zlib.compress(hashlib.sha256(modules).hexdigest().encode() + modules, 9)
    if not sys.dont_write_bytecode:
        with contextlib.suppress(OSError):  # then they are compiled again the next time
            place.parent.mkdir(parents=True, exist_ok=True)
            durable.write_file(str(place), guarded(found), f"{place}.{os.urandom(8).hex()}")
    return found


def _place() -> Path:
    own = Path(cache_from_source(str(_HERE / "fleet" / "agent.py")))
    return own.with_name(f"agent.{TAG}.wain")


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
