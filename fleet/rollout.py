"""Executing a plan: waves, limits, soak, approval, and what happens when it stops.

The states of a roll-out::

    running ── wave by wave ──> done (succeeded, unchanged)
       │  ├─ pause ──> paused ── resume ──> running
       │  ├─ a limit is reached, or abort ──> on-halt ──> done (halted, reverted)
       │  └─ a signal ──> interrupted ── `wain fleet resume` ──> running
       └─ the process dies: running stays in the journal; `resume`, or the same command again

Stopping always means: no further host is started, hosts that are at work finish or go back.
The journal learns of everything, but decides nothing: where a host stands is asked of the host.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fleet import journal as journals
from fleet import reported, soak
from fleet.contact import ask_all
from fleet.control import Control
from fleet.errors import HostError
from fleet.host_run import HostRun
from fleet.inventory import Host
from fleet.journal import Journal, JournalError, StepRow
from fleet.plan import BLOCKED, SWITCH, UNCHANGED, Plan
from fleet.result import Event, Result, added, hosts_text, row_of
from fleet.rollback import take_back
from fleet.steps import FAILED, REVERTED, SUCCEEDED, UNREACHABLE, UNTOUCHED, Job, Outcome
from fleet.wanted import Comparisons, Wanted
from fleet.waves import Wave


class Rollout:
    """One roll-out of one plan. The thread that calls `run` is the only one that writes."""

    def __init__(
        self,
        *,
        number: int,
        plan: Plan,
        hosts: Sequence[Host],
        wanted: Sequence[Wanted],
        images: Comparisons,
        journal: Journal,
        control: Control,
        job: Job,
        before: Mapping[str, Outcome] | None = None,
        approve: bool = False,
        ask: Callable[[str], bool] | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._number = number
        self._plan = plan
        self._plans = plan.by_name()
        self._hosts = {host.name: host for host in hosts}
        self._wanted = {one.id: one for one in wanted}
        self._images = images
        self._journal = journal
        self._control = control
        self._job = job
        self._job.on_step = lambda host, step, row: self._steps.put((host, step, row))
        self._approve = approve
        self._ask = ask
        self._on_event = on_event
        self._stage_only = bool(plan.settings.get("stage_only"))
        self._steps: queue.SimpleQueue[tuple[str, str, StepRow | None]] = queue.SimpleQueue()
        self._working: dict[str, HostRun] = {}
        self._wave_of = {name: at for at, wave in enumerate(plan.waves) for name in wave.hosts}
        self._outcomes = {host.host: self._first(host.host, before or {}) for host in plan.hosts}
        self._begun: set[int] = set()
        self._halted_by = ""
        self._journal_error: JournalError | None = None

    def run(self) -> Result:
        """All waves. Raises JournalError when the journal failed, once the hosts are settled."""
        began = time.monotonic()
        self._record(self._outcomes)
        self._halted_by = self._limit(None)
        first = True
        for at, wave in enumerate(self._plan.waves):
            todo = [name for name in wave.hosts if self._outcomes[name].state == UNTOUCHED]
            if not todo:
                continue
            if not self._may_begin(at, first):
                break
            first = False
            self._begun.add(at)
            self._event("wave", text=wave.rule, wave=at, total=len(wave.hosts))
            self._run_wave(at, wave, todo)
            if self._stopped():
                break
        self._drain()
        if self._halted_by:
            self._halt()
        result = self._finish(time.monotonic() - began)
        if self._journal_error is not None:
            raise self._journal_error
        return result

    # Waves.

    def _may_begin(self, at: int, first: bool) -> bool:
        if self._stopped():
            return False
        if self._approve and not first and not self._wait_for_approval(at):
            return False
        return self._hold()

    def _run_wave(self, at: int, wave: Wave, todo: list[str]) -> None:
        waiting = todo
        while waiting and self._hold():
            hosts = [self._hosts[name] for name in waiting]
            left = ask_all(
                hosts, self._job.settings, self._work,
                lambda host, answer: self._take(host, answer, at),
                limit=self._job.limit,
                stopped=lambda: self._control.stopping or bool(self._halted_by),
                on_tick=self._tick,
            )  # fmt: skip
            # Only a pause leaves hosts that are still to be done.
            waiting = [host.name for host in left]
            if self._stopped():
                return
        self._soak(at, wave)

    def _work(self, host: Host) -> Outcome:
        plan = self._plans[host.name]
        run = HostRun(
            self._job, host, plan, self._wanted[str(plan.image)], self._images,
            stage_only=self._stage_only,
        )  # fmt: skip
        self._working[host.name] = run
        try:
            return run.run()
        finally:
            self._working.pop(host.name, None)

    def _take(self, host: Host, answer: Outcome | HostError, at: int) -> None:
        """One host is done: note it, show it, and see whether that is one too many."""
        if isinstance(answer, HostError):  # it outlived every deadline and was given up
            run = self._working.get(host.name)
            if run:
                run.cancel()
            plan = self._plans[host.name]
            answer = Outcome(
                host.name, FAILED, plan.current, plan.previous, plan.generation,
                seconds=self._job.limit, error=answer.what, kind=answer.kind, switched=False,
            )  # fmt: skip
        self._settle(answer)
        if not self._halted_by:
            self._halted_by = self._limit(at)
            if self._halted_by:
                self._event("halt", text=self._halted_by, wave=at)

    def _settle(self, outcome: Outcome) -> None:
        self._drain()
        self._outcomes[outcome.host] = outcome
        self._record({outcome.host: outcome})
        self._write(lambda: self._note(outcome))
        self._event("host", host=outcome.host, text=outcome.state)

    def _note(self, outcome: Outcome) -> None:
        """Where the host stands now, and that its image failed, if it did."""
        if outcome.image:
            place = (outcome.host, outcome.image, outcome.previous, outcome.generation)
            reported.moved(self._journal, [place])
        image = str(self._plans[outcome.host].image)
        if outcome.at_fault and image not in self._journal.quarantined():
            reason = f"{outcome.host}: {outcome.at_fault}"
            self._journal.set_quarantine(image, "put", reason, self._job.by.get("who", ""))

    # Soak.

    def _soak(self, at: int, wave: Wave) -> None:
        seconds = self._job.settings.soak
        names = [name for name in wave.hosts if self._switched(name)]
        if not seconds or not names or self._stage_only or self._stopped():
            return
        soak.watch(
            self._job,
            [self._hosts[name] for name in names],
            {name: str(self._plans[name].image) for name in names},
            seconds,
            stopped=lambda: bool(self._control.interrupts or self._control.aborted),
            on_tick=self._tick,
            on_left=lambda left: self._event(
                "soak", wave=at, done=round(seconds - left), total=round(seconds)
            ),
            on_failed=lambda name, reason, fault: self._soak_failed(at, name, reason, fault),
        )

    def _soak_failed(self, at: int, name: str, reason: str, at_fault: bool) -> bool:
        """Whether the soak goes on."""
        before = self._outcomes[name]
        if at_fault:
            after = take_back(
                self._job, self._hosts[name], image=str(self._plans[name].image),
                to=before.previous, reason=f"in its soak: {reason}", at_fault=True,
            )  # fmt: skip
            self._settle(added(before, after))
        else:
            self._settle(replace(before, state=UNREACHABLE, error=f"in its soak: {reason}"))
        if not self._halted_by:
            self._halted_by = self._limit(at)
            if self._halted_by:
                self._event("halt", text=self._halted_by, wave=at)
        return not self._halted_by

    # Stopping.

    def _limit(self, at: int | None) -> str:
        """Why the roll-out must stop now; empty when it need not."""
        if self._job.cancelled.is_set():
            return ""  # hosts that were told to stop are no verdict on the image
        counts = {"failed": 0, "unreachable": 0, "wave_failed": 0, "wave_unreachable": 0}
        for name, outcome in self._outcomes.items():
            word = (
                "failed" if outcome.state in (FAILED, REVERTED)
                else "unreachable" if outcome.state == UNREACHABLE else ""
            )  # fmt: skip
            if word:
                counts[word] += 1
                if at is not None and self._wave_of.get(name) == at:
                    counts[f"wave_{word}"] += 1
        size = len(self._plan.waves[at].hosts) if at is not None else len(self._outcomes)
        limits = self._job.settings.limits
        cause = limits.reached(**counts, wave_size=size, total=len(self._outcomes))
        if cause == "failures":
            return f"{counts['failed']} failed, max-failures is {limits.max_failures}"
        if cause == "unreachable":
            return (
                f"{counts['unreachable']} unreachable, max-unreachable is {limits.max_unreachable}"
            )
        return ""

    def _stopped(self) -> bool:
        if self._control.aborted and not self._halted_by:
            self._halted_by = f"aborted by {self._control.aborted}"
            self._event("halt", text=self._halted_by)
        return bool(self._halted_by or self._control.interrupts)

    def _hold(self) -> bool:
        """Wait while paused; False when the roll-out is to stop instead."""
        if self._control.paused and not self._stopped():
            self._journal.set_state(self._number, journals.PAUSED)
            self._event("pause", text="paused; `wain fleet resume` goes on")
            while self._control.paused and not self._stopped():
                self._pass()
            if not self._stopped():
                self._journal.set_state(self._number, journals.RUNNING)
                self._event("note", text="resumed")
        return not self._stopped()

    def _wait_for_approval(self, at: int) -> bool:
        wave = self._plan.waves[at]
        count = hosts_text(len(wave.hosts))
        question = f"Go on with wave {at + 1} of {len(self._plan.waves)}, {count}?"
        if self._ask is not None:
            if not self._ask(question):
                self._halted_by = f"wave {at + 1} was not approved"
            return not self._stopped()
        self._event("wait", text=f"{question} `wain fleet approve` or `abort`", wave=at)
        given = self._control.approvals
        while self._control.approvals == given and not self._stopped():
            self._pass()
        return not self._stopped()

    def _halt(self) -> None:
        """Hosts that already switched stay or go back, as on-halt says."""
        how = self._job.settings.on_halt
        last = max(self._begun, default=-1)
        names = [
            name for name in self._outcomes
            if self._switched(name)
            and (how == "revert-all" or (how == "revert-wave" and self._wave_of.get(name) == last))
        ]  # fmt: skip
        if not names or self._stage_only:
            return
        self._event("back", text=how, total=len(names))
        reason = f"the roll-out halted: {self._halted_by}"

        def back(host: Host) -> Outcome:
            plan = self._plans[host.name]
            return take_back(
                self._job, host, image=str(plan.image), to=self._outcomes[host.name].previous,
                reason=reason, at_fault=False,
            )  # fmt: skip

        def taken(host: Host, answer: Outcome | HostError) -> None:
            before = self._outcomes[host.name]
            if isinstance(answer, HostError):
                answer = replace(before, state=FAILED, error=answer.what, kind=answer.kind)
            elif answer.kind in ("missing", "moved"):
                # Nothing to go back to, or no longer ours: it stays, and says why.
                answer = replace(before, error=answer.error)
            else:
                answer = added(before, answer)
            self._settle(answer)

        ask_all(
            [self._hosts[name] for name in names], self._job.settings, back, taken,
            limit=self._job.limit, on_tick=self._drain,
        )  # fmt: skip

    def _finish(self, seconds: float) -> Result:
        self._drain()
        states = [outcome.state for outcome in self._outcomes.values()]
        went = [name for name in self._outcomes if self._switched(name)]
        untouched = UNTOUCHED in states
        failed = sum(state in (FAILED, REVERTED) for state in states)
        stopped = untouched or self._job.cancelled.is_set()
        if self._control.interrupts and stopped and not self._halted_by:
            result, code = "interrupted", 130
        elif self._halted_by and (failed or untouched):
            result = "reverted" if REVERTED in states and not went else "halted"
            kinds = {o.kind for o in self._outcomes.values() if o.state in (FAILED, REVERTED)}
            code = 6 if kinds and kinds <= {"locked", "pending"} and not went else 4
        elif failed:
            result, code = "succeeded", 1
        else:
            result = "succeeded" if SUCCEEDED in states else "unchanged"
            code = 5 if UNREACHABLE in states else 0
        if self._control.interrupts and code == 0:
            code = 130
        state = journals.INTERRUPTED if result == "interrupted" else journals.DONE
        self._write(
            lambda: self._journal.set_state(
                self._number, state, result=result, error=self._halted_by
            )
        )
        return Result(
            f"r{self._number}", result, code, self._waves(), self._outcomes, self._halted_by,
            seconds,
        )  # fmt: skip

    def _waves(self) -> list[dict[str, Any]]:
        found = []
        for wave in self._plan.waves:
            states = {self._outcomes[name].state for name in wave.hosts}
            state = (
                "untouched" if states == {UNTOUCHED}
                else "stopped" if UNTOUCHED in states
                else "failed" if states & {FAILED, REVERTED}
                else "done"
            )  # fmt: skip
            found.append({"rule": wave.rule, "hosts": list(wave.hosts), "state": state})
        return found

    # Housekeeping, all in the one thread.

    def _tick(self) -> None:
        self._drain()
        self._control.poll()
        if self._control.interrupts > 1 and not self._job.cancelled.is_set():
            self._job.cancelled.set()
            for run in list(self._working.values()):
                run.cancel()

    def _pass(self) -> None:
        time.sleep(0.1)
        self._tick()

    def _drain(self) -> None:
        """Steps that hosts reported since: to the screen, and in one go into the journal."""
        ended: list[StepRow] = []
        while True:
            try:
                host, step, row = self._steps.get_nowait()
            except queue.Empty:
                break
            if row is None:
                self._event("step", host=host, text=step)
            else:
                ended.append(row)
        self._write(lambda: self._journal.record(self._number, (), ended))

    def _record(self, outcomes: Mapping[str, Outcome]) -> None:
        rows = [row_of(outcome, self._wave_of.get(name, -1)) for name, outcome in outcomes.items()]
        self._write(lambda: self._journal.record(self._number, rows))

    def _write(self, action: Callable[[], None]) -> None:
        """Write to the journal. When that fails no further host is started, but none is left
        half-way for it: the error is raised at the end.
        """
        try:
            action()
        except JournalError as error:
            if self._journal_error is None:
                self._journal_error = error
                self._control.interrupt()
                self._event("note", text=f"stopping: {error}")

    def _first(self, name: str, before: Mapping[str, Outcome]) -> Outcome:
        """Where a host stands before its turn."""
        if name in before:
            return before[name]
        plan = self._plans[name]
        states = {SWITCH: UNTOUCHED, UNCHANGED: UNCHANGED, BLOCKED: FAILED}
        return Outcome(
            name, states.get(plan.action, UNREACHABLE), plan.current, plan.previous,
            plan.generation, error=plan.error, kind=plan.problems[0].kind if plan.problems else "",
        )  # fmt: skip

    def _switched(self, name: str) -> bool:
        outcome = self._outcomes[name]
        return outcome.state == SUCCEEDED and outcome.switched

    def _event(self, kind: str, **values: Any) -> None:
        self._on_event(Event(kind, **values))
