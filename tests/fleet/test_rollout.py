from __future__ import annotations

import os
from pathlib import Path

import pytest

from images.store import Store
from tests.support.fleets import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "shop"
    folder.mkdir()
    return Project(folder, Store(os.environ["WAIN_STORE"]))


def test_a_first_rollout_then_nothing_to_do(project: Project) -> None:
    project.write(3, waves=["label:canary", "100%"])
    image = project.image("v1")
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, ran.document["result"]) == (0, "succeeded")
    assert set(project.currents().values()) == {image}
    assert [project.says(host) for host in project.hosts] == ["v1"] * 3
    assert [wave["hosts"] for wave in ran.document["waves"]] == [["h1"], ["h2", "h3"]]
    again = project.wain("rollout", "shop:v1", "--yes")
    assert (again.code, again.document["result"]) == (0, "unchanged")
    assert set(again.states().values()) == {"unchanged"}
    assert {host["bytes_sent"] for host in again.document["hosts"].values()} == {0}
