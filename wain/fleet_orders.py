"""`wain fleet pause / abort / approve / unlock`: orders to the process that rolls out."""

from __future__ import annotations

import argparse

from fleet import journal as journals
from fleet.lock import holder_of
from images.errors import LockedError, WainError
from wain.fleet_open import Fleet, open_fleet
from wain.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of their own."""


def run_pause(args: argparse.Namespace, out: Output) -> int:
    """No further host is started until `resume`."""
    return _order(args, out, "pause")


def run_approve(args: argparse.Namespace, out: Output) -> int:
    """The next wave may begin."""
    return _order(args, out, "approve")


def run_abort(args: argparse.Namespace, out: Output) -> int:
    """Stop: hosts at work finish, then on-halt decides. Without a process, close the books."""
    with open_fleet(args) as fleet:
        if holder_of(fleet.folder) is None:
            rollout = _rollout(fleet, "%")
            fleet.journal.set_state(rollout.number, journals.DONE, result="halted", error="aborted")
            out.say(
                f"{rollout.id} is over; hosts that were switched stay "
                "(wain fleet rollback takes them back)"
            )
            out.result({"rollout": rollout.id, "ordered": "abort"})
            return 0
    return _order(args, out, "abort")


def _order(args: argparse.Namespace, out: Output, verb: str) -> int:
    with open_fleet(args) as fleet:
        if holder_of(fleet.folder) is None:
            raise WainError(f"fleet {verb}", "no roll-out is running", "wain fleet status")
        rollout = _rollout(fleet)
        fleet.journal.order(rollout.number, verb, fleet.by()["who"])
        out.say(f"{rollout.id} is told: {verb}")
        out.result({"rollout": rollout.id, "ordered": verb})
        return 0


def _rollout(fleet: Fleet, kind: str = "rollout") -> journals.Rollout:
    """The newest that is not over. A rollback has no waves to hold, and takes no orders."""
    rollout = fleet.journal.last_open(kind)
    if rollout is None:
        raise WainError("fleet", "there is no roll-out that could be told", "wain fleet history")
    return rollout


def run_unlock(args: argparse.Namespace, out: Output) -> int:
    """Who is at work. The lock ends with its process: there is nothing to break."""
    with open_fleet(args) as fleet:
        holder = holder_of(fleet.folder)
        if holder is None:
            out.say("nobody holds the fleet's lock")
            out.result({"holder": None})
            return 0
        out.result(
            {"holder": {"who": holder.who, "machine": holder.machine, "pid": holder.pid,
                        "since": holder.since, "why": holder.why}}
        )  # fmt: skip
        raise LockedError(
            "fleet", f"locked by {holder}",
            "the lock ends with that process: wain fleet abort, or end it",
        )  # fmt: skip
