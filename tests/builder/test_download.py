"""Row I2: bodies that are cut, wrong, endless or slow, and continuations that do not fit."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import download
from builder.download import Download, HashError
from builder.pipconfig import PipSettings
from builder.web import Web, WebError
from tests.support import httpserver as http
from tests.support.httpserver import Handler, Server

DATA = bytes(range(256)) * 2000
SHA = hashlib.sha256(DATA).hexdigest()
PATH = "/files/demo-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.001)


def web(timeout: float = 5.0) -> Web:
    return Web(PipSettings(timeout=timeout))


def fetch(server: Server, part: Path, size: int | None = len(DATA), timeout: float = 5.0) -> bytes:
    with part.open("a+b") as stream:
        Download(web(timeout), server.url + PATH, "demo.whl", SHA, size).to(stream, 4)
    return part.read_bytes()


@pytest.mark.row("I2")
@pytest.mark.parametrize("size", [len(DATA), None])
def test_whole_file(server: Server, tmp_path: Path, size: int | None) -> None:
    server.put(PATH, DATA)
    assert fetch(server, tmp_path / "part", size) == DATA
    assert len(server.asked(PATH)) == 1


@pytest.mark.row("I2")
def test_truncated_body_is_continued_not_begun_again(server: Server, tmp_path: Path) -> None:
    server.behave[PATH] = http.cut_each(DATA, 200_000)
    assert fetch(server, tmp_path / "part") == DATA
    ranges = [headers.get("Range") for headers in server.asked(PATH)]
    assert ranges == [None, "bytes=200000-", "bytes=400000-"]


@pytest.mark.row("I2")
def test_what_an_earlier_run_left_is_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:300_001])
    server.put(PATH, DATA)
    assert fetch(server, tmp_path / "part") == DATA
    assert server.asked(PATH)[0]["Range"] == "bytes=300001-"


@pytest.mark.row("I2")
def test_whole_part_needs_no_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA)
    assert fetch(server, tmp_path / "part") == DATA
    assert server.requests == []


@pytest.mark.row("I2")
@pytest.mark.parametrize("size", [len(DATA), None])
def test_corrupt_part_is_never_spliced(server: Server, tmp_path: Path, size: int | None) -> None:
    (tmp_path / "part").write_bytes(b"\0" * 300_000)
    server.put(PATH, DATA)
    assert fetch(server, tmp_path / "part", size) == DATA
    assert [headers.get("Range") for headers in server.asked(PATH)] == ["bytes=300000-", None]


@pytest.mark.row("I2")
@pytest.mark.parametrize("length", [len(DATA), len(DATA) + 5000])
def test_part_longer_than_the_file(server: Server, tmp_path: Path, length: int) -> None:
    (tmp_path / "part").write_bytes(b"\0" * length)
    server.put(PATH, DATA)
    assert fetch(server, tmp_path / "part", None) == DATA


@pytest.mark.row("I2")
def test_answer_from_another_offset_is_not_spliced(server: Server, tmp_path: Path) -> None:
    """A 206 that does not begin where it was asked to: the file is begun again."""

    def shifted(handler: Handler) -> None:
        if handler.headers.get("Range"):
            answer = DATA[100:]
            handler.reply(206, answer, Content_Range=f"bytes 100-{len(DATA) - 1}/{len(DATA)}")
        else:
            handler.reply(200, DATA)

    (tmp_path / "part").write_bytes(DATA[:1000])
    server.behave[PATH] = shifted
    with pytest.raises(WebError, match="announces"):
        fetch(server, tmp_path / "part")
    assert fetch(server, tmp_path / "part") == DATA


@pytest.mark.row("I2")
def test_server_without_ranges_sends_the_whole_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:1000])
    server.behave[PATH] = lambda handler: handler.reply(200, DATA)
    assert fetch(server, tmp_path / "part") == DATA


@pytest.mark.row("I2")
def test_always_truncated_ends_and_keeps_the_part(server: Server, tmp_path: Path) -> None:
    server.behave[PATH] = http.truncate(DATA, 1000)
    with pytest.raises(WebError, match=r"ended after|cannot be reached"):
        fetch(server, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == DATA[:1000]


@pytest.mark.row("I2", "I4")
def test_other_bytes_are_an_error_with_both_hashes(server: Server, tmp_path: Path) -> None:
    other = b"x" * len(DATA)
    server.put(PATH, other)
    with pytest.raises(HashError) as caught:
        fetch(server, tmp_path / "part")
    assert caught.value.expected == SHA
    assert caught.value.found == hashlib.sha256(other).hexdigest()
    assert SHA in str(caught.value)
    assert caught.value.found in str(caught.value)
    assert (tmp_path / "part").read_bytes() == b""


@pytest.mark.row("I2")
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [len(DATA), None])
def test_more_than_announced(
    server: Server, tmp_path: Path, announced: bool, size: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Endless data ends at the locked size, else at the length given, else at the limit."""
    monkeypatch.setattr(download, "MAX_BYTES", 1_000_000)
    server.behave[PATH] = http.endless(DATA, announced)
    if announced:
        # What is past the announced length is not read at all.
        assert fetch(server, tmp_path / "part", size) == DATA
    else:
        with pytest.raises(WebError, match="sends more than"):
            fetch(server, tmp_path / "part", size)
        assert (tmp_path / "part").stat().st_size == 0


@pytest.mark.row("I2")
def test_length_that_is_not_the_locked_one(server: Server, tmp_path: Path) -> None:
    server.put(PATH, DATA + b"more")
    with pytest.raises(WebError, match=f"announces {len(DATA) + 4} bytes, the lock has"):
        fetch(server, tmp_path / "part")
    assert (tmp_path / "part").stat().st_size == 0


@pytest.mark.row("I2")
def test_dripping_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, the file never would."""
    monkeypatch.setattr(download, "STALL_SECONDS", 0.1)
    server.behave[PATH] = http.drip(server, DATA, 0.02)
    began = time.monotonic()
    with pytest.raises(WebError, match=r"sent \d+ bytes in"):
        fetch(server, tmp_path / "part")
    assert time.monotonic() - began < 5


@pytest.mark.row("I1", "I2")
@pytest.mark.parametrize("how", ["silence", "headers"])
def test_no_answer_in_time(server: Server, tmp_path: Path, how: str) -> None:
    server.behave[PATH] = (
        http.stall(server) if how == "silence" else http.drip_headers(server, 0.02)
    )
    began = time.monotonic()
    with pytest.raises(WebError, match="did not answer in time"):
        fetch(server, tmp_path / "part", timeout=0.1)
    assert time.monotonic() - began < 5


@pytest.mark.row("I2")
@given(cuts=st.lists(st.integers(0, 60_000), max_size=6), size_known=st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_breaks_give_the_same_bytes(cuts: list[int], size_known: bool) -> None:
    """Wherever a body breaks off, and however often, the result is the file."""
    import tempfile

    data = DATA[:60_000]
    left = list(cuts)

    def run(handler: Handler) -> None:
        begin = int(handler.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        rest = data[begin:]
        if begin >= len(data):
            handler.reply(416, b"")
            return
        shown = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        cut = left.pop() if left else len(rest)
        handler.reply(206 if begin else 200, rest[:cut], length=str(len(rest)), Content_Range=shown)
        handler.close_connection = True

    with http.serving() as server, tempfile.TemporaryFile() as stream:
        server.behave[PATH] = run
        size = len(data) if size_known else None
        Download(web(), server.url + PATH, "demo.whl", hashlib.sha256(data).hexdigest(), size).to(
            stream, 10
        )
        stream.seek(0)
        assert stream.read() == data
