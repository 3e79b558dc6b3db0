"""One host's part of a roll-out, from its hello to its confirmation.

States, in order, each step repeatable after a cut at any moment:

    connect → send → checkout → verify → switch → after-switch → health → confirm → prune

* Until the switch nothing is active: a lost line is tried again, and what arrived is not sent
  again.
* The switch insists on the release and generation the plan saw, and arms the revert timer on
  the host first.
* A hook or a health check that fails: the host goes back at once, and the image is quarantined.
* Confirmation comes over a new connection. Without it the timer takes the host back; nothing
  is quarantined then.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from fleet.contact import open_session
from fleet.errors import HostError
from fleet.inventory import Host
from fleet.pack import Pack
from fleet.plan import HostPlan
from fleet.preflight import Problem, state_problems, target_problems
from fleet.sending import send_missing
from fleet.session import Facts, Session
from fleet.steps import (
    FAILED,
    REVERTED,
    SUCCEEDED,
    UNCHANGED,
    UNREACHABLE,
    UNTOUCHED,
    CheckFailed,
    Job,
    Outcome,
    check_health,
    is_unreachable,
    run_hooks,
    step,
)
from fleet.wanted import Comparisons, Wanted
from images.duration import format_duration
from images.errors import WainError

# A line that broke before the switch is tried again this often.
TRIES = 3
# The line is gone, or was never there: not a verdict on the image or the host's files.
LINE = frozenset(["unreachable", "agent-died", "timeout", "cancelled"])


class HostRun:
    """Brings one image to one host. `run` never raises for what a host can cause."""

    def __init__(
        self,
        job: Job,
        host: Host,
        plan: HostPlan,
        wanted: Wanted,
        images: Comparisons,
        *,
        stage_only: bool = False,
    ) -> None:
        self._job = job
        self._host = host
        self._plan = plan
        self._wanted = wanted
        self._images = images
        self._stage_only = stage_only
        self._session: Session | None = None
        self._facts: Facts | None = None
        self._sent = self._overhead = 0
        self._generation = 0  # of the switch we made; 0 before it
        self._confirmed = False
        self._began = time.monotonic()

    def run(self) -> Outcome:
        """All steps; how it ended."""
        for attempt in range(1, TRIES + 1):
            try:
                return self._once()
            except CheckFailed as failure:
                return self._went_back(str(failure))
            except HostError as error:
                broken = error.kind in ("agent-died", "unreachable") and not self._generation
                if not broken or attempt == TRIES or self._job.cancelled.is_set():
                    return self._failed(error)
            except WainError as error:
                # This machine's own: an object of the store that is damaged, say.
                return self._failed(HostError(self._host.name, "object", str(error)))
            except (ValueError, OSError) as error:
                if not self._job.cancelled.is_set():
                    raise
                # What a line closed under our feet looks like.
                return self._failed(HostError(self._host.name, "cancelled", f"stopped: {error}"))
            finally:
                self._leave()
            time.sleep(random.uniform(0.1, 0.4) * 2**attempt)
        raise AssertionError("every attempt returns or is the last")

    def cancel(self) -> None:
        """From another thread: close the line, so that whatever waits on it ends."""
        session = self._session
        if session is not None:
            session.close()

    # The way forward.

    def _once(self) -> Outcome:
        session = self._connect("connect")
        state = session.facts.state
        if state.current == self._wanted.id and not state.pending:
            return self._outcome(UNCHANGED)
        self._check(session.facts)
        self._stage(session)
        if self._stage_only:
            return self._outcome(SUCCEEDED)
        self._switch(session)
        run_hooks(self._job, self._host, session, self._wanted.id)
        check_health(self._job, self._host, session, self._wanted.id)
        self._confirm(session)
        self._prune()
        return self._outcome(SUCCEEDED, self._wanted.id, self._plan.current)

    def _connect(self, name: str) -> Session:
        with step(self._job, self._host.name, name):
            job = self._job
            held = job.held.take(self._host) if job.held else None
            if held is not None:
                held.by = dict(job.by)
            self._session = held or open_session(self._host, job.settings, by=job.by)
        self._facts = self._session.facts
        return self._session

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
            self._sent += session.bytes_sent
            self._overhead += session.bytes_overhead

    def _check(self, facts: Facts) -> None:
        """Once more what the plan checked: minutes may lie between."""
        problems: list[Problem] = [
            *target_problems(facts, self._wanted.needs),
            *state_problems(facts, self._wanted.id, self._wanted.names),
        ]
        if problems:
            raise HostError(self._host.name, problems[0].kind, problems[0].text)
        state, plan = facts.state, self._plan
        if (state.current, state.generation) != (plan.current, plan.generation):
            raise HostError(
                self._host.name, "moved",
                f"the host moved since the plan: it has {_short(state.current)} at generation "
                f"{state.generation}, the plan saw {_short(plan.current)} at {plan.generation}",
                "plan again",
            )  # fmt: skip

    def _stage(self, session: Session) -> None:
        name = self._host.name
        with step(self._job, name, "send") as output:
            taken = send_missing(
                session, self._wanted.manifest, self._images, lambda: self._begin(session),
                lambda pack: self._slowly(session, pack),
            )  # fmt: skip
            if taken:
                output.append(f"{taken} objects, {session.bytes_sent} bytes")
        with step(self._job, name, "checkout") as output:
            answer = session.checkout(self._wanted.id)
            output.append(", ".join(f"{key} {value}" for key, value in sorted(answer.items())))

    def _begin(self, session: Session) -> list[tuple[str, bool]]:
        base, owner = session.facts.state.current, session.facts.state.name
        name = owner if owner in self._wanted.names else self._wanted.names[0]
        common: dict[str, Any] = {"proof": self._wanted.proof, "name": name}
        delta = self._images.delta(base, self._wanted) if base else None
        if base and delta is not None:
            try:
                return session.begin(self._wanted.manifest, delta=delta, base=base, **common)
            except HostError as error:
                if error.kind != "base":
                    raise
        return session.begin(self._wanted.manifest, **common)

    def _slowly(self, session: Session, pack: Pack) -> Iterator[bytes]:
        """The pack at its bandwidth; a line that takes bytes at all is slow, not dead."""
        for piece in pack.pieces(float(self._job.settings.bandwidth or 0)):
            session.push_deadline(self._job.settings.step_timeout)
            yield piece
        session.push_deadline(self._job.settings.step_timeout)

    def _switch(self, session: Session) -> None:
        settings, plan = self._job.settings, self._plan
        with step(self._job, self._host.name, "switch"):
            # Known before it is answered: a line that breaks meanwhile has switched, maybe.
            self._generation = plan.generation + 1
            try:
                self._generation = session.switch(
                    self._wanted.id, plan.current, plan.generation, settings.confirm_timeout,
                    settings.after_switch, hook_timeout=settings.step_timeout,
                    env_file=self._host.env_file or "",
                )  # fmt: skip
            except HostError as error:
                if error.kind not in LINE:
                    self._generation = 0
                raise

    def _confirm(self, session: Session) -> None:
        """Keep it, over a connection that did not exist before the switch."""
        allowed = self._job.settings.confirm_timeout
        session.extend(self._generation, allowed)
        self._leave()
        end = time.monotonic() + allowed
        with step(self._job, self._host.name, "confirm"):
            while True:
                try:
                    self._session = open_session(self._host, self._job.settings, by=self._job.by)
                    self._session.confirm(self._generation)
                    break
                except HostError as error:
                    self._leave()
                    if error.kind not in LINE or time.monotonic() + 1.0 > end:
                        raise
                time.sleep(min(1.0, allowed / 10))
        self._confirmed = True
        self._facts = self._session.facts

    def _prune(self) -> None:
        """Old releases go; what goes wrong here is no failure of the roll-out."""
        settings, session = self._job.settings, self._session
        assert session is not None
        if len(session.facts.state.releases) <= settings.keep:
            return
        try:
            with step(self._job, self._host.name, "prune") as output:
                gone = session.prune(settings.keep, settings.pins)
                output.append(f"removed {len(gone.get('removed', ()))} releases")
        except HostError:
            return

    # The way back.

    def _went_back(self, reason: str) -> Outcome:
        """A hook or a check failed: take the host back now, and the image out of use here."""
        name, job = self._host.name, self._job
        patience = job.settings.step_timeout * (1 + len(job.settings.after_switch))
        for attempt in (1, 2):
            try:
                session = self._session or self._connect("reconnect")
                with step(job, name, "revert") as output:
                    hooks = session.revert(self._generation, reason, timeout=patience)
                    output += [f"$ {command}: {status} {more}" for command, status, more in hooks]
                bad = [command for command, status, _ in hooks if status]
                if bad:
                    reason += f"; on the way back {bad[0]!a} failed too"
                session.quarantine(self._wanted.id, reason)
                break
            except HostError as error:
                self._leave()
                if error.kind == "moved":  # the timer was faster
                    break
                if attempt == 2 or error.kind not in LINE:
                    wait = format_duration(job.settings.confirm_timeout)
                    reason += f"; {error.what}; its timer takes it back within {wait}"
        self._leave()
        return self._outcome(
            REVERTED, self._plan.current, self._plan.previous, error=reason, kind="health",
            at_fault=reason,
        )  # fmt: skip

    def _failed(self, error: HostError) -> Outcome:
        """Anything else went wrong: where that leaves the host."""
        text = error.what + (f" ({error.hint})" if error.hint else "")
        if not self._generation:
            state = UNREACHABLE if is_unreachable(error, self._facts is not None) else FAILED
            if error.kind == "cancelled":
                state = UNTOUCHED
            return self._outcome(state, error=text, kind=error.kind)
        self._leave()
        if error.kind == "moved":
            return self._outcome(
                REVERTED, self._plan.current, self._plan.previous,
                error=f"it went back before it was confirmed: {text}", kind=error.kind,
            )  # fmt: skip
        return self._after_switch(text, error.kind)

    def _after_switch(self, text: str, kind: str) -> Outcome:
        """The line was lost after the switch: order the way back, else the timer will."""
        reason = f"lost after the switch: {text}"
        try:
            if self._job.cancelled.is_set():
                raise HostError(self._host.name, "cancelled", "stopped")
            if kind == "timeout":
                # Frozen: its verdict is due now. Its timer runs, and needs nobody.
                raise HostError(self._host.name, kind, "its deadline has passed")
            session = self._connect("reconnect")
            state = session.facts.state
            if state.pending and state.pending.generation == self._generation:
                with step(self._job, self._host.name, "revert"):
                    session.revert(self._generation, reason)
            return self._outcome(
                REVERTED, self._plan.current, self._plan.previous, error=reason, kind=kind
            )
        except HostError:
            wait = format_duration(self._job.settings.confirm_timeout)
            return self._outcome(
                UNREACHABLE, self._plan.current, self._plan.previous,
                error=f"{reason}; its timer takes it back within {wait}", kind=kind,
            )  # fmt: skip
        finally:
            self._leave()

    def _outcome(
        self,
        state: str,
        image: str | None = None,
        previous: str | None = None,
        *,
        error: str = "",
        kind: str = "",
        at_fault: str = "",
    ) -> Outcome:
        self._leave()
        known = self._facts.state if self._facts else None
        if not self._generation:
            image = known.current if known else self._plan.current
            previous = known.previous if known else self._plan.previous
        return Outcome(
            host=self._host.name,
            state=state,
            image=image,
            previous=previous,
            # Going back counts as a change of its own.
            generation=(self._generation + (state == REVERTED))
            if self._generation
            else known.generation
            if known
            else self._plan.generation,
            bytes_sent=self._sent,
            bytes_overhead=self._overhead,
            seconds=round(time.monotonic() - self._began, 3),
            error=error,
            kind=kind,
            switched=bool(self._generation),
            at_fault=at_fault,
        )


def _short(image: str | None) -> str:
    return image[:12] if image else "nothing"
