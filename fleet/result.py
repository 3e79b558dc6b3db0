"""What a roll-out or rollback tells while it runs, and what it leaves: events and results."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from fleet.journal import HostRow
from fleet.steps import Outcome


def hosts_text(count: int) -> str:
    """``1 host``, ``2 hosts``."""
    return f"{count} host{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something to show: wave, step, host, soak, halt, back, wait, pause, note."""

    kind: str
    host: str = ""
    text: str = ""
    wave: int = -1
    done: int = 0
    total: int = 0


@dataclass
class Result:
    """How a roll-out ended. ``exit_code`` as in DESIGN.md's table."""

    rollout: str
    result: str
    exit_code: int
    waves: list[dict[str, Any]]
    hosts: dict[str, Outcome]
    halted_by: str = ""
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "rollout": self.rollout, "result": self.result, "waves": self.waves,
            "hosts": {name: host_document(outcome) for name, outcome in self.hosts.items()},
            "halted_by": self.halted_by, "seconds": round(self.seconds, 3), **self.extra,
        }  # fmt: skip


def host_document(outcome: Outcome) -> dict[str, Any]:
    """One host of the JSON document."""
    return {
        "state": outcome.state, "image": outcome.image, "previous": outcome.previous,
        "generation": outcome.generation, "bytes_sent": outcome.bytes_sent,
        "bytes_overhead": outcome.bytes_overhead, "seconds": outcome.seconds,
        "error": outcome.error,
    }  # fmt: skip


def row_of(outcome: Outcome, wave: int) -> HostRow:
    """One host for the journal."""
    return HostRow(
        outcome.host, wave, outcome.state, "", outcome.image, outcome.previous,
        outcome.generation, outcome.bytes_sent, outcome.bytes_overhead, outcome.seconds,
        outcome.error,
    )  # fmt: skip


def added(before: Outcome, after: Outcome) -> Outcome:
    """What a host took in all, and where it stands now."""
    return replace(
        after,
        image=after.image or before.image,
        bytes_sent=before.bytes_sent + after.bytes_sent,
        bytes_overhead=before.bytes_overhead + after.bytes_overhead,
        seconds=round(before.seconds + after.seconds, 3),
    )
