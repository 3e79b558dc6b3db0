"""`wain fleet plan`: what a roll-out would change, host by host. Nothing is changed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from fleet.contact import Held
from fleet.inventory import Host
from fleet.plan import SWITCH, HostPlan, Plan, make_plan
from fleet.preflight import Problem
from fleet.result import hosts_text
from fleet.session import Session
from fleet.survey import hook_problems, note_answers, survey
from fleet.wanted import Change, Comparisons, Wanted, load_wanted
from wain.fleet_open import Fleet, host_option, open_fleet, selected
from wain.fleet_shared import exit_code, looking
from wain.output import Output, human_bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which image, which hosts."""
    parser.add_argument("image", help="name, name:tag, or an id of 8 or more digits")
    host_option(parser)
    parser.add_argument("--files", action="store_true", help="name every file that changes")


def run(args: argparse.Namespace, out: Output) -> int:
    """Ask every host, and show the plan."""
    with open_fleet(args) as fleet, looking(fleet) as images:
        hosts = selected(fleet, args)
        wanted = load_wanted(fleet.catalog, args.image)
        plan = survey_and_plan(fleet, hosts, wanted, images, fleet.by(reason="plan"), out)
        by_id = {one.id: one for one in wanted}
        show_plan(out, fleet, plan, by_id, images)
        document = plan_document(plan, by_id, images)
        if args.files:
            document["changes"] = _show_files(out, fleet, plan, by_id, images)
        out.result(document)
        return exit_code(kind for host in plan.hosts for kind in (p.kind for p in host.problems))


def survey_and_plan(
    fleet: Fleet, hosts: Sequence[Host], wanted: Sequence[Wanted], images: Comparisons,
    by: Mapping[str, str], out: Output, *, keep: bool = False, stage_only: bool = False,
    held: Held | None = None,
) -> Plan:  # fmt: skip
    """Ask the hosts where they stand and whether hooks could run there, and plan from that.

    A host that has a wanted image already costs one question and one answer.
    ``held`` gets the sessions of the first wave's hosts, if it has room for them.
    """
    settings, ids = fleet.inventory.settings, {one.id for one in wanted}
    found: dict[str, list[Problem]] = {}

    def ask(host: Host, session: Session) -> None:
        if session.facts.state.current not in ids and not stage_only:
            found[host.name] = hook_problems(host, session, settings)

    def hold(host: Host, session: Session) -> bool:
        moves = session.facts.state.current not in ids
        return moves and held is not None and held.put(host, session)

    answers = survey(
        hosts, settings, keep=keep, by=by, on_progress=out.progress, question=ask, hold=hold
    )
    note_answers(fleet.journal, answers)
    fleet.remember()
    plan = make_plan(hosts, answers, wanted, settings, images, stage_only=stage_only, found=found)
    images.packs.settle()
    if held is not None:
        first = plan.waves[0].hosts if plan.waves else ()
        held.close(but={one.host for one in plan.hosts if one.action == SWITCH} & set(first))
    return plan


def show_plan(
    out: Output, fleet: Fleet, plan: Plan, wanted: dict[str, Wanted], images: Comparisons
) -> None:
    """The plan for people: what changes, once for each pair of images; then host by host."""
    names = fleet.names([host.current for host in plan.hosts] + [host.image for host in plan.hosts])
    for one in changes(plan, wanted, images):
        count = hosts_text(len(one["hosts"]))
        out.say(f"{names[one['from']]} → {names[one['to']]} on {count}")
        for line in one["lines"]:
            out.say(f"  {line}")
    wave_of = {name: at for at, wave in enumerate(plan.waves, 1) for name in wave.hosts}
    rows = [
        [host.host, wave_of[host.host], host.action, names[host.current], names[host.image],
         ("" if host.exact else "at most ") + human_bytes(host.size), host.error]
        for host in plan.hosts
    ]  # fmt: skip
    out.table(["host", "wave", "action", "from", "to", "to send", "problem"], rows)
    for title, key in (("after the switch", "after_switch"), ("health", "health")):
        for item in plan.settings[key]:
            out.say(f"{title}: {item if isinstance(item, str) else item[0]}")
    waves = ", ".join(f"{wave.rule} ({len(wave.hosts)})" for wave in plan.waves)
    out.say(f"waves: {waves}")
    out.say(f"plan {plan.digest[:16]}")


def changes(plan: Plan, wanted: dict[str, Wanted], images: Comparisons) -> list[dict[str, Any]]:
    """What happens, once for each pair of images: its hosts, and lines for people."""
    pairs: dict[tuple[str | None, str], list[HostPlan]] = {}
    for host in plan.hosts:
        if host.action == SWITCH and host.image:
            pairs.setdefault((host.current, host.image), []).append(host)
    found = []
    for (current, image), hosts in pairs.items():
        lines = _lines(images.change(current, wanted[image]), current)
        size, inodes = (max(host.room.size for host in hosts),
                        max(host.room.inodes for host in hosts))  # fmt: skip
        lines.append(f"each host needs {human_bytes(size)} and {inodes} inodes free")
        found.append(
            {"from": current, "to": image, "hosts": [host.host for host in hosts], "lines": lines}
        )
    return found


def _lines(change: Change, current: str | None) -> list[str]:
    """A change's packages, one a line; a first release is only counted."""
    files = ", ".join(f"{count} {what}" for what, count in change.files.items() if count)
    added = change.packages["added"]
    if current is None:
        return [f"{len(added)} packages, {files or 'no files'}"]
    lines = [f"{one['name']} {one['version']} added" for one in added]
    lines += [f"{one['name']} {one['version']} removed" for one in change.packages["removed"]]
    for one in change.packages["changed"]:
        same = one["from"] == one["to"]
        text = f"{one['from']}, other files" if same else f"{one['from']} → {one['to']}"
        lines.append(f"{one['name']} {text}")
    return [*lines, f"files: {files or 'none'}"]


def plan_document(plan: Plan, wanted: dict[str, Wanted], images: Comparisons) -> dict[str, Any]:
    """The JSON document of a plan."""
    return {
        "plan": plan.digest,
        "image": plan.label,
        "images": dict(plan.images),
        "waves": [{"rule": wave.rule, "hosts": list(wave.hosts)} for wave in plan.waves],
        "runs": {
            "after_switch": plan.settings["after_switch"],
            "health": [text for text, _ in plan.settings["health"]],
        },
        "hosts": {host.host: _host(host, wanted, images) for host in plan.hosts},
    }


def _host(host: HostPlan, wanted: dict[str, Wanted], images: Comparisons) -> dict[str, Any]:
    document: dict[str, Any] = {
        "action": host.action, "from": host.current, "to": host.image,
        "generation": host.generation, "bytes_to_send": host.size, "objects": host.objects,
        "needs": {"bytes": host.room.size, "inodes": host.room.inodes},
        "problems": [problem.text for problem in host.problems],
    }  # fmt: skip
    if host.action == SWITCH and host.image:
        change = images.change(host.current, wanted[host.image])
        document["packages"] = change.packages
        document["files"] = change.files
    else:
        document["packages"] = {"added": [], "removed": [], "changed": []}
        document["files"] = {"added": 0, "removed": 0, "changed": 0}
    return document


def _show_files(
    out: Output, fleet: Fleet, plan: Plan, wanted: dict[str, Wanted], images: Comparisons
) -> dict[str, Any]:
    found = {}
    pairs = {(one.current, one.image) for one in plan.hosts if one.action == SWITCH and one.image}
    for current, image in sorted(pairs, key=str):
        diff = images.diff(current, wanted[str(image)])
        out.say(f"{fleet.name_of(current)} → {fleet.name_of(image)}")
        for file in diff.files:
            out.say(f"  {file.what:8} {file.path}")
        found[f"{current or 'nothing'}..{image}"] = diff.to_json()["files"]
    return found
