"""Paired timing: two commands in turn on one machine, so that its moods hit both alike."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """A figure that is not a pair: a value, its unit, and the most or the ``least`` it may be."""

    title: str
    value: float
    unit: str
    bound: float | None = None
    note: str = ""
    least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the value is within its bounds (True when it has none)."""
        if self.least is not None and self.value < self.least:
            return False
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


class Fresh:
    """A folder with a new name for each run; as text it is the name of this run.

    Nothing is removed between runs: ext4 makes folders ten times slower for a while after as
    many were removed, and whoever comes next would pay for it.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._count = 0

    def __str__(self) -> str:
        return f"{self._base}-{self._count}"

    def __call__(self) -> None:
        """Go on to the next name."""
        self._count += 1


def command(argv: Sequence[object], without: tuple[str, ...] = (), **extra: object) -> Action:
    """An action that runs a command to success, quietly, with bytecode writing as users have it.

    Words and variables become text when it runs, so a `Fresh` folder stands for its name then.
    Variables whose names begin with one of ``without`` are left out.
    """
    left_out = ("PYTHONDONTWRITEBYTECODE", *without)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}

    def act() -> None:
        words = list(map(str, argv))
        variables = environment | {name: str(value) for name, value in extra.items()}
        result = subprocess.run(words, env=variables, capture_output=True, check=False)
        if result.returncode:
            output = (result.stdout + result.stderr).decode(errors="replace")
            raise RuntimeError(f"{' '.join(words)} ended with {result.returncode}:\n{output}")

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
