"""Paired timing: two commands in turn on one machine, so that its moods hit both alike."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

Action = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Pair:
    """A figure: medians in seconds of ours and the peer's, and the ratio of the two medians."""

    title: str
    ours: str
    peer: str
    our_seconds: tuple[float, ...]
    peer_seconds: tuple[float, ...]
    bound: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """Median of ours over median of the peer's; below 1 is faster."""
        return statistics.median(self.our_seconds) / statistics.median(self.peer_seconds)

    @property
    def holds(self) -> bool:
        """Whether the ratio is within its bound (True when it has none)."""
        return self.bound is None or self.ratio <= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that is not a pair: a value, its unit and its bound."""

    title: str
    value: float
    unit: str
    bound: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the value is within its bound (True when it has none)."""
        return self.bound is None or self.value <= self.bound


def paired(
    title: str,
    ours: tuple[str, Action, Action],
    peer: tuple[str, Action, Action],
    *,
    runs: int = 7,
    bound: float | None = None,
    note: str = "",
) -> Pair:
    """Time two actions in turn, `runs` times after one warm-up of each.

    An action is (label, prepare, act); only `act` is timed, after a `sync`, so that neither pays
    for what the other left to be written.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(runs + 1):
        for column, (_, prepare, act) in enumerate((ours, peer)):
            prepare()
            os.sync()
            begun = time.perf_counter()
            act()
            seconds = time.perf_counter() - begun
            if number:
                times[column].append(seconds)
    return Pair(title, ours[0], peer[0], tuple(times[0]), tuple(times[1]), bound, note)


def command(argv: list[str], **extra: str) -> Action:
    """An action that runs a command to success, quietly, with bytecode writing as users have it."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | extra

    def act() -> None:
        result = subprocess.run(argv, env=environment, capture_output=True, check=False)
        if result.returncode:
            output = (result.stdout + result.stderr).decode(errors="replace")
            raise RuntimeError(f"{' '.join(argv)} ended with {result.returncode}:\n{output}")

    return act


def in_turn(*actions: Action) -> Action:
    """One action that runs several, one after the other."""

    def act() -> None:
        for action in actions:
            action()

    return act


def nothing() -> None:
    """The action that does nothing."""


def cpu_of_children(action: Action) -> float:
    """CPU seconds, user and system, that child processes of `action` used."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
