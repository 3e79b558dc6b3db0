"""What a plan says about images: sizes with and without waiting, and a first release."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fleet import wanted as wanted_module
from fleet.pack import Packs
from fleet.preflight import Needs
from fleet.wanted import Comparisons, Wanted
from images.manifest import Manifest
from images.store import Store


@pytest.fixture
def wanted(new: Manifest) -> Wanted:
    packages = [SimpleNamespace(name=name, version="1") for name in {e.owner for e in new.entries}]
    document = SimpleNamespace(id=new.image_id, packages=packages)
    return Wanted("new", cast(Any, document), new, Needs("3.11", "cp311", "any", ""))


def comparisons(store: Store, packs: Packs, **more: Any) -> Comparisons:
    return Comparisons(cast(Any, SimpleNamespace(store=store)), packs, **more)


def test_in_a_hurry_a_large_pack_is_not_waited_for(
    store: Store, packs: Packs, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = comparisons(store, packs).transfer([], None, wanted, False)
    small = comparisons(store, packs, hurry=True).transfer([], None, wanted, False)
    assert known.exact
    assert small == known  # a small one is there at once
    monkeypatch.setattr(wanted_module, "SOON", 100)
    hurried = comparisons(store, packs, hurry=True).transfer([], None, wanted, False)
    assert not hurried.exact
    assert hurried.size > sum(wanted.manifest.objects().values())
    assert hurried.size >= known.size
    assert hurried.room == known.room


def test_a_first_release_is_counted_as_a_comparison_would(
    store: Store, packs: Packs, wanted: Wanted
) -> None:
    images = comparisons(store, packs)
    diff = images.diff(None, wanted)
    change = images.change(None, wanted)
    assert change.packages == diff.to_json()["packages"]
    assert change.files == {"added": len(diff.files), "removed": 0, "changed": 0}
