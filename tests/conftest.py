"""Fixtures and rules for all tests, and the table of fault rows that `make faults` prints."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

# CI sets this: a test that cannot run there fails instead of being left out.
REQUIRE_ALL = os.environ.get("WAIN_TEST_REQUIRE_ALL") == "1"
# What nobody can install: other releases of Python, what the kernel, libc or disk is.
_GIVEN = re.compile(
    r"no [Pp]ython ?\d|no (namespaces|landlock|none) here|interpreter of the system"
    r"|glibc|file system|descriptors"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="run the long fault sweeps at every point, not at a sample (make faults)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(name): proves a row of the table of faults")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # As in the background of a script: whoever is started here would ignore it as well.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`-m faults` means every test that proves a row, short ones included."""
    for item in items:
        rows = [name for mark in item.iter_markers("row") for name in mark.args]
        if rows:
            item.user_properties.append(("rows", rows))
            if config.getoption("--full"):
                item.add_marker("faults")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out, in plain words, what this machine cannot run; in CI nothing may be."""
    for marker, missing, reason in (
        ("sshd", _no_sshd(), "no sshd here (apt-get install openssh-server)"),
        ("root", os.geteuid() != 0, "needs root"),
    ):
        if item.get_closest_marker(marker) and missing:
            if REQUIRE_ALL:
                pytest.fail(f"left out in a run that may leave nothing out: {reason}")
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that was left out for want of a program has failed."""
    report = yield
    if REQUIRE_ALL and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not _GIVEN.search(reason):
            report.outcome = "failed"
            report.longrepr = f"left out in a run that may leave nothing out: {reason}"
    return report


def _no_sshd() -> bool:
    return not (os.path.exists("/usr/sbin/sshd") or shutil.which("sshd"))


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test touches the user's store."""
    monkeypatch.setenv("WAIN_STORE", str(tmp_path_factory.mktemp("store")))


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Callable[[Sequence[T], int], Sequence[T]]:
    """`sample(points, n)`: all points with --full, else `n` of them spread evenly.

    What is returned is counted as points tried in the table of fault rows.
    """

    def choose(points: Sequence[T], short: int) -> Sequence[T]:
        chosen = points
        if not request.config.getoption("--full") and len(points) > short:
            last = len(points) - 1
            indexes = sorted({round(i * last / max(1, short - 1)) for i in range(short)})
            chosen = [points[i] for i in indexes]
        request.node.user_properties.append(("points", len(chosen)))
        return chosen

    return choose


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of fault rows: row, tests, points tried, result."""
    if not config.getoption("--full"):
        return
    table: dict[str, dict[str, Any]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = getattr(report, "user_properties", [])
            points = sum(value for key, value in properties if key == "points") or 1
            for row in (name for key, value in properties if key == "rows" for name in value):
                entry = table.setdefault(row, {"tests": 0, "points": 0, "outcomes": set()})
                entry["tests"] += 1
                entry["points"] += points
                entry["outcomes"].add(outcome)
    terminalreporter.section("fault rows")
    terminalreporter.line(f"{'row':<6}{'tests':>6}{'points':>8}  result")
    for row in sorted(table, key=lambda name: (name[0], int(name[1:]))):
        entry = table[row]
        bad = entry["outcomes"] & {"failed", "error"}
        result = "RED" if bad else "left out" if "skipped" in entry["outcomes"] else "green"
        terminalreporter.line(f"{row:<6}{entry['tests']:>6}{entry['points']:>8}  {result}")
