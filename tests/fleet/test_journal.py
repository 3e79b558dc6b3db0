from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from fleet import journal as journals
from fleet import reported
from fleet.journal import HostRow, Journal, JournalError, StepRow
from fleet.reported import ImageRecord, Report
from images.errors import UsageError


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.open(tmp_path / ".wain" / "fleet.db")


def begin(journal: Journal, *hosts: str) -> int:
    return journal.begin(
        kind="rollout", image="a" * 64, image_name="shop:v1", plan_digest="d" * 64,
        plan={"waves": [list(hosts)]}, who="me", machine="here", reason="because", ticket="T-1",
        hosts=[HostRow(host, 0, previous="b" * 64, generation=3) for host in hosts],
    )  # fmt: skip


def test_it_is_durable_and_in_wal_mode(journal: Journal) -> None:
    assert journal.rows("PRAGMA journal_mode") == [("wal",)]
    assert journal.rows("PRAGMA synchronous") == [(2,)]


def test_a_rollout_from_beginning_to_end(journal: Journal) -> None:
    number = begin(journal, "web2", "web1")
    assert journal.last_open() == journal.rollout(number)
    rows = journal.host_rows(number)
    assert [row.host for row in rows] == ["web2", "web1"]  # the frozen order, not the alphabet's
    assert rows[0] == HostRow("web2", 0, previous="b" * 64, generation=3)
    steps = [
        StepRow("web1", "hello", "2026-01-01T00:00:00Z", 0.1, "ok"),
        StepRow("web1", "health", "2026-01-01T00:00:01Z", 2.0, "exit status 1", "no\n"),
        StepRow("web2", "hello", "2026-01-01T00:00:00Z", 0.2, "ok"),
    ]
    done = HostRow("web1", 0, "reverted", "health", "b" * 64, "a" * 64, 5, 100, 20, 2.5, "health")
    journal.record(number, [done], steps[:1])
    journal.record(number, [], steps[1:])
    assert journal.host_rows(number)[1] == done
    assert journal.steps(number) == steps
    journal.set_state(number, journals.DONE, result="reverted", error="web1: health")
    found = journal.rollout(number)
    assert found is not None
    assert found.id == f"r{number}"
    assert (found.state, found.result, found.reason) == ("done", "reverted", "because")
    assert found.plan == {"waves": [["web2", "web1"]]}
    assert found.finished
    assert journal.last_open() is None


def test_a_new_rollout_ends_those_whose_controller_died(journal: Journal) -> None:
    first = begin(journal, "a")
    second = begin(journal, "a")
    journal.abandon_open(except_number=second)
    found = journal.rollout(first)
    assert found is not None
    assert found.state == journals.ABANDONED
    assert [item.number for item in journal.rollouts()] == [second, first]


def test_orders_come_once_and_in_order(journal: Journal) -> None:
    number = begin(journal, "a")
    other = Journal.open(journal.path)
    other.order(number, "pause", "you")
    other.order(number, "resume", "you")
    orders = journal.orders(number)
    assert [verb for _, verb, _ in orders] == ["pause", "resume"]
    assert journal.orders(number, after=orders[-1][0]) == []


def test_rehearsals_and_quarantine(journal: Journal) -> None:
    assert journal.rehearsal("d") is None
    journal.add_rehearsal("d", "a", False, {"clones": 1})
    journal.add_rehearsal("d", "a", True, {"clones": 2})
    passed, _, evidence = journal.rehearsal("d") or (False, "", {})
    assert (passed, evidence) == (True, {"clones": 2})
    journal.set_quarantine("a", "put", "health failed", "me")
    journal.set_quarantine("b", "put", "hook failed", "me")
    journal.set_quarantine("a", "clear", "fixed", "me")
    assert journal.quarantined() == {"b": "hook failed"}


# C3: a journal that cannot be used is one clear error.


def use(path: Path) -> None:
    journal = Journal.open(path)
    begin(journal, "a")
    journal.rollouts()


def fail(path: Path) -> JournalError:
    with pytest.raises(JournalError) as error:
        use(path)
    assert error.value.where == str(path)
    return error.value


@pytest.mark.row("C3")
def test_no_journal_at_all(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    path.write_bytes(b"x" * 5000)
    assert "is no journal of wain" in str(fail(path))
    assert path.read_bytes() == b"x" * 5000


@pytest.mark.row("C3")
def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url)")
    before = path.read_bytes()
    assert "another program" in str(fail(path))
    assert path.read_bytes() == before


@pytest.mark.row("C3")
def test_a_newer_schema(journal: Journal) -> None:
    with sqlite3.connect(journal.path) as db:
        db.execute("PRAGMA user_version=99")
    assert "schema 99, this wain reads schema 1" in str(fail(journal.path))


@pytest.mark.row("C3")
def test_a_damaged_file(journal: Journal) -> None:
    number = begin(journal, *[f"host{at}" for at in range(2000)])
    journal.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.close()
    size = journal.path.stat().st_size
    with journal.path.open("r+b") as file:
        file.seek(4096 + 100)
        file.write(b"\xff" * (size - 8192))
    with pytest.raises(JournalError, match=r"damaged|disk image"):
        Journal.open(journal.path).host_rows(number)


@pytest.mark.row("C3")
def test_a_truncated_file(journal: Journal) -> None:
    begin(journal, *[f"host{at}" for at in range(500)])
    journal.close()
    os.truncate(journal.path, 6000)
    with pytest.raises(JournalError, match="damaged"):
        Journal.open(journal.path).rollouts()


@pytest.mark.row("C3")
def test_a_locked_file(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "BUSY", 0.2)
    holder = sqlite3.connect(journal.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert "kept it locked" in str(fail(journal.path))
    holder.execute("ROLLBACK")
    assert begin(Journal.open(journal.path), "a") == 1


@pytest.mark.row("C3")
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fail(tmp_path / "file" / "fleet.db")


def _open_and_begin(path: Path, count: int) -> None:
    for _ in range(count):
        with Journal.open(path) as journal:
            begin(journal, "a")


def test_processes_may_create_and_write_it_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_open_and_begin, args=(path, 10)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(Journal.open(path).rollouts(limit=100)) == 30


def _write_forever(path: Path) -> None:
    journal = Journal.open(path)
    number = begin(journal, "a", "b")
    os.write(1, b"ready\n")  # past the capture of a test's output
    while True:
        journal.record(number, [HostRow("a", 0, "x"), HostRow("b", 0, "x")])
        journal.record(number, [HostRow("a", 0, "y"), HostRow("b", 0, "y")])


@pytest.mark.row("C1")
def test_a_killed_writer_leaves_whole_transactions(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    for _ in range(5):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writer, 1)
            _write_forever(path)
        os.close(writer)
        with os.fdopen(reader) as said:
            assert said.readline() == "ready\n"
        time.sleep(0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        journal = Journal.open(path)
        found = journal.last_open()
        assert found is not None
        assert len({row.state for row in journal.host_rows(found.number)}) == 1
        journal.abandon_open()


# What hosts reported.


def some_images() -> list[ImageRecord]:
    return [
        ImageRecord(f"{at:064x}", f"shop:v{at}", "3.11", "linux_x86_64",
                    (("requests", f"2.{at}.0"), ("django", "5.0"), (f"only-{at}", "1.0")))
        for at in range(40)
    ]  # fmt: skip


def some_report(host: str, image: int, python: str = "3.11.7", libc: str = "glibc 2.36") -> Report:
    return Report(host, f"{image:064x}", None, 1, python, "x86_64", libc, (f"{image:064x}",))


def test_queries(journal: Journal) -> None:
    reported.remember_images(journal, some_images())
    reported.remember_images(journal, some_images())
    reported.report(journal, [some_report("a", 31), some_report("b", 32),
                              some_report("c", 5, "3.11.2", "glibc 2.31")])  # fmt: skip
    found = reported.query_package(journal, "Requests<2.32")
    assert [(match.host, match.version) for match in found] == [("a", "2.31.0"), ("c", "2.5.0")]
    assert [match.host for match in reported.query_package(journal, "only_5")] == ["c"]
    assert reported.query_package(journal, "absent") == []
    assert [match.host for match in reported.query_image(journal, f"{32:064x}")] == ["b"]
    assert [match.host for match in reported.query_fact(journal, "python", "<3.11.7")] == ["c"]
    assert [match.host for match in reported.query_fact(journal, "python", "3.11")] == [
        "a",
        "b",
        "c",
    ]
    assert [match.host for match in reported.query_fact(journal, "libc", ">=2.36")] == ["a", "b"]
    for wrong in ("requests <", "requests[x]", "requests @ https://x/y.whl", ""):
        with pytest.raises(UsageError):
            reported.query_package(journal, wrong)
    with pytest.raises(UsageError):
        reported.query_fact(journal, "python", "<abc")


def test_a_host_reports_anew_and_is_forgotten(journal: Journal) -> None:
    reported.report(journal, [some_report("a", 1)])
    reported.report_problem(journal, [("a", "down"), ("b", "down")])
    first, second = reported.reports(journal)
    assert (first.image, first.problem, second.image) == (f"{1:064x}", "down", None)
    reported.report(journal, [some_report("a", 2)])
    assert reported.reports(journal)[0].problem == ""
    assert reported.forget(journal, ["a", "x"]) == 1
    assert [report.host for report in reported.reports(journal)] == ["b"]


def test_a_question_over_25000_hosts_and_40_images_takes_less_than_a_second(
    journal: Journal,
) -> None:
    images = [
        ImageRecord(image.id, image.name, image.python, image.platform,
                    (*image.packages, *((f"p{at}", f"{image.name[6:]}.{at}") for at in range(150))))
        for image in some_images()
    ]  # fmt: skip
    reported.remember_images(journal, images)
    reported.report(journal, [some_report(f"host{at:05}", at % 40) for at in range(25_000)])
    began = time.perf_counter()
    found = reported.query_package(journal, "requests<2.32")
    assert time.perf_counter() - began < 1.0
    assert len(found) == 25_000 * 32 // 40
