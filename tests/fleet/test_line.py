"""Hosts that lie on the line: the controller keeps its memory, its time and its manners."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest

from fleet import agent_json, line
from fleet.errors import HostError
from fleet.frames import CHUNK, MARK, frame
from fleet.session import Session


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


HELLO: dict[str, Any] = {
    "python": {"version": "3.11.7", "executable": "/p", "base_prefix": "/", "abi": "cp311",
               "implementation": "cpython", "magic": "a70d"},
    "machine": "x86_64", "libc": ["glibc", "2.36"], "free": [1, 2], "uid": 0, "user": "root",
    "root": {"path": "/srv/app", "exists": True}, "clock": 1e9, "kill_user_processes": False,
    "settled": "", "zstd": True,
    "state": {"generation": 1, "current": "a" * 64, "previous": None, "pending": None,
              "releases": ["a" * 64], "confirmed": ["a" * 64], "quarantined": {"b" * 64: "bad"},
              "foreign": "", "name": "shop", "last": {"what": "confirmed"}},
}  # fmt: skip


class Lying:
    """A transport to one liar."""

    name = "h1"

    def __init__(self, hello: object, then: bytes = b"") -> None:
        self._hello = hello
        self._then = then

    def open(self, argv: list[str], deadline: float) -> Liar:
        return Liar(MARK + frame(b"J", agent_json.dumps(self._hello)) + self._then)


def changed(place: str, value: object) -> dict[str, Any]:
    hello = copy.deepcopy(HELLO)
    *path, last = place.split(".")
    at = hello
    for name in path:
        at = at[name]
    at[last] = value
    return hello


@pytest.mark.row("M1")
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("state.generation", "1"), ("state.generation", 1 << 64), ("state.generation", -7),
        ("state.generation", True), ("state.current", "../../../etc/passwd"),
        ("state.current", 5), ("state.previous", []), ("state.releases", ["x"]),
        ("state.releases", 7), ("state.quarantined", []), ("state.quarantined", {"x": "y"}),
        ("state.last", "x"), ("state.pending", {"to": 1}), ("state.pending", "x"),
        ("state.name", None),
        ("python", []), ("python.version", 3), ("free", ["a", "b"]), ("free", []),
        ("clock", "now"), ("clock", 1e300), ("libc", "x"), ("state", None), ("uid", None),
    ],
)  # fmt: skip
def test_a_hello_of_another_shape(place: str, value: object) -> None:
    assert Session.open(Lying(HELLO), "/srv/app", "python3", timeout=5.0).facts.uid == 0
    with pytest.raises(HostError, match="h1: a hello of another shape") as caught:
        Session.open(Lying(changed(place, value)), "/srv/app", "python3", timeout=5.0)
    assert caught.value.kind == "protocol"


@pytest.mark.row("L3")
def test_what_a_host_says_of_itself_cannot_reach_the_terminal() -> None:
    evil = "\x1b]0;title\x07\n\u202e"
    for place in ("machine", "user", "settled", "python.version", "state.foreign",
                  "state.last.reason"):  # fmt: skip
        facts = Session.open(Lying(changed(place, evil)), "/a", "python3", timeout=5.0).facts
        assert "\x1b" not in str(facts)
        said = [facts.machine, facts.user, facts.settled, facts.python_version,
                facts.state.foreign, str(facts.state.last.get("reason", ""))]  # fmt: skip
        assert all(one.isprintable() for one in said)
        assert any("title" in one for one in said)


EVIL = ["\x1b[2J", "\ud800", 5, -7, None, [], {}, [[]], [["x"]], [{}], 1e308, 1 << 70, "x\ny"]
# verb: how it is asked, and what of its answer counts
VERBS: dict[str, tuple[Callable[[Session], object], dict[str, Any]]] = {
    "pack": (lambda s: s.send_pack([]), {"objects": 1, "missing": 0}),
    "checkout": (lambda s: s.checkout("a" * 64), {"files": 1}),
    "verify": (lambda s: s.verify("a" * 64), {"drift": [["lib/x", "app", "mode"]]}),
    "repair": (lambda s: s.repair("a" * 64, []), {"missing": [["a" * 64, True]]}),
    "switch": (lambda s: s.switch("a" * 64, None, 0, 1), {"generation": 2}),
    "run": (lambda s: s.run("true", 1), {"status": 0, "output": "", "seconds": 0.1,
                                         "timed_out": False}),
    "http": (lambda s: s.http("http://h/", 1), {"status": 0, "output": "", "seconds": 0.1,
                                                "timed_out": False}),
    "confirm": (lambda s: s.confirm(1), {"generation": 2}),
    "revert": (lambda s: s.revert(1, ""), {"hooks": [["true", -9, False]]}),
    "rollback": (lambda s: s.rollback(None, None), {"id": "a" * 64, "generation": 2}),
    "prune": (lambda s: s.prune(3), {"removed": ["a" * 64], "objects": 1, "bytes": 1}),
    "clear": (lambda s: s.clear("a" * 64, "why"), {"was": "bad"}),
    "history": (lambda s: s.history(), {"lines": [{"what": "switch"}]}),
    "processes": (lambda s: s.processes(), {"processes": [["current", 7]]}),
    "adopt": (lambda s: s.adopt(), {"adopted": "a folder"}),
    "forget": (lambda s: s.forget(), {"left": ["x"]}),
}  # fmt: skip


@pytest.mark.row("L3", "M1")
@pytest.mark.parametrize("verb", VERBS)
def test_an_answer_of_another_shape_is_one_line(verb: str) -> None:
    ask, right = VERBS[verb]

    def told(answer: object) -> object:
        said = frame(b"J", agent_json.dumps(answer))
        return ask(Session.open(Lying(HELLO, said), "/srv/app", "python3", timeout=5.0))

    told(right)
    missing = [{key: right[key] for key in right if key != left} for left in right]
    wrong = [{**right, key: evil} for key in right for evil in EVIL]
    for answer in [*missing, *wrong]:
        refused, kept = "", None
        try:
            kept = told(answer)
        except HostError as error:
            refused = f"{error.kind} {error}"
        # What passed can be kept, printed and stored.
        shape, short = f"protocol h1: an answer to {verb} of another shape", "not in the pack"
        assert refused in ("", shape) or (verb == "pack" and short in refused), answer
        assert str(kept).isprintable(), answer
        str(getattr(kept, "output", "")).encode()
