"""One function over many items on all cores. Travels to hosts."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Item = TypeVar("Item")
    Result = TypeVar("Result")

MOST = 8  # threads: beyond that they only wait for the interpreter's lock


def cores() -> int:
    """How many cores this process may use, at most MOST."""
    try:
        return min(MOST, len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):
        return 1


def parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    on_tick: Callable[[int], None],
    chunk: int = 64,
) -> list[Result]:
    """``[function(item) for item in items]``, in threads; the first error is raised.

    Pays where the function spends its time outside Python: hashing, reading, making links.
    Items are taken ``chunk`` at a time, in order. ``on_tick`` is called in the calling thread
    now and then, with how many items have been taken. When this returns or raises, an
    interruption included, no thread is left.
    """
    workers = min(cores(), (len(items) + chunk - 1) // chunk)
    if workers < 2:
        return [function(item) for item in items]
    import threading

    starts = list(range(0, len(items), chunk))[::-1]
    results: list[list[Result]] = [[] for _ in starts]
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                start = starts.pop()
            except IndexError:
                return
            try:
                done = [function(item) for item in items[start : start + chunk]]
                results[start // chunk] = done
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
                on_tick(len(items) - len(starts) * chunk)
    finally:
        # Whoever interrupted us may now remove what the threads were writing.
        starts.clear()
        for thread in threads:
            if thread.is_alive():
                thread.join()
    if errors:
        raise errors[0]
    return [result for part in results for result in part]
