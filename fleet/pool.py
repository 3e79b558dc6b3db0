"""Work on many hosts at once, bounded, with one that hangs delaying nobody.

One thread for each host that is being worked on, at most ``parallel`` of them; results arrive in
the calling thread, one by one, as they come. A task that outlives its limit is given up: its
place is free again, its thread is left to its own deadline and its late result is dropped.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# How often the calling thread looks up from waiting. Seconds.
TICK = 0.1


class Lost(Exception):
    """A task that did not end within its limit."""


class Pool(Generic[T, R]):
    """``work(task)`` in up to ``parallel`` threads.

    ``limit`` in seconds for one task, None for no limit. ``jitter`` in seconds spreads the
    starts, so that a server between here and the hosts does not see all of them at once.
    """

    def __init__(
        self,
        work: Callable[[T], R],
        parallel: int,
        *,
        limit: float | None = None,
        jitter: float = 0.0,
    ) -> None:
        self._work = work
        self._parallel = parallel
        self._limit = limit
        self._jitter = jitter
        self._results: queue.SimpleQueue[tuple[int, T, R | None, BaseException | None]] = (
            queue.SimpleQueue()
        )
        self._running: dict[int, tuple[T, float]] = {}

    def run(
        self,
        tasks: Iterable[T],
        on_result: Callable[[T, R | None, BaseException | None], None],
        *,
        stopped: Callable[[], bool] = lambda: False,
        on_tick: Callable[[], None] = lambda: None,
    ) -> list[T]:
        """Run the tasks in order; the ones that were never started because of ``stopped``.

        ``on_result`` (a result, or an error), ``on_tick`` and ``stopped`` are called in this
        thread. In-flight tasks are waited for also when stopped.
        """
        waiting = deque(tasks)
        number = 0
        while waiting or self._running:
            while waiting and len(self._running) < self._parallel and not stopped():
                number += 1
                self._start(number, waiting.popleft())
            if not self._running:
                break
            try:
                found = self._results.get(timeout=TICK)
            except queue.Empty:
                found = None
            if found is not None:
                self._deliver(found, on_result)
            self._give_up(on_result)
            on_tick()
        return list(waiting)

    def _start(self, number: int, task: T) -> None:
        pause = random.uniform(0, self._jitter) if self._jitter else 0.0
        self._running[number] = (task, time.monotonic() + pause)

        def body() -> None:
            try:
                if pause:
                    time.sleep(pause)
                result: tuple[int, T, R | None, BaseException | None] = (
                    number, task, self._work(task), None,
                )  # fmt: skip
            except BaseException as error:
                result = (number, task, None, error)
            self._results.put(result)

        threading.Thread(target=body, name=f"host-{number}", daemon=True).start()

    def _deliver(
        self,
        found: tuple[int, T, R | None, BaseException | None],
        on_result: Callable[[T, R | None, BaseException | None], None],
    ) -> None:
        number, task, result, error = found
        if self._running.pop(number, None) is not None:
            on_result(task, result, error)

    def _give_up(self, on_result: Callable[[T, R | None, BaseException | None], None]) -> None:
        if self._limit is None:
            return
        now = time.monotonic()
        late = [number for number, (_, at) in self._running.items() if now > at + self._limit]
        for number in late:
            task, _ = self._running.pop(number)
            on_result(task, None, Lost(f"no end within {self._limit:.0f} s"))
