"""Where a user's store is, and a project's own state. Imported at every start: os alone."""

from __future__ import annotations

import os


def default_store() -> str:
    """The folder of this user's store: ``WAIN_STORE``, else ``wain`` in the data folder."""
    own = os.environ.get("WAIN_STORE")
    if own:
        return own
    data = os.environ.get("XDG_DATA_HOME") or f"{os.path.expanduser('~')}/.local/share"
    return f"{data}/wain"


def make_state_folder(folder: str) -> None:
    """Make a project's ``.wain`` folder, ignored by git. Raises OSError."""
    if not os.path.isdir(folder):
        os.makedirs(folder, 0o755, exist_ok=True)
    ignore = f"{folder}/.gitignore"
    if not os.path.exists(ignore):
        with open(ignore, "w", encoding="ascii") as stream:
            stream.write("*\n")
