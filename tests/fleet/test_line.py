"""Hosts that lie on the line: the controller keeps its memory, its time and its manners."""

from __future__ import annotations

import time

import pytest

from fleet import line
from fleet.errors import HostError
from fleet.frames import CHUNK, MARK, frame


class Liar:
    """A channel whose peer says what it was told to, without end where that is endless."""

    def __init__(self, said: bytes, again: bytes = b"") -> None:
        self._said, self._again = said, again
        self.given = 0

    def read(self, size: int, deadline: float) -> bytes:
        if time.monotonic() > deadline:
            raise TimeoutError
        data, self._said = self._said or self._again, b""
        self.given += len(data)
        return data

    def write(self, data: bytes, deadline: float) -> None:
        return

    def close_write(self) -> None:
        return

    def close(self) -> None:
        return

    def ready(self) -> bool:
        return False

    def status(self) -> int | None:
        return None

    def stderr(self) -> str:
        return ""


def asked(liar: Liar) -> HostError:
    talk = line.Line("h1", liar, 20.0)
    talk.on_progress = lambda *_: None
    with pytest.raises(HostError) as caught:
        talk.ask("begin")
    assert str(caught.value).startswith("h1: ")
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.row("L3")
@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"7", b"{}", b'["x","y",1]', b'["x",null,1]', b'["x",1e999,1]', b"\xff",
     b"[" * 99999],
)  # fmt: skip
def test_a_damaged_sign_of_life(payload: bytes) -> None:
    assert asked(Liar(frame(b"P", payload))).kind == "protocol"


@pytest.mark.row("W8")
def test_an_endless_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_BODY", 4 * CHUNK)
    liar = Liar(frame(b"J", b'{"body":true}'), frame(b"B", bytes(CHUNK)))
    error = asked(liar)
    assert error.kind == "protocol"
    assert "endless" in str(error)
    assert liar.given < 7 * CHUNK


@pytest.mark.row("T3")
def test_endless_signs_of_life_before_the_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_PROGRESS", 50)
    liar = Liar(MARK, frame(b"P", b'["x",1,2]'))
    talk = line.Line("h1", liar, 5.0)
    with pytest.raises(HostError) as caught:
        talk.hello("python3", 5.0)
    assert caught.value.kind == "protocol"
    assert liar.given < 2000
