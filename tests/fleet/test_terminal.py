"""A roll-out on a terminal: questions, the live table; plain lines and JSON elsewhere."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from tests.support.fleets import ROOT, Project
from tests.support.hosts import until


@pytest.fixture
def project(project: Project) -> Project:
    project.write(2, waves=["label:canary", "100%"], health=["sleep 0.4"])
    return project


class Terminal:
    """A person at a terminal of 100 columns; ``json``: with standard output somewhere else."""

    def __init__(self, project: Project, *words: str, piped: bool = False) -> None:
        self._ours, theirs = pty.openpty()
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wain", "-C", str(project.folder), "fleet", *words],
            cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE if piped else theirs, stderr=theirs,
            env={**os.environ, "WAIN_STORE": project.store.root, "TERM": "xterm", "COLUMNS": "100"},
            start_new_session=True, text=True,
        )  # fmt: skip
        os.close(theirs)

    def read(self, text: str = "", seconds: float = 20.0) -> None:
        """Until some text was shown; without one, until the end."""
        end = time.monotonic() + seconds
        start = len(self.seen)
        while not text or text not in self.seen[start:]:
            assert time.monotonic() < end, self.seen
            if not select.select([self._ours], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                assert not text, self.seen
                return
            self.seen += data.decode("utf-8", "replace").replace("\r\n", "\n")

    def answer(self, question: str, word: str) -> None:
        self.read(question)
        os.write(self._ours, f"{word}\n".encode())

    def end(self) -> int:
        self.read()
        os.close(self._ours)
        return self.process.wait(20)


def test_a_person_is_asked_and_sees_it_live(project: Project) -> None:
    new = project.image("v1")
    terminal = Terminal(project, "rollout", "shop:v1", "--approve")
    terminal.answer("Roll out to 2 hosts? [y/N]", "y")
    terminal.answer("Go on with wave 2 of 2, 1 host? [y/N]", "y")
    assert terminal.end() == 0
    assert project.currents() == {"h1": new, "h2": new}
    # Drawn over itself while it ran: the host at work and its step.
    live = terminal.seen.partition("Roll out to")[2].partition("host  wave")[0]
    assert re.search(r"\x1b\[\d*[AK]", live)
    assert re.search(r"h1\s+health\s+\d s", live)
    assert "wave 1: label:canary, 1 host" in live
    assert "1 succeeded" in live
    # And a plain table at the end.
    last = terminal.seen.rpartition("host  wave")[2]
    assert re.search(r"^h2 +2  succeeded  shop:v1", last, re.MULTILINE)
    assert "r1 succeeded: 2 succeeded" in last


@pytest.mark.parametrize(("answers", "code", "done"), [(["n"], 1, 0), (["y", "n"], 4, 1)])
def test_whoever_says_no_stops_it(
    project: Project, answers: list[str], code: int, done: int
) -> None:
    project.write(2, waves=["label:canary", "100%"], on_halt="keep")
    new = project.image("v1")
    terminal = Terminal(project, "rollout", "shop:v1", "--approve")
    for question, word in zip(("Roll out to 2", "Go on with wave 2"), answers, strict=False):
        terminal.answer(question, word)
    assert terminal.end() == code
    assert list(project.currents().values()) == [new, None][:done] + [None] * (2 - done)
    assert ("wave 2 was not approved" in terminal.seen) == (done == 1)


def test_json_is_alone_on_standard_output(project: Project) -> None:
    project.image("v1")
    terminal = Terminal(project, "rollout", "shop:v1", "--yes", "--json", piped=True)
    assert terminal.end() == 0
    assert terminal.process.stdout
    with terminal.process.stdout as stdout:
        assert json.loads(stdout.read())["result"] == "succeeded"
    assert "\x1b[" in terminal.seen  # the live table is for the person
    until(lambda: terminal.process.poll() is not None)


def test_in_a_log_there_are_plain_lines(project: Project) -> None:
    project.image("v1")
    process = project.start("rollout", "shop:v1", "--yes")
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")
    assert "\x1b" not in stdout
    assert "\r" not in stdout
    assert "wave 1: label:canary, 1 host\n  h1: succeeded\nwave 2: 100%, 1 host\n" in stdout
