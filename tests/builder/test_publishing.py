"""Publishing in steps: what is ready when, and what happens after an error."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import publishing
from builder.publishing import Publisher
from images.batch import Batch
from images.errors import WainError
from images.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def _add(batch: Batch, first: int, count: int) -> None:
    for number in range(first, first + count):
        batch.put(b"object %d" % number)


def test_steps_publish_what_was_added_before_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_STEP", 10)
    seen: list[int] = []
    with store.batch() as batch, Publisher(batch) as publisher:
        _add(batch, 0, 5)
        publisher.begin(lambda: seen.append(len(list(store.keys()))))
        while not seen:
            publisher.more()
        assert seen == [5]
        _add(batch, 5, 9)
        publisher.more()
        assert len(batch) == 9
        _add(batch, 14, 1)
        while len(batch):
            publisher.more()
        _add(batch, 15, 3)
        publisher.finish()
    assert len(list(store.keys())) == 18
    assert store.verify() == []
    assert os.listdir(store.tmp) == []


@pytest.mark.row("S4")
@pytest.mark.parametrize("call", ["more", "finish", "end"])
def test_after_a_failed_step_nothing_is_published(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Linux may have marked the pages clean: a second barrier would succeed with them lost."""
    monkeypatch.setattr(publishing, "_STEP", 1)
    began, failed = threading.Event(), threading.Event()
    barrier = Batch._barrier

    def fails(self: Batch, paths: list[str], each: Callable[[str], None]) -> None:
        if not began.is_set():
            began.set()
            failed.wait()
            raise OSError(5, "Input/output error")
        barrier(self, paths, each)

    monkeypatch.setattr(Batch, "_barrier", fails)

    def build() -> None:
        with store.batch() as batch, Publisher(batch) as publisher:
            _add(batch, 0, 5)
            publisher.begin(lambda: pytest.fail("the step before it failed"))
            began.wait()
            if call == "finish":
                publisher.finish()
            failed.set()
            while call == "more":
                _add(batch, 5, 1)
                publisher.more()

    with pytest.raises(WainError, match="Input/output error"):
        build()
    assert list(store.keys()) == []
    assert os.listdir(store.tmp) == []
