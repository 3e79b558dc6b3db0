"""Packs: made once for each missing set, ahead of being asked for, of what the store still has."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fleet import pack as pack_module
from fleet import packing
from fleet.agent_unpack import Blocks, inflate
from fleet.feeding import Feeding
from fleet.pack import Packs
from images.errors import WainError
from images.layout import ObjectError
from images.manifest import Manifest
from images.store import Store
from tests.support.hosts import Host, children
from tests.support.small_images import small_image

WORDS = [hashlib.sha256(b"%d" % (at * at % 997)).hexdigest()[:9].encode() for at in range(90_000)]


def plain_of(pack: bytes) -> bytes:
    blocks = Blocks(iter([pack]))
    return b"".join(inflate(piece for _, piece in blocks.upto(1 << 40)))


def test_one_missing_set_is_packed_once(store: Store, old: Manifest, new: Manifest) -> None:
    with Packs(store) as packs:
        first = packs.get(old, old.objects())
        assert packs.get(old, reversed(list(old.objects()))) is first
        assert packs.get(new, new.objects()) is not first
        assert b"".join(first.pieces()) == b"".join(first.pieces())
        assert first.size == len(b"".join(first.pieces()))


def test_a_pack_that_was_foreseen_is_taken_or_ended(
    store: Store, old: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "AHEAD", 1 << 20)
    image = small_image(store, "big", {str(n): os.urandom(1 << 20) for n in range(4)})
    monkeypatch.setattr(pack_module, "SOON", 1 << 20)
    with Packs(store, once=True) as packs:
        packs.foresee(old.image_id)
        packs.foresee(image.image_id)
        first, other = packs._packs.values()
        assert packs.get(old, old.objects(), zstd=True) is first
        packs.settle()
        assert first.size == len(b"".join(first.pieces()))
        with pytest.raises(InterruptedError):
            list(other.pieces())
        # Who wants it later after all gets a whole one.
        again = packs.get(image, image.objects(), zstd=True)
        assert again is not other
        assert len(b"".join(again.pieces())) > 4 << 20


def test_a_line_that_is_waited_for_gets_a_smaller_pack(store: Store, old: Manifest) -> None:
    """And one that takes all there is gets its pack with less work."""
    sizes = []
    plain = set()
    for level in (packing.ZSTD_HURRIED, packing.ZSTD_LEVEL, packing.ZSTD_PATIENT):
        image = small_image(store, "text", {"words.py": b"".join(WORDS)})
        asked = iter([level] * 1000)
        made = b"".join(
            packing.packed(
                store, image.sizes().items(), zstd=True, hashed=True, level=asked.__next__
            )
        )
        sizes.append(len(made))
        plain.add(plain_of(made))
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(plain) == 1


@pytest.mark.parametrize("once", [True, False])
def test_a_foreseen_pack_is_made_by_a_process_of_its_own(
    store: Store, old: Manifest, monkeypatch: pytest.MonkeyPatch, once: bool
) -> None:
    """It is the same pack; it ends with whoever waited for it; its errors are told."""
    monkeypatch.setattr(pack_module, "SOON", 0)
    image = small_image(store, "big", {str(n): os.urandom(1 << 20) for n in range(4)})
    with Packs(store) as packs:
        whole = b"".join(packs.get(image, image.objects(), zstd=True).pieces())
    shutil.rmtree(f"{store.root}/packs")
    before = children()
    begun: list[Feeding] = []

    class Begun(Feeding):
        def __init__(self, *options: Any) -> None:
            super().__init__(*options)
            begun.append(self)

    monkeypatch.setattr(pack_module, "Feeding", Begun)
    monkeypatch.setattr(pack_module, "can_fork", lambda: True)  # whatever threads tests have left
    with Packs(store, once=once) as packs:
        packs.foresee(image.image_id)
        assert len(begun) == 1
        pack = packs.get(image, image.objects(), zstd=True)
        assert plain_of(b"".join(pack.pieces())) == plain_of(whole)
        assert once == (pack.path is None)
    assert not children() - before  # one of another test may still be about to end
    key = next(entry.key for entry in old.entries if entry.path.endswith("app.py"))
    Path(store.object_path(*key)).unlink()
    with Packs(store, once=once) as packs:
        packs.foresee(old.image_id)
        with pytest.raises(WainError, match=key[0][2:]):
            list(packs.get(old, old.objects(), zstd=True).pieces())


def test_a_foreseen_pack_is_made_here_where_there_are_no_more_processes(
    store: Store, old: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    monkeypatch.setattr(pack_module, "SOON", 0)
    with Packs(store, once=True) as packs:
        packs.foresee(old.image_id)
        made = b"".join(packs.get(old, old.objects(), zstd=True).pieces())
        again = packs.get(old, old.objects(), zstd=True)
        assert b"".join(again.pieces()) == made


def test_a_pack_for_one_host_is_handed_on_and_made_again_when_it_is_asked_for_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "AHEAD", 1 << 20)
    image = small_image(store, "big", {str(n): os.urandom(1 << 20) for n in range(6)})
    with Packs(store) as packs:
        whole = b"".join(packs.get(image, image.objects()).pieces())
    shutil.rmtree(f"{store.root}/packs")
    with Packs(store, once=True) as packs:
        first = packs.get(image, image.objects())
        assert packs.get(image, image.objects()) is first
        assert first.path is None
        pieces = first.pieces()
        next(pieces)
        second = packs.get(image, image.objects())
        assert second is not first
        handed_on = list(second.pieces())
        assert b"".join(handed_on) == whole
        # A line's deadline and its bandwidth are looked at between two of them.
        assert max(map(len, handed_on)) <= pack_module.PIECE
        with pytest.raises(InterruptedError):
            list(pieces)
        third = packs.get(image, image.objects())
        assert not third.begun
    # Closed: nobody reads the third, and nobody waits for it.
    assert not any(thread.name == "pack" for thread in threading.enumerate())


def spoil(store: Store, old: Manifest, *, as_written: bool = False) -> str:
    """Change an object of the store, unless it shall look as it was written; its path."""
    key = next(entry.key for entry in old.entries if entry.path.endswith("app.py"))
    path = Path(store.object_path(*key))
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"TEXT = 'evil'\n"[: before.st_size].ljust(before.st_size))
    if as_written:
        path.chmod(before.st_mode)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return str(path)


@pytest.mark.row("T5")
@pytest.mark.parametrize("once", [True, False])
def test_an_object_that_changed_under_the_controller(
    store: Store, old: Manifest, host: Host, once: bool
) -> None:
    path = spoil(store, old, as_written=not once)
    with host.open() as session, Packs(store, once=once) as packs:
        missing = session.begin(old)
        with pytest.raises(ObjectError, match="bytes were changed") as caught:
            session.send_pack(packs.get(old, missing).pieces())
    assert caught.value.where == path
    assert host.current is None


@pytest.mark.parametrize("what", ["shorter", "longer", "gone", "a folder"])
def test_an_object_of_another_size_or_kind_is_not_sent(
    store: Store, old: Manifest, what: str
) -> None:
    key = next(entry.key for entry in old.entries if entry.path.endswith("app.py"))
    path = Path(store.object_path(*key))
    data = path.read_bytes()
    path.unlink()
    if what == "a folder":
        path.mkdir()
    elif what != "gone":
        path.write_bytes(data[:-1] if what == "shorter" else data + b"#")
    for once in (True, False):
        with Packs(store, once=once) as packs:
            with pytest.raises(ObjectError) as caught:
                list(packs.get(old, old.objects()).pieces())
            assert caught.value.where == str(path)


def test_the_bandwidth_cap(store: Store) -> None:
    image = small_image(store, "big", {"d": os.urandom(600_000)})
    with Packs(store) as packs:
        pack = packs.get(image, image.objects())
        assert pack.size > 600_000
        began = time.monotonic()
        assert len(b"".join(pack.pieces(limit=1_500_000))) == pack.size
        assert 0.35 < time.monotonic() - began < 3
