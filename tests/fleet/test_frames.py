"""Frames, and the small JSON beside them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import agent_json
from fleet.frames import BANNER, CHUNK, MAGIC, MARK, Closed, FrameError, Reader, frame

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)  # fmt: skip


def reader(data: bytes, sizes: list[int] | None = None) -> Reader:
    """A reader whose source gives pieces of these sizes, then the rest."""
    left, plan = bytearray(data), list(sizes or [])

    def source(size: int) -> bytes:
        take = min(size, plan.pop(0)) if plan else size
        piece = bytes(left[:take])
        del left[:take]
        return piece

    return Reader(source)


@given(
    st.binary(max_size=50).filter(lambda noise: MAGIC not in noise),
    st.lists(st.tuples(st.sampled_from([b"J", b"X", b"P", b"B", b"E"]), st.binary(max_size=99))),
    st.lists(st.integers(min_value=1, max_value=30)),
)
def test_frames_survive_any_cutting_of_the_stream(
    noise: bytes, frames: list[tuple[bytes, bytes]], sizes: list[int]
) -> None:
    stream = noise + MARK + b"".join(frame(kind, data) for kind, data in frames)
    line = reader(stream, sizes)
    skipped = line.mark()
    assert noise.startswith(skipped) or skipped == noise
    assert [line.next() for _ in frames] == frames
    with pytest.raises(Closed):
        line.next()


def test_another_protocol_is_named() -> None:
    line = reader(MAGIC + b"\x09\n")
    with pytest.raises(FrameError, match="protocol 9 found, this wain speaks protocol 1"):
        line.mark()


def test_endless_noise_is_given_up() -> None:
    with pytest.raises(FrameError, match="no mark"):
        reader(b"motd " * BANNER).mark()


def test_noise_without_a_mark_is_handed_over() -> None:
    with pytest.raises(Closed) as caught:
        reader(b"This account is not available.\n").mark()
    assert caught.value.args == (b"This account is not available.\n",)


@pytest.mark.parametrize(
    "data", [b"Q\0\0\0\0", b"B" + (CHUNK + 1).to_bytes(4, "big"), b"J\xff\xff\xff\xff", b"Hello"]
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        reader(data).next()


def test_a_frame_that_is_cut_is_the_end() -> None:
    with pytest.raises(Closed):
        reader(frame(b"J", b"{}")[:-1]).next()


@given(VALUES)
def test_small_json_equals_the_package(value: object) -> None:
    data = agent_json.dumps(value)
    assert json.loads(data) == value
    assert agent_json.loads(data) == value
    assert agent_json.loads(json.dumps(value, indent=1).encode()) == value


@pytest.mark.parametrize("data", [b"", b"{", b"{} x", b'{"a":NaN}', b"[" * 100000, b"\xff", b"nul"])
def test_small_json_refuses(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        agent_json.loads(data)


def test_a_body_is_given_as_it_arrives() -> None:
    """The line breaks within a frame: what came of it has been given; and it may be left."""
    data = frame(b"B", b"abcdef") + frame(b"B", b"gh") + frame(b"E") + frame(b"J", b"{}")
    line = reader(data, [3] * 9)
    first = next(line.body())
    assert (first, b"".join(line.body())) == (b"a", b"bcdefgh")
    assert line.next() == (b"J", b"{}")
    arrived: list[bytes] = []
    with pytest.raises(Closed):
        arrived.extend(reader(data[:9], [2] * 5).body())
    assert b"".join(arrived) == b"abcd"
    with pytest.raises(FrameError, match="expected bytes or their end"):
        list(reader(frame(b"J", b"{}")).body())
