"""`wain fleet status`: where every host stands now, asked of the hosts themselves."""

from __future__ import annotations

import argparse
from typing import Any

from fleet import reported
from fleet.errors import HostError
from fleet.inventory import Host
from fleet.lock import holder_of
from fleet.session import Facts, Session
from fleet.steps import UNTOUCHED
from fleet.survey import note_answers, survey
from wain.fleet_open import Fleet, host_option, open_fleet, selected
from wain.output import Output
from wain.shared import short


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which hosts, and whether to ask them."""
    host_option(parser)
    parser.add_argument(
        "--offline", action="store_true", help="from what each last reported; ask no host"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """A table of hosts, the roll-out that is under way, and what deserves attention."""
    with open_fleet(args) as fleet:
        hosts = selected(fleet, args)
        document = _offline(fleet, hosts) if args.offline else _ask(fleet, hosts, out)
        names = fleet.names(entry["image"] for entry in document.values())
        rows = [
            [name, names[entry["image"]], entry["generation"], names_of(entry["previous"]),
             entry["seen"] if args.offline else entry["state"], entry["error"]]
            for name, entry in document.items()
        ]  # fmt: skip
        last = "seen" if args.offline else "state"
        out.table(["host", "image", "generation", "previous", last, "problem"], rows)
        for name, entry in document.items():
            entry["image_name"] = names[entry["image"]]
            for old, pids in entry.get("old_processes", {}).items():
                shown = ", ".join(str(pid) for pid in pids[:5])
                runs = "runs" if len(pids) == 1 else "run"
                out.warn(f"{name}: pid {shown} still {runs} from release {old[:12]}")
        under_way = _rollout(fleet, out)
        out.result({"hosts": document, "rollout": under_way,
                    "quarantined": fleet.journal.quarantined()})  # fmt: skip
        return 5 if any(entry["state"] == "unreachable" for entry in document.values()) else 0


def names_of(image: str | None) -> str:
    """A short id, or a dash."""
    return short(image) if image else "-"


def _ask(fleet: Fleet, hosts: tuple[Host, ...], out: Output) -> dict[str, dict[str, Any]]:
    running: dict[str, dict[str, list[int]]] = {}

    def ask(host: Host, session: Session) -> None:
        current = session.facts.state.current
        if len(session.facts.state.releases) > 1:
            for image, pid in session.processes():
                if image not in (current, "current"):
                    running.setdefault(host.name, {}).setdefault(image, []).append(pid)

    answers = survey(
        hosts, fleet.inventory.settings, keep=False, by=fleet.by(reason="status"),
        on_progress=out.progress, question=ask,
    )  # fmt: skip
    note_answers(fleet.journal, answers)
    fleet.remember()
    known = {report.host: report for report in reported.reports(fleet.journal)}
    return {
        host.name: _entry(answers[host.name], known[host.name], running.get(host.name, {}))
        for host in hosts
    }


def _entry(
    answer: Facts | HostError, report: reported.Report, running: dict[str, list[int]]
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "image": report.image, "previous": report.previous, "generation": report.generation,
        "python": report.python, "releases": list(report.releases), "seen": report.seen,
        "error": "", "old_processes": running,
    }  # fmt: skip
    if isinstance(answer, HostError):
        state = "unreachable" if answer.kind == "unreachable" else "problem"
        return entry | {"state": state, "error": answer.what}
    stand = answer.state
    word, error = "ok", ""
    if stand.pending:  # until it is confirmed, that is where it goes back to
        entry["previous"] = (stand.pending.back or "").removeprefix("releases/") or None
    if stand.foreign:
        word, error = "foreign", stand.foreign
    elif stand.pending:
        who = stand.pending.by.get("who") or "somebody"
        word, error = "unconfirmed", f"a switch to {stand.pending.to[:12]} by {who}"
    elif stand.current is None:
        word = "adopted" if stand.last.get("what") == "adopted" else "empty"
    return entry | {
        "state": word, "error": error, "quarantined": dict(stand.quarantined),
        "last": dict(stand.last),
    }  # fmt: skip


def _offline(fleet: Fleet, hosts: tuple[Host, ...]) -> dict[str, dict[str, Any]]:
    known = {report.host: report for report in reported.reports(fleet.journal)}
    found = {}
    for host in hosts:
        report = known.get(host.name)
        found[host.name] = {
            "image": report.image if report else None,
            "previous": report.previous if report else None,
            "generation": report.generation if report else 0,
            "python": report.python if report else "",
            "releases": list(report.releases) if report else [],
            "seen": report.seen if report else "never",
            "state": "reported" if report else "unknown",
            "error": report.problem if report else "",
        }
    return found


def _rollout(fleet: Fleet, out: Output) -> dict[str, Any] | None:
    for image, reason in fleet.journal.quarantined().items():
        out.say(f"quarantined: {fleet.name_of(image)}: {reason}")
    holder = holder_of(fleet.folder)
    if holder is not None:
        out.say(f"at work: {holder}")
    rollout = fleet.journal.last_open()
    if rollout is None:
        return None
    state = rollout.state if holder is not None or rollout.state != "running" else "interrupted"
    hint = ""
    if holder is None and rollout.kind == "rollout":
        hint = "; `wain fleet resume` goes on with it"
    elif holder is None:
        rows = fleet.journal.host_rows(rollout.number)
        left = ", ".join(row.host for row in rows if row.state == UNTOUCHED)
        # A second rollback would take those forward again that are back already.
        hint = f"; {left or 'no host'} may not be back: `wain fleet rollback --to A --hosts …`"
    out.say(
        f"{rollout.kind} {rollout.id} to {rollout.image_name} by {rollout.who} since "
        f"{rollout.started}: {state}{hint}"
    )
    return {
        "rollout": rollout.id,
        "kind": rollout.kind,
        "image": rollout.image,
        "state": state,
        "who": rollout.who,
    }
