from __future__ import annotations

import threading

import pytest

import images.parallel
from images.parallel import parallel


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.parallel, "cores", lambda: 2)


def _quiet(_: int) -> None:
    return


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_results_are_in_the_order_of_the_items(count: int) -> None:
    assert parallel(str, range(count), _quiet) == [str(number) for number in range(count)]


@pytest.mark.parametrize("chunk", [1, 1000])
def test_an_error_is_raised_and_no_thread_is_left(chunk: int) -> None:
    def fail(number: int) -> int:
        if number == 300:
            raise KeyError(number)
        return number

    before = set(threading.enumerate())
    with pytest.raises(KeyError):
        parallel(fail, range(600), _quiet, chunk)
    assert set(threading.enumerate()) <= before


def test_an_interruption_stops_the_threads() -> None:
    never = threading.Event()
    taken: list[int] = []

    def wait(number: int) -> None:
        taken.append(number)
        never.wait(0.3)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    # Threads of other tests may still be ending.
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        parallel(wait, range(100), interrupt, 1)
    assert set(threading.enumerate()) <= before
    assert len(taken) < 10


def test_ticks_count_up_to_all() -> None:
    ticks: list[int] = []
    parallel(str, range(5000), ticks.append, 10)
    assert ticks == sorted(ticks)
    assert all(0 <= tick <= 5000 for tick in ticks)
