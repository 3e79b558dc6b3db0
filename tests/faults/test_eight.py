"""Eight hosts whose agents are killed at eight different system calls of one roll-out.

The real command sees agents die, early or late, in the check before or at the switch. No host may
end up in between; none needs a hand; the same command finishes on all of them.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fleet.agent_timer import is_armed
from images.store import Store
from tests.support.cutting import stop_timers
from tests.support.fleets import Project
from tests.support.hosts import until

Sample = Callable[[Sequence[list[str]], int], Sequence[list[str]]]

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")

HOSTS = 8
# What changes a host, or is said to the controller; every one of them is a point.
CALLS = (
    "write,pwrite64,fsync,syncfs,rename,link,linkat,symlink,unlink,mkdir,rmdir,fchmod,"
    "utimensat,ftruncate,flock,clone"
)


class Eight(Project):
    """A fleet of eight folders, each with words of its own before its agent."""

    def prepare(self, words: Sequence[str] = ()) -> None:
        self.write(HOSTS, confirm_timeout="1s", step_timeout="20s", max_failures=HOSTS,
                   max_unreachable=HOSTS, parallel=HOSTS)  # fmt: skip
        path = self.folder / "fleet.toml"
        text = path.read_text()
        for number, become in enumerate(words, 1):
            name = f'name = "h{number}"'
            text = text.replace(name, f'{name}\nbecome = "{become}"')
        path.write_text(text)

    def is_settled(self, states: dict[str, str]) -> bool:
        return all(
            states[name] == "succeeded" or not is_armed(str(self.root(name)))
            for name in self.hosts
        )  # fmt: skip


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Eight]:
    folder = tmp_path / "shop"
    folder.mkdir()
    fleet = Eight(folder, Store(os.environ["WAIN_STORE"]))
    fleet.prepare()
    yield fleet
    for name in fleet.hosts:
        stop_timers(str(fleet.root(name)))


def rules(fleet: Eight, words: list[str], folder: Path) -> list[str]:
    """One rule for each call that any session of the command makes on a host."""
    log = folder / "trace"
    fleet.prepare([f"strace -q -A -o {log} -e trace={CALLS}"])
    assert fleet.wain(*words, "--hosts", "h1").code == 0
    fleet.prepare()
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\w+)\(", line)
        if match:
            counts[match[1]] = counts.get(match[1], 0) + 1
            found[match[1]] = max(found.get(match[1], 0), counts[match[1]])
        elif line.startswith("+++"):
            counts.clear()
    return [
        f"strace -qq -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={at}"
        for call, count in found.items() for at in range(1, count + 1)
    ]  # fmt: skip


@pytest.mark.row("A1", "T7")
@pytest.mark.parametrize("verb", ["rollout", pytest.param("rollback", marks=pytest.mark.faults)])
def test_agents_killed_at_eight_points_at_once(
    fleet: Eight, sample: Sample, tmp_path: Path, verb: str, request: pytest.FixtureRequest
) -> None:
    images = [fleet.image("v1"), fleet.image("v2")]
    words = ["rollout", "shop:v2", "--yes"] if verb == "rollout" else ["rollback", "--yes"]
    for tag in ("v1", "v2") if verb == "rollback" else ("v1",):
        assert fleet.wain("rollout", f"shop:{tag}", "--yes").code == 0
    kept = fleet.root("h1").parent
    subprocess.run(["cp", "-a", kept, tmp_path / "kept"], check=True)
    points = rules(fleet, words, tmp_path)
    count = -(-len(points) // HOSTS)
    groups = [points[at::count] for at in range(count)]
    wanted = images[1] if verb == "rollout" else images[0]
    for group in sample(groups, 1):
        for name in fleet.hosts:
            stop_timers(str(fleet.root(name)))
        shutil.rmtree(kept)
        subprocess.run(["cp", "-a", tmp_path / "kept", kept], check=True)
        fleet.prepare(group)
        ran = fleet.wain(*words)
        assert "Traceback" not in ran.text, group
        states = ran.states()
        for name, state in states.items():
            assert state in ("succeeded", "failed", "reverted", "unreachable", "untouched"), group
            error = ran.document["hosts"][name]["error"]
            assert (state == "failed") <= bool(error), (name, group)
            assert "\n" not in (error or ""), group
            assert fleet.current(name) in images, (name, group)
            assert fleet.says(name) in ("v1", "v2"), (name, group)
        fleet.prepare()
        # What nobody confirmed goes back by itself.
        until(functools.partial(fleet.is_settled, states), 20)
        again = fleet.wain("rollout", f"shop:{'v2' if verb == 'rollout' else 'v1'}", "--yes")
        assert again.code == 0, (group, again.text)
        assert set(fleet.currents().values()) == {wanted}, group
        assert fleet.wain("verify", "--deep").code == 0, group
    request.node.user_properties.append(("points", len(points) - len(groups)))
