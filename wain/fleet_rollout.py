"""`wain fleet rollout` and `resume`, until the images and the hosts are needed.

What follows is imported then, while the pack of a first roll-out is already being made.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable

from fleet import reported
from fleet.inventory import Host
from fleet.lock import holder_of
from fleet.pack import Packs
from images.errors import WainError
from wain.fleet_open import (
    Fleet,
    host_option,
    must_ask,
    open_fleet,
    reason_options,
    selected,
    spooling,
    yes_option,
)
from wain.output import Output


def arguments_rollout(parser: argparse.ArgumentParser) -> None:
    """Which image, which hosts, how careful."""
    parser.add_argument("image", help="name, name:tag, or an id of 8 or more digits")
    host_option(parser)
    parser.add_argument(
        "--stage-only", action="store_true", help="send and check out, switch nothing"
    )
    parser.add_argument(
        "--approve", action="store_true", help="ask before each wave after the first"
    )
    parser.add_argument(
        "--rehearsed", action="store_true", help="refuse a plan that was not rehearsed"
    )
    parser.add_argument(
        "--plan", default="", metavar="DIGEST", help="refuse any other plan than this one"
    )
    reason_options(parser)
    yes_option(parser)


def run_rollout(args: argparse.Namespace, out: Output) -> int:
    """Plan, ask, roll out."""
    with open_fleet(args) as fleet:
        ask = must_ask(args, out, "fleet rollout")
        hosts = selected(fleet, args)
        images = set(fleet.catalog.candidates(args.image).values())
        why = f"rollout {args.image}" + (f": {args.reason}" if args.reason else "")
        with spooling(fleet, why, once=not ask and len(hosts) == 1) as packs:
            if not ask:
                _foresee(fleet, packs, images, hosts)
            from wain.fleet_rollout_run import roll_out

            return roll_out(args, out, fleet, hosts, packs, ask=ask)


def _foresee(fleet: Fleet, packs: Packs, images: set[str], hosts: Iterable[Host]) -> None:
    """Hosts nobody has seen will lack all of it: the pack is begun before they are asked."""
    if len(images) == 1 and not reported.any_known(fleet.journal, (host.name for host in hosts)):
        with contextlib.suppress(ValueError):  # a manifest of another format: it is said later
            packs.foresee(next(iter(images)))


def arguments_resume(parser: argparse.ArgumentParser) -> None:
    """How to go on."""
    parser.add_argument(
        "--approve", action="store_true", help="ask before each wave after the first"
    )
    yes_option(parser)


def run_resume(args: argparse.Namespace, out: Output) -> int:
    """Go on: order the process that is paused, or be that process when there is none."""
    with open_fleet(args) as fleet:
        rollout = fleet.journal.last_open("rollout")
        if rollout is None:
            raise WainError("fleet resume", "there is no roll-out to go on with")
        if holder_of(fleet.folder) is not None:
            fleet.journal.order(rollout.number, "resume", fleet.by()["who"])
            out.say(f"{rollout.id} is told to go on")
            out.result({"rollout": rollout.id, "ordered": "resume"})
            return 0
        ask = must_ask(args, out, "fleet resume")
        with spooling(fleet, f"resume {rollout.id}") as packs:
            from wain.fleet_rollout_run import go_on

            return go_on(args, out, fleet, rollout, packs, ask=ask)
