"""Output: JSON alone on standard output, hostile text escaped, tables aligned."""

from __future__ import annotations

import io
import json

import pytest

from wain.output import Output, human_bytes, printable


@pytest.mark.row("L3")
@pytest.mark.parametrize("hostile", ["\x1b]0;title\x07", "a\rb", "\x9b31m", "\u202ebidi", "\x00"])
def test_control_characters_are_escaped(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.say(hostile)
    out.table(["host"], [[hostile]])
    out.warn(hostile)
    out.error(hostile)
    shown = "".join(capsys.readouterr())
    assert all(c.isprintable() or c == "\n" for c in shown)


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(json=True)
    out.say("for people")
    out.table(["a"], [["1"]])
    out.result({"ok": True})
    out.finish()
    out.finish()
    stdout, stderr = capsys.readouterr()
    assert json.loads(stdout) == {"ok": True}
    assert "for people" in stderr


def test_table_aligns_words_left_and_numbers_right(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(["name", "bytes"], [["a", 1], ["long", 1000]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["name  bytes", "a         1", "long   1000"]


def test_quiet_keeps_errors(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(quiet=True)
    out.say("left out")
    out.table(["left"], [["out"]])
    out.error("one\nline")
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr == "wain: error: one line\n"


def test_short_progress_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    for done in range(11):
        out.progress("Linking", done, 10)
    out.finish()
    assert capsys.readouterr() == ("", "")


def test_long_progress_is_a_line_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 100, 3))
    monkeypatch.setattr("wain.output.time.monotonic", lambda: float(next(clock)))
    out = Output()
    out.progress("Fetching", 1, 3)
    out.progress("Fetching", 2, 3)
    assert capsys.readouterr().out.startswith("Fetching 1/3")


def test_confirm_is_no_when_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert not Output().confirm("Roll out?")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (15_000_000, "15.0 MB")]
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_printable_keeps_what_people_write() -> None:
    assert printable("Grüße, 東京 → ok\n") == "Grüße, 東京 → ok\n"
