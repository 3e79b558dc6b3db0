"""Where the files of a lock were last found, so that fetching need not search again.

Working state of one checkout (``.wain/places.json``), never needed: a file is identified by its
hash, and without this the configured places are asked. Addresses are kept without logins.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from builder.urls import mask, without_credentials
from wheelhouse.files import write_atomically
from wheelhouse.lock import Lock

_FORMAT = 1
_MAX = 20_000


def recall(folder: Path) -> dict[str, str]:
    """sha256 → address. Empty when nothing was remembered or it cannot be read."""
    try:
        document = json.loads(_file(folder).read_bytes())
        files = document["files"] if document["format"] == _FORMAT else {}
        return {str(key): str(value) for key, value in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def remember(folder: Path, locks: Iterable[Lock]) -> None:
    """Keep the addresses of these locks' files. A folder that cannot be written is no error."""
    new = {
        package.file.sha256: address
        for lock in locks
        for package in lock.packages
        # An address that is a secret itself (a signed one) is found again when it is needed.
        if (address := without_credentials(package.file.url or "")) and mask(address) == address
    }
    known = recall(folder)
    if not new or new.items() <= known.items():
        return
    _save(folder, {**known, **new})


def _save(folder: Path, files: Mapping[str, str]) -> None:
    # The newest come last, so the oldest are forgotten first.
    kept = dict(list(files.items())[-_MAX:])
    data = json.dumps({"format": _FORMAT, "files": kept}, indent=0).encode()
    with contextlib.suppress(OSError):
        _file(folder).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_file(folder), data, durable=False)


def _file(folder: Path) -> Path:
    return folder / ".wain" / "places.json"
