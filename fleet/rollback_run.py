"""An ordered rollback of many hosts at once: no waves, no soak, nothing sent."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence

from fleet import journal as journals
from fleet import reported
from fleet.contact import ask_all
from fleet.control import Control
from fleet.errors import HostError
from fleet.inventory import Host
from fleet.journal import Journal, StepRow
from fleet.result import Event, Result, row_of
from fleet.rollback import roll_back
from fleet.steps import FAILED, SUCCEEDED, UNREACHABLE, UNTOUCHED, Job, Outcome

# The journal is written at most this often. Seconds.
PACE = 0.25


def roll_back_all(
    *,
    number: int,
    hosts: Sequence[Host],
    to: Sequence[str] | None,
    deep: bool,
    journal: Journal,
    control: Control,
    job: Job,
    on_event: Callable[[Event], None],
) -> Result:
    """Roll all hosts back. A host that fails stops no other: each has a release that worked."""
    began = time.monotonic()
    steps: queue.SimpleQueue[tuple[str, str, StepRow | None]] = queue.SimpleQueue()
    job.on_step = lambda host, step, row: steps.put((host, step, row))
    outcomes = {host.name: Outcome(host.name, UNTOUCHED) for host in hosts}
    ended: list[StepRow] = []
    fresh: list[Outcome] = []
    written = time.monotonic()

    def write() -> None:
        """All that is new in one transaction."""
        nonlocal written
        written = time.monotonic()
        with journal.transaction():
            journal.record(number, [row_of(outcome, 0) for outcome in fresh], ended)
            reported.moved(
                journal,
                [(one.host, one.image, one.previous, one.generation) for one in fresh if one.image],
            )
        fresh.clear()
        ended.clear()

    def tick() -> None:
        while not steps.empty():
            host, step, row = steps.get()
            if row is None:
                on_event(Event("step", host=host, text=step))
            else:
                ended.append(row)
        if time.monotonic() > written + PACE:
            write()
        if control.interrupts > 1:
            job.cancelled.set()

    def take(host: Host, answer: Outcome | HostError) -> None:
        if isinstance(answer, HostError):
            answer = Outcome(host.name, FAILED, error=answer.what, kind=answer.kind)
        outcomes[host.name] = answer
        fresh.append(answer)
        on_event(Event("host", host=host.name, text=answer.state))

    quarantined = journal.quarantined()

    def back(host: Host) -> Outcome:
        return roll_back(job, host, to=to, deep=deep, quarantined=quarantined)

    on_event(Event("wave", text="rollback", wave=0, total=len(hosts)))
    ask_all(
        hosts, job.settings, back, take,
        limit=job.limit, stopped=lambda: bool(control.interrupts), on_tick=tick,
    )  # fmt: skip
    tick()
    states = [outcome.state for outcome in outcomes.values()]
    if UNTOUCHED in states:
        result, code = "interrupted", 130
    elif FAILED in states:
        kinds = {outcome.kind for outcome in outcomes.values() if outcome.state == FAILED}
        result, code = "failed", 6 if kinds == {"locked"} else 1
    else:
        result = "succeeded" if SUCCEEDED in states else "unchanged"
        code = 5 if UNREACHABLE in states else 0
    with journal.transaction():
        write()
        journal.set_state(number, journals.DONE, result=result)
    waves = [{"rule": "all", "hosts": [host.name for host in hosts], "state": "done"}]
    return Result(f"r{number}", result, code, waves, outcomes, "", time.monotonic() - began)
