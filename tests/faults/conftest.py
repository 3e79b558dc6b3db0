"""Two or three images, a store, packs; and a host wherever a test wants its root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.pack import Packs
from images.manifest import Manifest
from images.store import Store
from tests.support.small_images import small_image


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def packs(store: Store) -> Iterator[Packs]:
    with Packs(store) as packs:
        yield packs


@pytest.fixture
def images(store: Store) -> list[Manifest]:
    """Three of them; the command `app` of each prints a, b or c."""
    return [small_image(store, text, count=3) for text in "abc"]
