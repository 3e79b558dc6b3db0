"""`wain fleet rehearse`: a roll-out and its way back, on clones on this machine."""

from __future__ import annotations

import argparse

from fleet.rehearse import evidence, left_out, rehearse
from fleet.wanted import load_wanted
from wain.fleet_open import host_option, open_fleet, selected
from wain.fleet_plan import survey_and_plan
from wain.fleet_shared import looking
from wain.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which image, which hosts."""
    parser.add_argument("image", help="name, name:tag, or an id of 8 or more digits")
    host_option(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Exit 1 when a clone fails. The evidence is kept with the plan's digest."""
    with open_fleet(args) as fleet, looking(fleet) as images:
        hosts = selected(fleet, args)
        wanted = load_wanted(fleet.catalog, args.image)
        settings = fleet.inventory.settings
        plan = survey_and_plan(fleet, hosts, wanted, images, fleet.by(reason="rehearse"), out)
        clones = rehearse(
            plan, {one.id: one for one in wanted}, images, settings, fleet.folder / ".wain",
            fleet.by(reason="rehearse"), out.say,
        )  # fmt: skip
        ok = all(clone.ok for clone in clones)
        left = left_out(settings, hosts)
        kept = evidence(plan, clones, left)
        fleet.journal.add_rehearsal(plan.digest, next(iter(plan.images.values())), ok, kept)
        rows = [
            [fleet.name_of(clone.before), fleet.name_of(clone.after), clone.hosts,
             clone.problem or "ok"]
            for clone in clones
        ]  # fmt: skip
        if rows:
            out.table(["from", "to", "hosts", "result"], rows)
        else:
            out.say("no host would change: nothing to rehearse")
        for item in left:
            out.say(f"not rehearsed: {item}")
        out.say(f"plan {plan.digest[:16]} {'passed' if ok else 'failed'} its rehearsal")
        out.result({**kept, "ok": ok})
        return 0 if ok else 1
