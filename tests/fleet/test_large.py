"""Many hosts at once: 200 of them, 5 of which fail in ways of their own."""

from __future__ import annotations

import shutil
import threading
import time

import pytest

from fleet.journal import Journal
from fleet.pool import Lost, Pool
from tests.support.fleets import Project


def test_200_hosts_of_which_5_fail_in_chosen_ways(project: Project) -> None:
    checks = [
        "test $(basename {root}) != h50",
        {"run": "test $(basename {root}) != h60 || sleep 60", "timeout": "2s"},
    ]
    project.write(
        200, waves=["label:canary", "25%", "100%"], max_failures="10%", parallel=8, health=checks,
        after_switch=["test $(basename {root}) != h70"],
    )  # fmt: skip
    image = project.image("v1")
    # Writable by everybody: refused at once. A folder in the place of current: left alone.
    project.root("h80").mkdir(parents=True)
    project.root("h80").chmod(0o777)
    (project.root("h90") / "current").mkdir(parents=True)
    ran = project.wain("rollout", "shop:v1", "--yes")
    assert (ran.code, ran.document["result"]) == (1, "succeeded"), ran.text
    expected = {
        "h50": ("reverted", "status 1"),
        "h60": ("reverted", "did not end within 2s"),
        "h70": ("reverted", "after-switch"),
        "h80": ("failed", "writable by everybody"),
        "h90": ("failed", "current is a folder"),
    }
    for name, host in ran.document["hosts"].items():
        state, text = expected.get(name, ("succeeded", ""))
        assert (host["state"], text in host["error"]) == (state, True), (name, host)
        if name != "h90":
            assert project.current(name) == (image if state == "succeeded" else None)
    assert [len(wave["hosts"]) for wave in ran.document["waves"]] == [1, 49, 150]
    # The table for people has a line for each of them.
    lines = [line.split() for line in ran.text.splitlines() if " reverted " in line]
    assert {"h50", "h60", "h70"} <= {line[0] for line in lines}
    with Journal.open(project.folder / ".wain" / "fleet.db") as journal:
        rows = journal.host_rows(1)
        assert sum(row.state == "succeeded" for row in rows) == 195
        assert {step.step for step in journal.steps(1) if step.host == "h2"} == {
            "connect", "send", "checkout", "switch", "after-switch", "health", "confirm",
        }  # fmt: skip
    shutil.rmtree(project.folder.parent / "hosts")


@pytest.mark.row("T3")
def test_one_task_that_hangs_delays_nobody() -> None:
    release = threading.Event()
    done: list[tuple[int, str]] = []

    def work(number: int) -> str:
        if number == 3:
            release.wait(30)
        return "done"

    def result(number: int, value: str | None, error: BaseException | None) -> None:
        done.append((number, value or type(error).__name__))

    pool: Pool[int, str] = Pool(work, 2, limit=1.0)
    began = time.monotonic()
    assert pool.run(range(8), result) == []
    assert time.monotonic() - began < 2.0
    assert sorted(done) == [(at, "done" if at != 3 else Lost.__name__) for at in range(8)]
    # The others did not wait for it.
    assert done[-1] == (3, "Lost")
    release.set()


def test_no_more_than_parallel_at_once_and_none_after_a_stop() -> None:
    lock, running, most = threading.Lock(), [0], [0]
    finished: list[int] = []

    def work(number: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return number

    pool: Pool[int, int] = Pool(work, 3)
    left = pool.run(
        range(20), lambda task, value, error: finished.append(task),
        stopped=lambda: len(finished) >= 5,
    )  # fmt: skip
    assert most[0] <= 3
    assert len(finished) + len(left) == 20
    assert 5 <= len(finished) <= 8
