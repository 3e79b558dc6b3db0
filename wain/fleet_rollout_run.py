"""`wain fleet rollout` and `resume`, from the plan to the table at the end."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fleet import journal as journals
from fleet import reported
from fleet.contact import Held
from fleet.control import Control
from fleet.inventory import Host
from fleet.pack import Packs
from fleet.plan import SWITCH, HostPlan, Plan
from fleet.result import Result, hosts_text, row_of
from fleet.resume import going_on, outcome_before
from fleet.rollout import Rollout
from fleet.signed import check_signed, with_proofs
from fleet.steps import UNTOUCHED, Job, Outcome
from fleet.wanted import Comparisons, Wanted, load_wanted
from images.errors import DifferenceError, WainError
from wain.fleet_display import Display, show_result, signals
from wain.fleet_open import Fleet
from wain.fleet_plan import changes, show_plan, survey_and_plan
from wain.output import Output


def roll_out(
    args: argparse.Namespace, out: Output, fleet: Fleet, hosts: tuple[Host, ...], packs: Packs,
    *, ask: bool,
) -> int:  # fmt: skip
    """Plan, ask, roll out, under the fleet's lock."""
    wanted, pins = load_wanted(fleet.catalog, args.image), fleet.pins()
    _refuse_quarantined(fleet, wanted, {})
    for line in check_signed(fleet.inventory.trust, fleet.catalog.store, wanted):
        out.say(line)
    wanted = with_proofs(fleet.inventory.trust, fleet.catalog.store, wanted)
    images = Comparisons(fleet.catalog, packs, hurry=not ask)
    with _held(fleet, ask) as held:
        fleet.keep([*(one.id for one in wanted), *_ids(fleet)])
        by = fleet.by(reason=args.reason, ticket=args.ticket)
        plan = _survey_and_plan(fleet, hosts, wanted, images, by, out, held, args.stage_only)
        if args.plan and not plan.digest.startswith(args.plan):
            raise DifferenceError(
                "plan", f"is {plan.digest[:16]} now, not {args.plan[:16]}",
                "a host moved or a setting changed since: look at it again",
            )  # fmt: skip
        if args.rehearsed:
            _must_be_rehearsed(fleet, plan)
        by_id = {one.id: one for one in wanted}
        if plan.count(SWITCH):
            show_plan(out, fleet, plan, by_id, images)
            if ask and not out.confirm(f"Roll out to {hosts_text(plan.count(SWITCH))}?"):
                out.say("nothing was changed")
                return 1
        number = _begin(fleet, plan, by, args, changes(plan, by_id, images))
        return _execute(
            fleet, out, number, plan, hosts, wanted, images, by, {},
            approve=args.approve, asking=ask, pins=pins, held=held,
        )  # fmt: skip


def go_on(
    args: argparse.Namespace, out: Output, fleet: Fleet, rollout: journals.Rollout, packs: Packs,
    *, ask: bool,
) -> int:  # fmt: skip
    """Be the process of a roll-out that was interrupted, under the fleet's lock."""
    images = Comparisons(fleet.catalog, packs, hurry=not ask)
    with _held(fleet, ask) as held:
        hosts, wanted = going_on(fleet.inventory, fleet.catalog, rollout, fleet.journal)
        pins = fleet.pins()
        _refuse_quarantined(fleet, wanted, {})
        check_signed(fleet.inventory.trust, fleet.catalog.store, wanted)
        wanted = with_proofs(fleet.inventory.trust, fleet.catalog.store, wanted)
        by = fleet.by(reason=rollout.reason, ticket=rollout.ticket)
        stage_only = bool(rollout.plan["settings"].get("stage_only"))
        plan = _survey_and_plan(fleet, hosts, wanted, images, by, out, held, stage_only)
        before = _before(fleet, rollout.number, plan)
        left = sum(one.host not in before and one.action == SWITCH for one in plan.hosts)
        if ask and not out.confirm(f"Go on with {rollout.id}, {hosts_text(left)} left?"):
            out.say("nothing was changed")
            return 1
        fleet.journal.set_state(rollout.number, journals.RUNNING)
        return _execute(
            fleet, out, rollout.number, plan, hosts, wanted, images, by, before,
            approve=args.approve, asking=ask, pins=pins, held=held,
        )  # fmt: skip


@contextlib.contextmanager
def _held(fleet: Fleet, ask: bool) -> Iterator[Held | None]:
    """Where the survey's sessions wait for the roll-out; nowhere when a person is asked first."""
    if ask:
        yield None
        return
    held = Held(fleet.inventory.settings.parallel)
    try:
        yield held
    finally:
        held.close()


def _before(fleet: Fleet, number: int, plan: Plan) -> dict[str, Outcome]:
    """Hosts an interrupted roll-out was done with, as they stand now."""
    rows = {row.host: row for row in fleet.journal.host_rows(number)}
    found = {}
    for one in plan.hosts:
        outcome = outcome_before(rows[one.host], one)
        if outcome is not None:
            found[one.host] = outcome
    return found


def _survey_and_plan(
    fleet: Fleet, hosts: tuple[Host, ...], wanted: list[Wanted], images: Comparisons,
    by: Mapping[str, str], out: Output, held: Held | None, stage_only: bool,
) -> Plan:  # fmt: skip
    plan = survey_and_plan(
        fleet, hosts, wanted, images, by, out, keep=True, stage_only=stage_only, held=held
    )
    reported.remember_images(fleet.journal, [one.record() for one in wanted])
    _refuse_quarantined(fleet, wanted, {host.host: host for host in plan.hosts})
    return plan


def _refuse_quarantined(fleet: Fleet, wanted: list[Wanted], hosts: Mapping[str, HostPlan]) -> None:
    known = fleet.journal.quarantined()
    for one in wanted:
        reason = known.get(one.id, "")
        for host in hosts.values():
            for problem in host.problems:
                if problem.kind == "quarantined" and host.image == one.id:
                    reason = reason or f"{host.host}: {problem.text}"
        if reason:
            raise WainError(
                one.label, f"image {one.id[:12]} is quarantined: {reason}",
                f"wain fleet quarantine --clear {one.id[:12]} --reason …",
            )  # fmt: skip


def _must_be_rehearsed(fleet: Fleet, plan: Plan) -> None:
    found = fleet.journal.rehearsal(plan.digest)
    if found is None or not found[0]:
        what = "was not rehearsed" if found is None else f"failed its rehearsal of {found[1]}"
        raise DifferenceError(
            "fleet rollout", f"plan {plan.digest[:16]} {what}", f"wain fleet rehearse {plan.label}"
        )


def _begin(
    fleet: Fleet, plan: Plan, by: Mapping[str, str], args: argparse.Namespace,
    changed: list[dict[str, Any]],
) -> int:  # fmt: skip
    wave_of = {name: at for at, wave in enumerate(plan.waves) for name in wave.hosts}
    fleet.journal.abandon_open()
    return fleet.journal.begin(
        kind="rollout",
        image=next(iter(plan.images.values())),
        image_name=plan.label,
        plan_digest=plan.digest,
        plan={**plan.document(), "changes": changed},
        who=by["who"],
        machine=by["machine"],
        reason=args.reason,
        ticket=args.ticket,
        hosts=[
            row_of(
                Outcome(one.host, UNTOUCHED, one.current, one.previous, one.generation),
                wave_of[one.host],
            )
            for one in plan.hosts
        ],
    )


def _execute(
    fleet: Fleet, out: Output, number: int, plan: Plan, hosts: tuple[Host, ...],
    wanted: list[Wanted], images: Comparisons, by: Mapping[str, str],
    before: Mapping[str, Outcome], *, approve: bool, asking: bool, pins: tuple[str, ...],
    held: Held | None,
) -> int:  # fmt: skip
    control = Control(fleet.journal)
    control.watch(number)
    display = Display(out, control, plan.count(SWITCH))
    settings = fleet.inventory.settings
    who = {**by, "rollout": f"r{number}", "plan": plan.digest}
    job = Job(replace(settings, pins=pins), who, held=held)
    rollout = Rollout(
        number=number, plan=plan, hosts=hosts, wanted=wanted, images=images,
        journal=fleet.journal, control=control, job=job, before=before, approve=approve,
        ask=display.ask if asking else None, on_event=display,
    )  # fmt: skip
    with signals(control), display.running():
        result = rollout.run()
    fleet.remember()
    show(out, fleet, result, plan)
    return result.exit_code


def show(out: Output, fleet: Fleet, result: Result, plan: Plan) -> None:
    """The table and the JSON document."""
    result.extra = {"image": plan.label, "images": dict(plan.images), "plan": plan.digest}
    out.result(result.document())
    show_result(out, result, fleet.name_of)


def _ids(fleet: Fleet) -> list[str]:
    return [image for one in reported.reports(fleet.journal) for image in one.releases]
