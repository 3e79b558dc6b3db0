"""Compiles what it is fed; runs under the target's interpreter, so Python 3.9 grammar.

Started as ``python -S -s -c <this text> <mode>``. Only modules built into the interpreter are
imported: nothing on its path can change what it does, and it starts in a few milliseconds.

Wire format, big-endian: first a greeting, then for each request (last 1, length 4, source) one
reply (status 1, length 4, bytes) in the same order. Status 0: the bytes are the .pyc; 1: the
source does not compile and the bytes say why. Replies are sent when a request says that it is
the last one of a group, all at once: who waits for them is woken once. End of input ends it.

What makes the bytes depend on the source alone:

- ``marshal`` version 2 writes no references. Later versions mark every object that something
  else in the process also holds, so their bytes depend on what was compiled before.
- Up to 3.10, a frozenset is written in the order of its hash table, which for None or Ellipsis
  is an order of addresses; those are written here, sorted as later releases do.
- From 3.14 on, version 2 cannot hold every constant (slices): there each file is compiled in a
  fork of this process, which has compiled nothing (mode "forked").
- The code object's file name is the same for every file; the import system sets the real one.
"""

from __future__ import annotations

import _imp
import gc
import marshal
import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

FILENAME = "<image>"
_KEY = int.from_bytes(MAGIC_NUMBER, "little")
_UNCHECKED_HASH = (1).to_bytes(4, "little")
_SORTS_SETS = sys.version_info >= (3, 11)


def compiled(source: bytes, version: int) -> bytes:
    """The .pyc of these source bytes: magic, flags, hash of the source (PEP 552), code."""
    code = compile(source, FILENAME, "exec", dont_inherit=True)
    header = MAGIC_NUMBER + _UNCHECKED_HASH + _imp.source_hash(_KEY, source)
    return header + (marshal.dumps(code, version) if _SORTS_SETS else _sorted_sets(code, version))


def _sorted_sets(code: CodeType, version: int) -> bytes:
    sets: dict[bytes, frozenset[Any]] = {}
    code = _without_sets(code, sets)
    data = marshal.dumps(code, version)
    for stand_in, members in sets.items():
        parts = sorted(marshal.dumps(member, version) for member in members)
        frozen = b">" + len(parts).to_bytes(4, "little") + b"".join(parts)
        data = data.replace(marshal.dumps(stand_in, version), frozen)
    return data


def _without_sets(code: CodeType, sets: dict[bytes, frozenset[Any]]) -> CodeType:
    consts: list[object] = []
    for const in code.co_consts:
        if isinstance(const, frozenset):
            stand_in = b"\0<frozenset %d of the image>\0" % len(sets)
            sets[stand_in] = const
            consts.append(stand_in)
        elif hasattr(const, "co_consts"):
            consts.append(_without_sets(const, sets))
        else:
            consts.append(const)
    return code.replace(co_consts=tuple(consts))


def attempt(source: bytes, version: int) -> tuple[int, bytes]:
    """(status, bytes): what is sent back for these source bytes."""
    try:
        return 0, compiled(source, version)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return 1, str(error)[:200].encode("utf-8", "replace")


def attempt_forked(source: bytes) -> tuple[int, bytes]:
    """`attempt` in a child that compiles this one source and nothing else."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            status, data = attempt(source, marshal.version)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(bytes([status]) + data)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        reply = pipe.read()
    os.waitpid(child, 0)
    if not reply:
        return 1, b"the compiler died"
    return reply[0], reply[1:]


def main() -> None:
    """Serve requests on standard input until it ends."""
    gc.disable()  # compiling makes no cycles worth looking for
    forked = sys.argv[1] == "forked"
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    release = ".".join(map(str, sys.version_info[:3]))
    replies.write(f"wain-bytecode 1 {release} {sys.implementation.cache_tag}\n".encode())
    replies.flush()
    group: list[bytes] = []
    while True:
        head = requests.read(5)
        if len(head) < 5:
            return
        source = requests.read(int.from_bytes(head[1:], "big"))
        status, data = attempt_forked(source) if forked else attempt(source, 2)
        group += bytes([status]), len(data).to_bytes(4, "big"), data
        if head[0]:
            replies.write(b"".join(group))
            replies.flush()
            group.clear()


if __name__ == "__main__":
    main()
