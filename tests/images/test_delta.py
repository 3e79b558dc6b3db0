from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.delta import DeltaError, apply_delta, encode_delta
from images.manifest import Manifest
from tests.support.trees import entry, manifest_of, sha

few = st.lists(
    st.tuples(st.sampled_from("abcdefghij"), st.sampled_from([b"1", b"2", b"3"])),
    unique_by=lambda item: item[0],
).map(lambda items: manifest_of(*(entry(path, data) for path, data in items)))
texts = st.lists(st.sampled_from(["", "a", "b", "c"])).map(lambda t: "\n".join(t).encode())


@given(few, few)
def test_a_delta_makes_the_new_manifest_from_the_old_one(old: Manifest, new: Manifest) -> None:
    delta = encode_delta(old.to_bytes(), new.to_bytes())
    assert apply_delta(old.to_bytes(), delta) == new.to_bytes()


@given(texts, texts)
def test_any_two_texts(old: bytes, new: bytes) -> None:
    assert apply_delta(old, encode_delta(old, new)) == new


@given(few, few, st.data())
def test_a_damaged_delta_never_gives_another_manifest(
    old: Manifest, new: Manifest, data: Any
) -> None:
    delta = bytearray(encode_delta(old.to_bytes(), new.to_bytes()))
    at = data.draw(st.integers(0, len(delta) - 1))
    delta[at] ^= data.draw(st.integers(1, 255))
    try:
        assert apply_delta(old.to_bytes(), bytes(delta)) == new.to_bytes()
    except DeltaError:
        return


def test_another_base_is_refused() -> None:
    old, new = manifest_of(entry("a")).to_bytes(), manifest_of(entry("b")).to_bytes()
    with pytest.raises(DeltaError, match="another manifest"):
        apply_delta(new, encode_delta(old, new))


def _packed(*lines: str) -> bytes:
    base = sha(b"x\ny\n")
    return zlib.compress("\n".join([f"wain-delta 1 {base} {sha(b'x')}", *lines]).encode())


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (b"", "cut short"),
        (b"rubbish", "damaged"),
        (zlib.compress(b"x") + b"more", "after its end"),
        (zlib.compress(b"\0" * (65 << 20)), "too large"),
        (zlib.compress(b"wain-delta 2 a b"), "no delta of a format known"),
        (_packed("=0 9"), "do not exist"),
        (_packed("=1 1", "=0 1"), "goes back"),
        (_packed("=0 2", "=0 2"), "goes back"),
        (_packed("+5", "x"), "cut short"),
        (_packed("*1"), "unknown instruction"),
        (_packed("=0 2"), "not the manifest it promises"),
    ],
)
def test_what_is_no_delta_is_refused(delta: bytes, message: str) -> None:
    with pytest.raises(DeltaError, match=message):
        apply_delta(b"x\ny\n", delta)


def test_the_delta_of_one_changed_package_is_small() -> None:
    many = {f"lib/p{i % 40}/m{i:05}.py": b"%d" % i for i in range(4000)}
    old = manifest_of(*(entry(path, data) for path, data in many.items())).to_bytes()
    many.update({path: data + b"!" for path, data in many.items() if path.startswith("lib/p7/")})
    new = manifest_of(*(entry(path, data) for path, data in many.items())).to_bytes()
    delta = encode_delta(old, new)
    assert len(delta) < 100 * 60
    assert apply_delta(old, delta) == new


def test_a_changed_header_does_not_cost_the_entries() -> None:
    entries = [entry(f"m{i:04}", b"%d" % i) for i in range(1000)]
    old = Manifest("3.11", "cp311", "p", "virtualenv-1", entries).to_bytes()
    new = Manifest("3.11", "cp311", "p", "virtualenv-2", entries).to_bytes()
    assert len(encode_delta(old, new)) < 300
