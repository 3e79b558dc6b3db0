"""Asking all hosts where they stand, before anything is decided."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence

from fleet import reported
from fleet.contact import ask_all, open_session
from fleet.errors import HostError
from fleet.inventory import Host, Settings
from fleet.journal import Journal
from fleet.preflight import Problem
from fleet.session import Facts, Session

Answers = dict[str, Facts | HostError]
Progress = Callable[[str, int, int], None]


def survey(
    hosts: Sequence[Host],
    settings: Settings,
    *,
    keep: bool,
    by: Mapping[str, str] | None = None,
    on_progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
    question: Callable[[Host, Session], None] = lambda host, session: None,
    hold: Callable[[Host, Session], bool] = lambda host, session: False,
) -> Answers:
    """Every host's facts, or why there are none.

    ``keep=False`` writes nothing on any host. With ``keep``, a switch that an earlier process
    of this project left unconfirmed is taken back first: the caller holds the fleet's lock, so
    that process is dead. ``question`` may ask more in the same connection, in the host's thread;
    ``hold`` may then take it over, and says whether it did.
    """
    answers: Answers = {}

    def ask(host: Host) -> Facts:
        session = open_session(host, settings, keep=keep, by=by)
        held = False
        try:
            pending = session.facts.state.pending
            mine = by is not None and pending and _same_controller(pending.by, by)
            if not (keep and pending and mine):
                question(host, session)
                held = hold(host, session)
                return session.facts
            try:
                session.revert(pending.generation, "the process that switched is gone")
            except HostError as error:
                if error.kind != "moved":  # the timer was faster
                    raise
        finally:
            if not held:
                session.close()
        with open_session(host, settings, keep=keep, by=by) as session:
            question(host, session)
            return session.facts

    def answered(host: Host, answer: Facts | HostError) -> None:
        answers[host.name] = answer
        if on_progress:
            on_progress("Asking hosts", len(answers), len(hosts))

    ask_all(hosts, settings, ask, answered, stopped=stopped)
    return answers


def _same_controller(pending: Mapping[str, str], by: Mapping[str, str]) -> bool:
    return bool(by.get("controller")) and pending.get("controller") == by["controller"]


def note_answers(journal: Journal, answers: Mapping[str, Facts | HostError]) -> None:
    """Keep what the hosts reported, and why others did not."""
    reported.report(
        journal,
        [reported.report_of(name, facts) for name, facts in answers.items()
         if isinstance(facts, Facts)],
    )  # fmt: skip
    reported.report_problem(
        journal,
        [(name, error.what) for name, error in answers.items() if isinstance(error, HostError)],
    )


_PROGRAM = re.compile(r"/[\w.+/-]+|\w[\w.+-]*")


def tools_of(settings: Settings) -> list[str]:
    """The programs that hooks and health commands start, as far as they can be told.

    By name or absolute path; what a release brings itself cannot be looked for before it is there.
    """
    found = []
    for command in [*settings.after_switch, *(check.command for check in settings.health)]:
        try:
            words = shlex.split(command)
        except ValueError:
            continue
        words = [word for word in words if "=" not in word.partition("/")[0]]
        if words and _PROGRAM.fullmatch(words[0]):
            found.append(words[0])
    return sorted(set(found))


def hook_problems(host: Host, session: Session, settings: Settings) -> list[Problem]:
    """What hooks and checks need on a host and do not find: programs, a usable env-file.

    The host needs no release for that. Where a roll-out cannot go on anyway, nothing is asked.
    """
    tools, state = tools_of(settings), session.facts.state
    hooks = settings.after_switch or settings.health
    if not (tools or (hooks and host.env_file)) or state.foreign or state.pending:
        return []
    # Numbers, not names: a name could be masked as a value of the env-file.
    script = ["true"]
    for at, tool in enumerate(tools):
        script.append(f"command -v {shlex.quote(tool)} >/dev/null || echo {at}")
    try:
        result = session.run(
            "; ".join(script), settings.connect_timeout, env_file=host.env_file or ""
        )
    except HostError as error:
        if error.kind != "io":
            raise
        return [Problem("tools", error.what)]
    missing = {int(line) for line in result.output.split() if line.isascii() and line.isdecimal()}
    return [
        Problem("tools", f"there is no program '{tool}', which a hook or check starts")
        for at, tool in enumerate(tools)
        if at in missing
    ]


def reachable(answers: Mapping[str, Facts | HostError]) -> Iterable[tuple[str, Facts]]:
    """The hosts that answered."""
    return ((name, facts) for name, facts in answers.items() if isinstance(facts, Facts))
