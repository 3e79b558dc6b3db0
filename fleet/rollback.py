"""Taking one host back to a release it was confirmed on: one connection, nothing sent.

Used by ``wain fleet rollback``, by a soak that fails, and when a roll-out halts and its hosts
are to go back. The host itself checks the target first and refuses a damaged one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from fleet.contact import open_session
from fleet.errors import HostError
from fleet.inventory import Host
from fleet.preflight import name_problems
from fleet.session import Session
from fleet.steps import (
    FAILED,
    REVERTED,
    SUCCEEDED,
    UNCHANGED,
    UNREACHABLE,
    CheckFailed,
    Job,
    Outcome,
    check_health,
    is_unreachable,
    run_hooks,
    step,
)


def roll_back(
    job: Job,
    host: Host,
    *,
    to: Sequence[str] | None = None,
    deep: bool = False,
    quarantined: Mapping[str, str] | None = None,
) -> Outcome:
    """The ordered rollback: to a kept release, default the previous one; then hooks and health.

    ``to`` has an image for each target: the one that the host has is meant. ``quarantined``
    images, with why, are refused here even where they once worked. Nothing goes further back
    when a hook or check fails then: the error says which.
    """
    began = time.monotonic()
    session: Session | None = None
    try:
        with step(job, host.name, "connect"):
            session = open_session(host, job.settings, by=job.by)
        state = session.facts.state
        if to is not None and state.current in to and not state.pending:
            return _outcome(host, UNCHANGED, session, began)
        for problem in name_problems(session.facts, job.names):
            raise HostError(host.name, problem.kind, problem.text)
        kept = _kept(to, state.releases)
        _not_quarantined(host, kept or state.previous, quarantined or {})
        with step(job, host.name, "rollback"):
            image, generation = session.rollback(
                kept, state.current, generation=state.generation, deep=deep
            )
        error, kind = "", ""
        try:
            run_hooks(job, host, session, image)
            check_health(job, host, session, image)
        except (CheckFailed, HostError) as failure:
            error, kind = f"is back on {image[:12]}, but {failure}", "health"
        return _outcome(
            host, FAILED if error else SUCCEEDED, session, began, error=error, kind=kind,
            now=(image, state.current, generation),
        )  # fmt: skip
    except HostError as error:
        return _refused(host, session, began, error)
    finally:
        if session is not None:
            session.close()


def _not_quarantined(host: Host, image: str | None, quarantined: Mapping[str, str]) -> None:
    if image is not None and image in quarantined:
        raise HostError(
            host.name, "quarantined", f"image {image[:12]} is quarantined: {quarantined[image]}",
            f"wain fleet quarantine --clear {image[:12]} --reason …, or --to another release",
        )  # fmt: skip


def _kept(to: Sequence[str] | None, releases: Sequence[str]) -> str | None:
    """The one of several images that a host has; where it has none, its refusal says so."""
    return None if to is None else next((one for one in to if one in releases), to[0])


def take_back(
    job: Job, host: Host, *, image: str, to: str | None, reason: str, at_fault: bool
) -> Outcome:
    """Undo a roll-out's confirmed switch to `image`: back to `to`, if the host is still there.

    ``at_fault``: the image failed here and is quarantined on the host. Raises nothing; a host
    without a release to go back to keeps what it has, and says so.
    """
    began = time.monotonic()
    session: Session | None = None
    try:
        if to is None:
            raise HostError(host.name, "missing", "there is no previous release to go back to")
        with step(job, host.name, "connect"):
            session = open_session(host, job.settings, by=job.by)
        state = session.facts.state
        if state.current != image:
            found = (state.current or "nothing")[:12]
            raise HostError(host.name, "moved", f"the host moved since: it has {found}")
        with step(job, host.name, "revert") as output:
            output.append(reason)
            back, generation = session.rollback(to, image, generation=state.generation)
        error = reason
        try:
            run_hooks(job, host, session, back)
        except (CheckFailed, HostError) as failure:
            error += f"; on the way back {failure}"
        if at_fault:
            session.quarantine(image, reason)
        return _outcome(
            host, REVERTED, session, began, error=error, now=(back, image, generation),
            kind="health" if at_fault else "", at_fault=reason if at_fault else "",
        )  # fmt: skip
    except HostError as error:
        return _refused(host, session, began, error, prefix=f"{reason}; cannot go back: ")
    finally:
        if session is not None:
            session.close()


def _refused(
    host: Host, session: Session | None, began: float, error: HostError, prefix: str = ""
) -> Outcome:
    lost = is_unreachable(error, session is not None)
    text = prefix + error.what + (f" ({error.hint})" if error.hint else "")
    state = UNREACHABLE if lost else FAILED
    return _outcome(host, state, session, began, error=text, kind=error.kind)


def _outcome(
    host: Host,
    state: str,
    session: Session | None,
    began: float,
    *,
    now: tuple[str, str | None, int] | None = None,
    error: str = "",
    kind: str = "",
    at_fault: str = "",
) -> Outcome:
    seen = session.facts.state if session is not None else None
    if now is None:
        now = (seen.current or "", seen.previous, seen.generation) if seen else ("", None, 0)
    return Outcome(
        host=host.name,
        state=state,
        image=now[0] or None,
        previous=now[1],
        generation=now[2],
        bytes_sent=session.bytes_sent if session else 0,
        bytes_overhead=session.bytes_overhead if session else 0,
        seconds=round(time.monotonic() - began, 3),
        error=error,
        kind=kind,
        switched=state in (SUCCEEDED, REVERTED),
        at_fault=at_fault,
    )
