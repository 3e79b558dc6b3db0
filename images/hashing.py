"""Hashing files, one or thousands. Travels to hosts."""

from __future__ import annotations

import os
from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Item = TypeVar("Item")
    Result = TypeVar("Result")

BLOCK = 1 << 20


def hash_descriptor(descriptor: int) -> tuple[str, int]:
    """The sha256 (hex) and the size in bytes of the rest of an open file. Raises OSError."""
    block = os.read(descriptor, BLOCK)
    digest = sha256(block)
    size = len(block)
    while len(block) == BLOCK:
        block = os.read(descriptor, BLOCK)
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def hash_file(path: str, dir_fd: int | None = None) -> tuple[str, int]:
    """The sha256 (hex) and the size of a file, never through a symlink. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, dir_fd=dir_fd)
    try:
        return hash_descriptor(descriptor)
    finally:
        os.close(descriptor)


def cores() -> int:
    """How many cores this process may use, at most 8."""
    try:
        return min(8, len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):
        return 1


def parallel(
    function: Callable[[Item], Result], items: Sequence[Item], on_done: Callable[[int], None]
) -> list[Result]:
    """``[function(item) for item in items]`` on all cores; the first error is raised.

    Pays where the function spends its time outside Python: hashing, reading. ``on_done`` is
    called in this thread with how many are finished, now and then.
    """
    workers = cores()
    if workers < 2 or len(items) < 64:
        return [function(item) for item in items]
    import threading

    step = max(1, min(256, len(items) // (workers * 4)))
    starts = list(range(0, len(items), step))[::-1]
    results: list[list[Result]] = [[] for _ in starts]
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                start = starts.pop()
            except IndexError:
                return
            try:
                results[start // step] = [function(item) for item in items[start : start + step]]
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
                on_done(len(items) - len(starts) * step)
    except BaseException:
        starts.clear()
        raise
    if errors:
        raise errors[0]
    return [result for part in results for result in part]
