"""What the fleet's commands share that talk to hosts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from fleet.contact import ask_all, open_session
from fleet.errors import HostError
from fleet.inventory import Host
from fleet.pack import Packs
from fleet.preflight import name_problems
from fleet.session import Session
from fleet.wanted import Comparisons
from wain.fleet_open import Fleet, spooling

R = TypeVar("R")


@contextlib.contextmanager
def at_work(fleet: Fleet, why: str) -> Iterator[Comparisons]:
    """The fleet's lock, and the images with a spool for packs."""
    with spooling(fleet, why) as packs:
        yield Comparisons(fleet.catalog, packs)


@contextlib.contextmanager
def looking(fleet: Fleet) -> Iterator[Comparisons]:
    """As `at_work`, for commands that only look: no lock."""
    with Packs(fleet.catalog.store) as packs:
        yield Comparisons(fleet.catalog, packs)


def exit_code(errors: Iterable[str]) -> int:
    """3 with a problem, 5 when hosts are only unreachable, else 0; from kinds of problems."""
    kinds = set(errors)
    return 0 if not kinds else 5 if kinds == {"unreachable"} else 3


def each_host(
    fleet: Fleet, hosts: Iterable[Host], question: Callable[[Host, Session], R], why: str,
    *, anybodys: bool = False,
) -> dict[str, R | HostError]:  # fmt: skip
    """Ask something of every host that may change it; answers in the order of the hosts.

    Not of another application's root, unless it may be ``anybodys``.
    """
    names = frozenset() if anybodys else fleet.applications
    hosts, by = list(hosts), fleet.by(reason=why)
    settings = fleet.inventory.settings
    found: dict[str, R | HostError] = {}

    def ask(host: Host) -> R:
        with open_session(host, settings, by=by) as session:
            for problem in name_problems(session.facts, names):
                raise HostError(host.name, problem.kind, problem.text)
            return question(host, session)

    def take(host: Host, answer: R | HostError) -> None:
        found[host.name] = answer

    ask_all(hosts, settings, ask, take)
    return {host.name: found[host.name] for host in hosts}


def code_of(answers: Iterable[object]) -> int:
    """0, or 5 when hosts were only unreachable, 6 when only locked, else 1."""
    kinds = {answer.kind for answer in answers if isinstance(answer, HostError)}
    if not kinds:
        return 0
    return 5 if kinds == {"unreachable"} else 6 if kinds == {"locked"} else 1


def text_of(error: HostError) -> str:
    """A host's error without the host's name."""
    return error.what + (f" ({error.hint})" if error.hint else "")
