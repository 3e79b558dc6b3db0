"""What a roll-out would do, host by host, before it does anything. Pure.

A plan is made of the hosts' facts and the wanted images. Its digest covers every decision:
which host gets which image from which state, in which wave, with which commands and limits. A
roll-out executes exactly one plan, and a host that is no longer where its plan saw it is left
alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Protocol

from fleet.errors import HostError
from fleet.inventory import Host, Settings
from fleet.preflight import Problem, Room, room_problems, state_problems, target_problems
from fleet.session import Facts
from fleet.wanted import Change, Transfer, Wanted
from fleet.waves import Wave, make_waves

SWITCH, UNCHANGED, BLOCKED, UNREACHABLE = "switch", "unchanged", "blocked", "unreachable"


class Compare(Protocol):
    """What plans ask about images."""

    def change(self, current: str | None, wanted: Wanted) -> Change:
        """Packages and files on the way from one image to another."""

    def transfer(
        self, releases: Sequence[str], current: str | None, wanted: Wanted, zstd: bool
    ) -> Transfer:
        """What a host with these releases lacks."""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What is to happen on one host.

    ``image`` is None where no image fits. ``current`` and ``generation`` are what the switch
    insists on. ``size`` in bytes on the wire (at most so many, where that is not ``exact``),
    ``room`` is what its disk must have free.
    """

    host: str
    action: str
    image: str | None
    current: str | None = None
    previous: str | None = None
    generation: int = 0
    objects: int = 0
    size: int = 0
    exact: bool = True
    room: Room = field(default_factory=Room)
    problems: tuple[Problem, ...] = ()

    @property
    def error(self) -> str:
        """Its problems in one line."""
        return "; ".join(problem.text for problem in self.problems)


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole roll-out. ``label`` is how the image was named, ``images`` its ids by target."""

    label: str
    images: Mapping[str, str]
    hosts: tuple[HostPlan, ...]
    waves: tuple[Wave, ...]
    settings: Mapping[str, Any]
    places: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 over every decision, 64 hex digits."""
        data = json.dumps(
            {**self.document(), "hosts": [_frozen(host) for host in self.hosts]},
            sort_keys=True, separators=(",", ":"),
        )  # fmt: skip
        return sha256(data.encode()).hexdigest()

    def document(self) -> dict[str, Any]:
        """The plan without its hosts, as the journal keeps it."""
        return {
            "format": 1,
            "label": self.label,
            "images": dict(self.images),
            "waves": [{"rule": wave.rule, "hosts": list(wave.hosts)} for wave in self.waves],
            "settings": dict(self.settings),
            "places": {name: list(place) for name, place in self.places.items()},
        }

    def by_name(self) -> dict[str, HostPlan]:
        """Host name -> its plan."""
        return {host.host: host for host in self.hosts}

    def count(self, action: str) -> int:
        """How many hosts have an action."""
        return sum(host.action == action for host in self.hosts)


def _frozen(host: HostPlan) -> dict[str, Any]:
    return {
        "host": host.host, "action": host.action, "image": host.image, "current": host.current,
        "generation": host.generation,
        "problems": [problem.kind for problem in host.problems],
    }  # fmt: skip


def make_plan(
    hosts: Sequence[Host],
    answers: Mapping[str, Facts | HostError],
    wanted: Sequence[Wanted],
    settings: Settings,
    compare: Compare,
    *,
    stage_only: bool = False,
    found: Mapping[str, Sequence[Problem]] | None = None,
) -> Plan:
    """The plan that brings `wanted` to `hosts`, every host of which has an answer.

    ``found`` has problems of hosts that only asking could show.
    """
    made = tuple(
        _stopped(plan_host(host, answers[host.name], wanted, compare), (found or {}).get(host.name))
        for host in hosts
    )
    label = wanted[0].label if wanted else ""
    return Plan(
        label=label,
        images={one.document.target.name: one.id for one in wanted},
        hosts=made,
        waves=make_waves(settings.waves, hosts),
        settings={**settings_document(settings), "stage_only": stage_only},
        places={host.name: (host.address or host.name, host.root, host.python) for host in hosts},
    )


def plan_host(
    host: Host, answer: Facts | HostError, wanted: Sequence[Wanted], compare: Compare
) -> HostPlan:
    """One host's part: what it gets, or why it gets nothing."""
    if isinstance(answer, HostError):
        action = UNREACHABLE if answer.kind == "unreachable" else BLOCKED
        text = answer.what + (f" ({answer.hint})" if answer.hint else "")
        return HostPlan(host.name, action, None, problems=(Problem(answer.kind, text),))
    state = answer.state
    seen = HostPlan(host.name, BLOCKED, None, state.current, state.previous, state.generation)
    chosen, problems = choose(answer, wanted)
    if chosen is None:
        return replace(seen, problems=tuple(problems))
    seen = replace(seen, image=chosen.id)
    problems = state_problems(answer, chosen.id, chosen.names)
    if problems:
        return replace(seen, problems=tuple(problems))
    if state.current == chosen.id:
        return replace(seen, action=UNCHANGED)
    transfer = compare.transfer(state.releases, state.current, chosen, answer.zstd)
    problems = room_problems(answer, transfer.room)
    return replace(
        seen, action=BLOCKED if problems else SWITCH, objects=transfer.objects,
        size=transfer.size, exact=transfer.exact, room=transfer.room, problems=tuple(problems),
    )  # fmt: skip


def _stopped(plan: HostPlan, problems: Sequence[Problem] | None) -> HostPlan:
    """A host that would be switched is blocked by what was found on it."""
    if not problems or plan.action not in (SWITCH, BLOCKED):
        return plan
    return replace(plan, action=BLOCKED, problems=(*plan.problems, *problems))


def choose(facts: Facts, wanted: Sequence[Wanted]) -> tuple[Wanted | None, list[Problem]]:
    """The image that fits a host's target best, else why none does."""
    reasons: list[list[Problem]] = []
    fitting = []
    for one in wanted:
        problems = target_problems(facts, one.needs)
        if problems:
            reasons.append(problems)
        else:
            fitting.append(one)
    if fitting:
        # The newest libc it accepts; then the name, so that the choice never varies.
        return max(fitting, key=lambda one: (_floor(one.needs.platform), one.id)), []
    if len(reasons) == 1:
        return None, reasons[0]
    targets = ", ".join(sorted(one.document.target.name for one in wanted))
    first = reasons[0][0].text if reasons else "no image is wanted"
    return None, [Problem("target", f"none of the targets {targets} fits: {first}")]


def _floor(platform: str) -> tuple[int, ...]:
    return tuple(int(part) for part in platform.split("_") if part.isdigit())


def settings_document(settings: Settings) -> dict[str, Any]:
    """The settings a roll-out depends on, as the plan's digest sees them."""
    return {
        "waves": [rule.text for rule in settings.waves],
        "max_failures": str(settings.limits.max_failures),
        "max_unreachable": str(settings.limits.max_unreachable),
        "soak": settings.soak,
        "on_halt": settings.on_halt,
        "health": [[check.text, check.timeout] for check in settings.health],
        "after_switch": list(settings.after_switch),
        "confirm_timeout": settings.confirm_timeout,
        "keep": settings.keep,
        "pins": list(settings.pins),
    }
