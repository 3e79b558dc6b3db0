"""`wain fleet history` and `report`."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from fleet.journal import HostRow, Rollout
from fleet.report import markdown
from images.errors import UsageError, WainError
from wain.fleet_open import Fleet, open_fleet
from wain.output import Output

_GOOD = ("succeeded", "unchanged")


def arguments_history(parser: argparse.ArgumentParser) -> None:
    """How much."""
    parser.add_argument("-n", dest="count", type=int, default=20, metavar="N", help="how many")
    parser.add_argument("--host", default="", metavar="H", help="what happened to one host")


def run_history(args: argparse.Namespace, out: Output) -> int:
    """The newest first; success rate and time to finish below."""
    with open_fleet(args) as fleet:
        rollouts = fleet.journal.rollouts(max(1, args.count))
        rows: list[list[object]] = []
        documents = []
        for one in rollouts:
            hosts = fleet.journal.host_rows(one.number)
            if args.host:
                hosts = [row for row in hosts if row.host == args.host]
                if not hosts:
                    continue
            document = _document(one, hosts)
            documents.append(document)
            states = ", ".join(f"{count} {state}" for state, count in _states(hosts).items())
            rows.append([one.id, one.kind, one.image_name, one.result or one.state, states,
                         one.started, document["seconds"], one.who, one.reason])  # fmt: skip
        headers = ["id", "kind", "image", "result", "hosts", "began", "seconds", "who", "reason"]
        out.table(headers, rows)
        ended = [one for one in documents if one["result"]]
        good = sum(one["result"] in _GOOD for one in ended)
        if ended:
            times = sorted(float(str(one["seconds"])) for one in ended)
            out.say(
                f"{good} of {len(ended)} succeeded ({100 * good // len(ended)} %), "
                f"half of them within {times[len(times) // 2]:.1f} s"
            )
        out.result({"rollouts": documents, "success_rate": good / len(ended) if ended else None})
        return 0


def _states(hosts: list[HostRow]) -> dict[str, int]:
    states: dict[str, int] = {}
    for row in hosts:
        states[row.state] = states.get(row.state, 0) + 1
    return states


def _document(rollout: Rollout, hosts: list[HostRow]) -> dict[str, object]:
    seconds = 0.0
    if rollout.finished:
        began, ended = (
            datetime.fromisoformat(text) for text in (rollout.started, rollout.finished)
        )
        seconds = max((ended - began).total_seconds(), max((r.seconds for r in hosts), default=0.0))
    return {
        "rollout": rollout.id, "kind": rollout.kind, "image": rollout.image,
        "image_name": rollout.image_name, "plan": rollout.plan_digest, "who": rollout.who,
        "machine": rollout.machine, "reason": rollout.reason, "ticket": rollout.ticket,
        "started": rollout.started, "finished": rollout.finished, "state": rollout.state,
        "result": rollout.result, "error": rollout.error, "states": _states(hosts),
        "bytes_sent": sum(row.bytes_sent for row in hosts), "seconds": round(seconds, 1),
    }  # fmt: skip


def arguments_report(parser: argparse.ArgumentParser) -> None:
    """Which roll-out, where to."""
    parser.add_argument("rollout", nargs="?", default="", help="such as r12; default: the last")
    parser.add_argument("-o", dest="output", default="", metavar="FILE", help="write it to a file")


def run_report(args: argparse.Namespace, out: Output) -> int:
    """Markdown on standard output, or into a file."""
    with open_fleet(args) as fleet:
        rollout = _find(fleet, args.rollout)
        hosts = fleet.journal.host_rows(rollout.number)
        changed = rollout.plan.get("changes", [])
        names = fleet.names(
            [row.image for row in hosts] + [one[end] for one in changed for end in ("from", "to")]
        )
        text = markdown(rollout, hosts, fleet.journal.steps(rollout.number), names.__getitem__)
        if args.output:
            path = Path(args.directory, args.output)
            path.write_text(text, encoding="utf-8")
            out.say(f"wrote {path}")
        else:
            out.say(text.rstrip("\n"))
        out.result({**_document(rollout, hosts), "markdown": text})
        return 0


def _find(fleet: Fleet, name: str) -> Rollout:
    if not name:
        newest = fleet.journal.rollouts(1)
        if not newest:
            raise WainError("fleet report", "there was no roll-out yet")
        return newest[0]
    number = name.removeprefix("r")
    if not number.isascii() or not number.isdecimal():
        raise UsageError("fleet report", f"{name!a} is no roll-out", "such as r12")
    found = fleet.journal.rollout(int(number))
    if found is None:
        raise WainError("fleet report", f"there is no roll-out r{number}", "wain fleet history")
    return found
