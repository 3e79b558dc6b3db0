from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import images.forks
from images.errors import WainError
from images.forks import MOST_PIECES, Fed, can_fork, in_processes

_before: set[str] = set()


@pytest.fixture(autouse=True)
def _three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.forks, "cores", lambda: 3)
    _before.clear()
    _before.update(_children())


def _children() -> set[str]:
    """This process's children, of whatever thread; ended ones too, until they are waited for."""
    found = Path("/proc/self/task").glob("*/children")
    return {number for path in found for number in path.read_text().split()}


def _no_child_is_left() -> bool:
    # multiprocessing, in other tests of this process, keeps a helper to the end.
    return _children() <= _before


@pytest.mark.parametrize("count", [1, 2, 3, 1000, MOST_PIECES])
def test_every_number_once(count: int) -> None:
    parts = in_processes(lambda numbers: list(numbers), count)
    assert len(parts) == min(3, count)
    assert sorted(number for part in parts for number in part) == list(range(count))
    assert all(part == sorted(part) for part in parts)
    assert _no_child_is_left()


def test_it_is_other_processes_that_work() -> None:
    def work(numbers: Iterator[int]) -> int:
        for _ in numbers:
            time.sleep(0.001)
        return os.getpid()

    found = in_processes(work, 60)
    assert len(set(found)) == 3
    assert os.getpid() in found


def test_more_pieces_than_a_pipe_holds() -> None:
    with pytest.raises(ValueError, match="at most"):
        in_processes(list, MOST_PIECES + 1)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full", "/a", None, "/b"), WainError("/x", "is wrong", "mend it")],
    ids=["system", "ours"],
)
def test_an_error_in_a_copy_is_raised_here(error: Exception) -> None:
    here = os.getpid()

    def work(numbers: Iterator[int]) -> None:
        if os.getpid() != here:
            raise error
        for _ in numbers:
            pass

    with pytest.raises(type(error)) as caught:
        in_processes(work, 10)
    assert str(caught.value) == str(error).replace("full", os.strerror(errno.ENOSPC))
    assert _no_child_is_left()


def test_a_copy_that_dies_is_an_error() -> None:
    here = os.getpid()

    def work(numbers: Iterator[int]) -> None:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        list(numbers)

    with pytest.raises(WainError, match="died"):
        in_processes(work, 10)
    assert _no_child_is_left()


def test_no_copy_is_left_after_an_interruption(tmp_path: Path) -> None:
    here = os.getpid()

    def work(numbers: Iterator[int]) -> None:
        if os.getpid() == here:
            raise KeyboardInterrupt
        for _ in numbers:
            (tmp_path / "begun").touch()
            time.sleep(600)

    with pytest.raises(KeyboardInterrupt):
        in_processes(work, 10)
    assert _no_child_is_left()


def test_copies_stop_when_the_first_process_dies(tmp_path: Path) -> None:
    first = os.fork()
    if not first:

        def work(numbers: Iterator[int]) -> None:
            me = os.getpid()
            for number in numbers:
                (tmp_path / f"{me}-{number}").touch()
                if me == parent:
                    os.kill(me, signal.SIGKILL)
                time.sleep(0.02)

        parent = os.getpid()
        in_processes(work, 4000)
        os._exit(0)
    assert os.waitpid(first, 0)[1] == signal.SIGKILL
    end = time.monotonic() + 20
    before = -1
    while before != (before := len(os.listdir(tmp_path))):
        assert time.monotonic() < end
        time.sleep(0.3)
    assert before < 1000


def test_not_among_threads() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert not can_fork()
    finally:
        done.set()
        thread.join()


def test_progress_tells_what_this_process_took() -> None:
    told: list[int] = []
    here = os.getpid()

    def work(numbers: Iterator[int]) -> list[int]:
        return [number for number in numbers if os.getpid() == here]

    (mine, *_) = in_processes(work, 500, told.append)
    assert told == mine


def _lengths(source: int) -> list[int]:
    return [len(block) for block in iter(lambda: os.read(source, 1 << 16), b"")]


def test_each_process_reads_what_is_written_to_it_until_the_end() -> None:
    fed = Fed(_lengths, 3)
    try:
        first = fed.idlest()
        os.write(first, b"x" * 5000)
        second = fed.idlest() if fed.idlest() != first else first
        os.write(second, b"y" * 70_000)
        found = fed.results()
    finally:
        fed.stop()
    assert sum(sum(lengths) for lengths in found) == 75_000
    assert len(found) == 3
    assert _no_child_is_left()


def test_the_idlest_pipe_is_the_one_with_the_least_left_in_it() -> None:
    fed = Fed(lambda source: time.sleep(60), 2)
    try:
        first = fed.idlest()
        os.write(first, b"x")
        second = fed.idlest()
        assert second != first
        os.write(second, b"xy")
        assert fed.idlest() == first
    finally:
        fed.stop()
    assert _no_child_is_left()


def test_what_a_fed_process_raises_is_raised_here() -> None:
    def work(source: int) -> None:
        raise WainError("a file", "is not there")

    fed = Fed(work, 2)
    with pytest.raises(WainError, match="a file: is not there"):
        fed.results()
    fed.stop()
    assert _no_child_is_left()


def test_no_process_left_to_be_had_is_an_error_that_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    forks = iter([True, False])

    def fork() -> int:
        if next(forks):
            return real()
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    real = os.fork
    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(BlockingIOError):
        Fed(_lengths, 3)
    assert _no_child_is_left()
    assert len(os.listdir("/proc/self/fd")) == open_before
