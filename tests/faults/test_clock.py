"""Clocks that are ten years off, and one that jumps in the middle: nothing is ordered by time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.journal import Journal
from fleet.pack import Packs
from fleet.transport import LocalTransport
from images.manifest import Manifest
from images.store import Store
from tests.support.cutting import stop_timers, whole
from tests.support.fleets import ROOT, Project
from tests.support.hosts import Host, until

YEARS = 10 * 365 * 86400

# Put before a program: every way it has to ask for the time of day is so far off as the file
# says. The monotonic clock and sleeping stay right, as they do when somebody sets a clock.
SEAM = """
import datetime, time
def off(text=open, path={path!r}):
    with text(path) as file:
        return int(file.read())
def shifted(real, kept=time.time):
    return lambda seconds=None: real(kept() + off() if seconds is None else seconds)
class Off(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(time.time(), tz)
time.gmtime, time.localtime = shifted(time.gmtime), shifted(time.localtime)
time.time = (lambda kept=time.time: kept() + off())
datetime.datetime = Off
"""


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A file that says how many seconds the clock is off; read anew at every look."""
    path = tmp_path / "clock"
    path.write_text("0")
    return path


@pytest.fixture
def host(tmp_path: Path, store: Store, packs: Packs, clock: Path) -> Iterator[Host]:
    folder = tmp_path / "host"
    folder.mkdir(mode=0o755)
    host = Host(LocalTransport("h1"), str(folder / "app"), store, packs)
    # Runs the words after it (python -I -S -c CODE …) in itself, with the clock that is off.
    runner = tmp_path / "runner.py"
    code = "import sys\nsys.argv = ['-c', *sys.argv[6:]]\nexec(CODE, {'__name__': '__main__'})\n"
    runner.write_text("import sys\nCODE = sys.argv[5]\n" + SEAM.format(path=str(clock)) + code)
    asked = host.open
    become = [sys.executable, "-S", str(runner)]
    host.open = lambda **more: asked(become=become, **more)  # type: ignore[method-assign]
    yield host
    stop_timers(host.root)


@pytest.mark.row("Z1")
def test_a_hosts_clock_ten_years_off_and_back_again(
    host: Host, clock: Path, images: list[Manifest]
) -> None:
    first, second, third = images
    clock.write_text(f"{YEARS}")
    host.deploy(first)
    with host.open() as session:
        assert session.facts.clock_skew > YEARS - 100
    clock.write_text(f"-{YEARS}")
    host.deploy(second)
    clock.write_text("0")
    with host.open() as session:
        state = session.facts.state
        assert (state.current, state.previous) == (second.image_id, first.image_id)
        assert state.confirmed == (first.image_id, second.image_id)
        history = session.history()
    # By the clock the first deployment came twenty years after the second.
    assert [line["generation"] for line in history] == sorted(l["generation"] for l in history)  # noqa: E741
    assert [line["time"][:3] for line in history] != sorted(l["time"][:3] for l in history)  # noqa: E741
    clock.write_text(f"{YEARS}")
    host.deploy(third)
    clock.write_text(f"-{YEARS}")
    with host.open() as session:
        assert session.prune(2)["removed"] == [first.image_id]
        assert session.rollback(None, third.image_id)[0] == second.image_id
    whole(host, images, "after all jumps")


@pytest.mark.row("Z1")
def test_the_clock_jumps_while_a_switch_is_unconfirmed(
    host: Host, clock: Path, images: list[Manifest]
) -> None:
    host.deploy(images[0])
    with host.open() as session:
        host.stage(session, images[1])
        generation = host.switch(session, images[1], after=20)
        clock.write_text(f"{YEARS}")
        assert session.run("true", 5).ok
    # The timer did not take ten years for twenty seconds.
    with host.open() as session:
        pending = session.facts.state.pending
        assert pending is not None
        assert pending.armed
        session.confirm(generation)
    with host.open() as session:
        host.stage(session, images[2])
        host.switch(session, images[2], after=0.4)
        clock.write_text(f"-{YEARS}")
    # Nor does it wait for ten years to pass again.
    until(lambda: host.current == images[1].image_id, 10)


@pytest.mark.row("Z1")
@pytest.mark.parametrize("seconds", [YEARS, -YEARS])
def test_a_controllers_clock_ten_years_off(tmp_path: Path, clock: Path, seconds: int) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (tmp_path / "hosts").mkdir()
    project = Project(folder, Store(os.environ["WAIN_STORE"]))
    project.write(2, waves=["label:canary", "100%"])
    project.image("v1")
    new = project.image("v2")
    assert project.wain("rollout", "shop:v1", "--yes").code == 0
    clock.write_text(f"{seconds}")
    code = (
        SEAM.format(path=str(clock)) + "import sys\nfrom wain.cli import main\nsys.exit(main())\n"
    )
    for words in (["rollout", "shop:v2", "--yes"], ["rollback", "--yes"], ["rollback", "--yes"]):
        ran = subprocess.run(
            [sys.executable, "-c", code, "-C", str(folder), "fleet", *words],
            cwd=ROOT, env={**os.environ, "WAIN_STORE": project.store.root},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    assert set(project.currents().values()) == {new}
    again = project.wain("rollout", "shop:v2", "--yes")
    assert (again.code, again.document["result"]) == (0, "unchanged")
    with Journal.open(folder / ".wain" / "fleet.db") as journal:
        began = [row.started for row in journal.rollouts(9)]
    # Newest first by number, although by the clock they are not in order.
    assert began != sorted(began, reverse=True)
