"""What each wheel was unpacked to, kept beside the store: ``<store>/wheels/<sha256>.txt``.

    wain-wheel 1 <dist-info folder>
    <kind> <x|-> <sha256> <size> <scheme> <path>        one line a file
    = <sha256 of everything before this line>

A record is only written once its objects are published, and only believed when its last line
is right and every object is still there as it was written. So losing one costs an unpacking.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from builder.bytecode import read_record, write_line
from builder.destination import Row
from builder.unpack import Unpacked
from images.store import Store

# Raised when the same wheel gives other rows: older records are then not looked at.
FORMAT = "wain-wheel 1"


def _path(store: Store, wheel: str) -> Path:
    return Path(store.root) / "wheels" / f"{wheel}.txt"


def keep(store: Store, wheel: str, unpacked: Unpacked) -> None:
    """Remember what the wheel with this sha256 became. Raises OSError."""
    lines = [f"{FORMAT} {unpacked.dist_info}\n"]
    lines += [
        f"{row.kind} {'x' if row.executable else '-'} {row.sha256} {row.size} {row.scheme} "
        f"{row.path}\n"
        for row in unpacked.rows
    ]
    body = "".join(lines).encode()
    path = _path(store, wheel)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(body + f"= {sha256(body).hexdigest()}\n".encode())
    temporary.replace(path)


def recall(store: Store, wheel: str) -> Unpacked | None:
    """What a wheel was unpacked to, None when that is not known or not all there any more."""
    try:
        data = _path(store, wheel).read_bytes()
    except OSError:
        return None
    body, mark, digest = data.rpartition(b"= ")
    if not mark or digest != f"{sha256(body).hexdigest()}\n".encode():
        return None
    head, *lines = body.decode().split("\n")[:-1]
    if not head.startswith(f"{FORMAT} "):
        return None
    rows = []
    for line in lines:
        kind, flag, digest_, size, scheme, path = line.split(" ", 5)
        row = Row(kind, flag == "x", digest_, int(size), scheme, path)
        if not store.is_present((row.sha256, row.executable and kind == "file"), row.size):
            return None
        rows.append(row)
    return Unpacked(head.removeprefix(f"{FORMAT} "), rows)


def sweep(store: Store) -> None:
    """At the end of a collection, under its lock: forget what names objects that are gone.

    Raises OSError.

    The sources that do not compile are forgotten too; finding that out again costs little.
    """
    root = Path(store.root)
    for path in sorted((root / "wheels").glob("*.txt*")):
        if path.suffix != ".txt" or recall(store, path.stem) is None:
            path.unlink(missing_ok=True)
    for path in sorted((root / "bytecode").glob("*.txt")):
        header, results = read_record(path)
        lines = [
            write_line(source, result)
            for source, result in results.items()
            if result and store.is_present((result[0], False), result[1])
        ]
        if not lines:
            path.unlink(missing_ok=True)
            continue
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(header + "".join(lines))
        temporary.replace(path)
