"""Where a user's store is, and a project's own state. Imported at every start: os alone."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from images.store import Store


def default_store() -> str:
    """The folder of this user's store: ``WAIN_STORE``, else ``wain`` in the data folder."""
    own = os.environ.get("WAIN_STORE")
    if own:
        return own
    data = os.environ.get("XDG_DATA_HOME") or f"{os.path.expanduser('~')}/.local/share"
    return f"{data}/wain"


def open_store() -> Store:
    """This user's store, made when it is missing.

    Raises StoreError for a folder that holds other things: a collection removes what no image
    names. Nor may anybody else put files there: what is built from the store is run.
    """
    from images.layout import StoreError
    from images.store import Store

    root = default_store()
    try:
        mode = os.stat(root).st_mode
        if mode & 0o002 and not mode & 0o1000:
            what = "the store is writable by everybody, who could change what is built from it"
            raise StoreError(root, what, f"chmod o-w {root}")
        if not os.path.lexists(f"{root}/format"):
            others = sorted(set(os.listdir(root)) - {"objects", "manifests", "tmp"})
            if others:
                what = f"is no store, and holds other things ({others[0]!a:.60})"
                raise StoreError(root, what, "let WAIN_STORE name a new folder")
    except OSError:
        pass  # not there yet, or the store says what is wrong with it
    return Store(root)


def make_state_folder(folder: str) -> None:
    """Make a project's ``.wain`` folder, ignored by git. Raises OSError."""
    if not os.path.isdir(folder):
        os.makedirs(folder, 0o755, exist_ok=True)
    ignore = f"{folder}/.gitignore"
    if not os.path.exists(ignore):
        with open(ignore, "w", encoding="ascii") as stream:
            stream.write("*\n")
