"""The order in which hosts get their turn, and when to stop. Pure.

Rules, in order:

1. The list of hosts is frozen when the roll-out begins; waves are made of it once.
2. A wave is given by a selector (``label:canary``), a number (that many hosts) or a share
   (cumulative, of all hosts of the roll-out).
3. A host that any selector wave names belongs to the first such wave and to no other, whatever
   the order of the waves: canaries never share a wave with others.
4. Shares are rounded up and a wave takes at least one host while hosts remain. An empty wave
   is left out.
5. Every host is in exactly one wave; waves that leave a host over are an error.
6. Inside a wave hosts keep the order of the inventory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fleet.quantity import Share
from fleet.selector import Selectable, Selector
from images.errors import UsageError

DEFAULT_WAVES = ("100%",)
NONE, ONE = Share(count=0), Share(count=1)


@dataclass(frozen=True, slots=True)
class WaveRule:
    """One item of ``waves`` as written: a selector, or a share (a number or a percentage)."""

    text: str
    share: Share | None
    selector: Selector | None

    @classmethod
    def parse(cls, value: object) -> WaveRule:
        """From ``"label:canary"``, ``3`` or ``"25%"``. ValueError says what was expected."""
        if isinstance(value, str) and value.strip() and value.strip(" \t+-.%0123456789"):
            return cls(value, None, Selector.parse(value))
        share = Share.parse(value)
        if share.count == 0 or share.percent == 0:
            raise ValueError(f"a wave needs at least one host, found {value!a}")
        return cls(str(value), share, None)


@dataclass(frozen=True, slots=True)
class Wave:
    """A frozen, ordered set of host names, and the rule that made it."""

    rule: str
    hosts: tuple[str, ...]


def check_rules(rules: Sequence[WaveRule], hosts: Sequence[Selectable]) -> None:
    """Raise UsageError when `rules` name unknown hosts, shrink, or leave a host of `hosts` out."""
    largest = None
    for rule in rules:
        if rule.selector is not None:
            rule.selector.check(hosts)
        elif rule.share is not None and rule.share.percent is not None:
            if largest is not None and rule.share.percent <= largest:
                raise UsageError(
                    "waves", f"the share {rule.text} does not grow: shares count all hosts so far"
                )
            largest = rule.share.percent
    make_waves(rules, hosts)


def make_waves(rules: Sequence[WaveRule], hosts: Sequence[Selectable]) -> tuple[Wave, ...]:
    """Divide `hosts` into waves. UsageError when the rules leave a host over."""
    reserved = _reserve(rules, hosts)
    free = [host.name for host in hosts if host.name not in reserved]
    waves: list[Wave] = []
    placed = 0
    for at, rule in enumerate(rules):
        if rule.share is None:
            names = [host.name for host in hosts if reserved.get(host.name) == at]
        else:
            wanted = rule.share.of(len(hosts))
            if rule.share.percent is not None:
                wanted -= placed
            size = max(1, wanted)
            names, free = free[:size], free[size:]
        placed += len(names)
        if names:
            waves.append(Wave(rule.text, tuple(names)))
    if free:
        shown = ", ".join(free[:3]) + (f" and {len(free) - 3} more" if len(free) > 3 else "")
        raise UsageError("waves", f"leave out {shown}", 'end them with "100%"')
    return tuple(waves)


def _reserve(rules: Sequence[WaveRule], hosts: Sequence[Selectable]) -> Mapping[str, int]:
    """Host name -> index of the first selector rule that names it."""
    reserved: dict[str, int] = {}
    for at, rule in enumerate(rules):
        if rule.selector is not None:
            for name in rule.selector.select(hosts):
                reserved.setdefault(name, at)
    return reserved


StopCause = Literal["failures", "unreachable"]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a roll-out stops: `max_failures` reached, or more than `max_unreachable`.

    A share counts once for each wave (of its hosts) and once for the whole, and either stops.
    """

    max_failures: Share = ONE
    max_unreachable: Share = NONE

    def reached(
        self, *, failed: int, unreachable: int, wave_failed: int, wave_unreachable: int,
        wave_size: int, total: int,
    ) -> StopCause | None:  # fmt: skip
        """What stops the roll-out now, if anything. Counts include the current wave's."""
        for bad, size in ((wave_failed, wave_size), (failed, total)):
            if bad and bad >= max(1, self.max_failures.of(size)):
                return "failures"
        for lost, size in ((wave_unreachable, wave_size), (unreachable, total)):
            if lost > self.max_unreachable.of(size):
                return "unreachable"
        return None
