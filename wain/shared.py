"""What several commands start with: the store and the project's catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from images.catalog import Catalog


def open_catalog(args: argparse.Namespace) -> Catalog:
    """The catalog of the folder a command works in, over this user's store."""
    from images.catalog import Catalog
    from images.home import open_store

    return Catalog(open_store(), args.directory)


def short(image_id: str) -> str:
    """An image id for people: enough digits to name it in a command."""
    return image_id[:12]
