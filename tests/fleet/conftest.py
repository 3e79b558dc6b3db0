"""One local host, a store, two images; and a real sshd where a test asks for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.pack import Packs
from fleet.transport import LocalTransport
from images.manifest import Manifest
from images.store import Store
from tests.support.fleets import Project
from tests.support.hosts import Host
from tests.support.small_images import small_image
from tests.support.sshd import Sshd, serving


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def old(store: Store) -> Manifest:
    return small_image(store, "old")


@pytest.fixture
def new(store: Store) -> Manifest:
    return small_image(store, "new")


@pytest.fixture
def packs(store: Store) -> Iterator[Packs]:
    with Packs(store) as packs:
        yield packs


@pytest.fixture
def host(tmp_path: Path, store: Store, packs: Packs) -> Host:
    folder = tmp_path / "host"
    folder.mkdir(mode=0o755)
    return Host(LocalTransport("h1"), str(folder / "app"), store, packs)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    folder = tmp_path / "sshd"
    folder.mkdir(mode=0o755)
    with serving(folder) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "shop"
    folder.mkdir()
    return Project(folder, Store(os.environ["WAIN_STORE"]))
