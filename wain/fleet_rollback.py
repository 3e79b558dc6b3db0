"""`wain fleet rollback`: back to the previous release, or to another one that hosts still have."""

from __future__ import annotations

import argparse
import shlex

from fleet.control import Control
from fleet.result import hosts_text, row_of
from fleet.rollback_run import roll_back_all
from fleet.steps import UNTOUCHED, Job, Outcome
from wain.fleet_display import Display, show_result, signals
from wain.fleet_open import host_option, must_ask, open_fleet, reason_options, selected, yes_option
from wain.fleet_shared import at_work
from wain.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, which hosts, how carefully checked."""
    parser.add_argument(
        "--to", default="", metavar="A", help="this image (default: each host's previous one)"
    )
    host_option(parser)
    parser.add_argument(
        "--deep", action="store_true", help="hash the release before switching to it"
    )
    reason_options(parser)
    yes_option(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Switch back everywhere at once; nothing is sent."""
    with open_fleet(args) as fleet:
        asking = must_ask(args, out, "fleet rollback")
        hosts = selected(fleet, args)
        to = fleet.images_of(args.to) if args.to else None
        target = " or ".join(map(fleet.name_of, to)) if to else "the previous release"
        if asking and not out.confirm(f"Roll {hosts_text(len(hosts))} back to {target}?"):
            out.say("nothing was changed")
            return 1
        why = f"rollback to {target}" + (f": {args.reason}" if args.reason else "")
        with at_work(fleet, why):
            by = fleet.by(reason=args.reason or "rollback", ticket=args.ticket)
            with fleet.journal.transaction():
                fleet.journal.abandon_open(kind="rollback")
                number = fleet.journal.begin(
                    kind="rollback",
                    image=to[0] if to else "",
                    image_name=args.to or "the previous release",
                    plan_digest="",
                    plan={"to": to, "deep": args.deep, "hosts": [host.name for host in hosts]},
                    who=by["who"],
                    machine=by["machine"],
                    reason=args.reason,
                    ticket=args.ticket,
                    hosts=[row_of(Outcome(host.name, UNTOUCHED), 0) for host in hosts],
                )
            control = Control(fleet.journal)
            display = Display(out, control, len(hosts))
            job = Job(
                fleet.inventory.settings, {**by, "rollout": f"r{number}"},
                names=fleet.applications,
            )  # fmt: skip
            with signals(control), display.running():
                result = roll_back_all(
                    number=number, hosts=hosts, to=to, deep=args.deep, journal=fleet.journal,
                    control=control, job=job, on_event=display,
                )  # fmt: skip
        result.extra = {"to": list(to) if to else None}
        out.result(result.document())
        left = [name for name, one in result.hosts.items() if one.state == UNTOUCHED]
        again = f"`wain fleet rollback --hosts {shlex.quote(', '.join(left))}` goes on"
        show_result(out, result, fleet.name_of, again)
        return result.exit_code
