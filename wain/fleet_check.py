"""`wain fleet check`: can every host take an image? Nothing is changed."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

from fleet.errors import HostError
from fleet.inventory import Host
from fleet.plan import choose
from fleet.preflight import Problem, remarks, state_problems
from fleet.session import Facts, Session
from fleet.survey import hook_problems, note_answers, survey
from fleet.wanted import Wanted, load_wanted
from images.catalog import LATEST
from images.errors import WainError
from wain.fleet_open import Fleet, host_option, open_fleet, selected
from wain.fleet_shared import exit_code
from wain.output import Output, human_bytes
from wain.shared import short


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which image, which hosts."""
    parser.add_argument(
        "image", nargs="?", default="", help="check for this image (default: the latest)"
    )
    host_option(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Ask every host, and say what is in the way."""
    with open_fleet(args) as fleet:
        hosts = selected(fleet, args)
        wanted, names = _wanted(fleet, args.image), fleet.applications
        tools: dict[str, list[Problem]] = {}

        def ask(host: Host, session: Session) -> None:
            tools[host.name] = hook_problems(host, session, fleet.inventory.settings)

        answers = survey(
            hosts, fleet.inventory.settings, keep=False, by=fleet.by(reason="check"),
            on_progress=out.progress, question=ask,
        )  # fmt: skip
        note_answers(fleet.journal, answers)
        fleet.remember()
        rows, documents, kinds = [], {}, []
        for host in hosts:
            answer = answers[host.name]
            problems = _problems(answer, wanted, tools.get(host.name, []), names)
            kinds += [problem.kind for problem in problems]
            notes = remarks(answer) if isinstance(answer, Facts) else []
            documents[host.name] = {
                "ok": not problems,
                "facts": facts_document(answer) if isinstance(answer, Facts) else {},
                "problems": [problem.text for problem in problems],
                "kinds": [problem.kind for problem in problems],
                "remarks": notes,
            }
            rows.append(_row(host, answer, problems))
            for note in notes:
                out.warn(f"{host.name}: {note}")
        out.table(["host", "python", "libc", "current", "free", "result"], rows)
        out.result({"hosts": documents})
        return exit_code(kinds)


def _wanted(fleet: Fleet, image: str) -> list[Wanted]:
    if image:
        return load_wanted(fleet.catalog, image)
    ids = fleet.catalog.tags().get(LATEST, {}).values()
    names = dict.fromkeys(fleet.catalog.document(one).name for one in ids)
    return [one for name in names for one in load_wanted(fleet.catalog, name)]


def _problems(
    answer: Facts | HostError, wanted: list[Wanted], tools: list[Problem], names: Collection[str]
) -> list[Problem]:
    if isinstance(answer, HostError):
        return [Problem(answer.kind, _text(answer))]
    found = list(tools)
    # The one of several names that this root is of.
    mine = [one for one in wanted if answer.state.name in one.names] or wanted
    chosen = None
    if mine:
        chosen, problems = choose(answer, mine)
        found += problems
    return found + state_problems(answer, chosen.id if chosen else None, names)


def _text(error: WainError) -> str:
    return error.what + (f" ({error.hint})" if error.hint else "")


def _row(host: Host, answer: Facts | HostError, problems: list[Problem]) -> list[str]:
    result = "; ".join(problem.text for problem in problems) or "ok"
    if isinstance(answer, HostError):
        return [host.name, "", "", "", "", result]
    current = answer.state.current
    return [
        host.name, answer.python_version, " ".join(answer.libc).strip(),
        short(current) if current else "-", human_bytes(answer.free_bytes), result,
    ]  # fmt: skip


def facts_document(facts: Facts) -> dict[str, Any]:
    """A host's facts for JSON."""
    state = facts.state
    return {
        "python": facts.python_version, "executable": facts.executable, "abi": facts.abi,
        "magic": facts.magic, "machine": facts.machine, "libc": " ".join(facts.libc).strip(),
        "free_bytes": facts.free_bytes, "free_inodes": facts.free_inodes, "uid": facts.uid,
        "user": facts.user, "root": facts.root, "root_exists": facts.root_exists,
        "clock_skew": round(facts.clock_skew, 3),
        "kill_user_processes": facts.kill_user_processes, "current": state.current,
        "previous": state.previous, "generation": state.generation,
        "releases": list(state.releases), "quarantined": dict(state.quarantined),
        "foreign": state.foreign,
    }  # fmt: skip
