from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.quantity import Share
from fleet.waves import Limits, Wave, WaveRule, check_rules, make_waves
from images.errors import UsageError


@dataclass(frozen=True)
class Named:
    name: str
    labels: frozenset[str] = frozenset()


def hosts(count: int, **labels: list[int]) -> list[Named]:
    return [
        Named(f"h{at}", frozenset(label for label, members in labels.items() if at in members))
        for at in range(count)
    ]


def waves(rules: list[object], fleet: list[Named]) -> list[tuple[str, ...]]:
    return [wave.hosts for wave in make_waves([WaveRule.parse(rule) for rule in rules], fleet)]


def test_a_label_a_share_and_the_rest() -> None:
    found = make_waves(
        [WaveRule.parse(rule) for rule in ("label:canary", "25%", "100%")],
        hosts(10, canary=[7]),
    )
    assert found == (
        Wave("label:canary", ("h7",)),
        Wave("25%", ("h0", "h1")),  # 25 % of 10 hosts is 3, the canary among them
        Wave("100%", ("h2", "h3", "h4", "h5", "h6", "h8", "h9")),
    )


def test_canaries_never_share_a_wave_even_when_theirs_comes_last() -> None:
    assert waves(["50%", "100%", "label:canary"], hosts(4, canary=[0])) == [
        ("h1", "h2"), ("h3",), ("h0",),
    ]  # fmt: skip


def test_a_host_of_two_selectors_belongs_to_the_first() -> None:
    assert waves(["label:a", "label:b", "100%"], hosts(3, a=[1], b=[0, 1])) == [
        ("h1",), ("h0",), ("h2",),
    ]  # fmt: skip


def test_shares_are_rounded_up_and_a_wave_has_at_least_one_host() -> None:
    assert [len(wave) for wave in waves(["1%", "34%", "100%"], hosts(10))] == [1, 3, 6]
    # Five canaries are more than a quarter: the share still moves on by one host.
    found = waves(["label:c", "25%", "100%"], hosts(9, c=[0, 1, 2, 3, 4]))
    assert [len(wave) for wave in found] == [5, 1, 3]


def test_numbers_are_hosts_of_that_wave() -> None:
    assert [len(wave) for wave in waves([1, 3, "100%"], hosts(10))] == [1, 3, 6]


def test_an_empty_wave_is_left_out() -> None:
    assert waves(["label:canary", "100%"], hosts(2)) == [("h0", "h1")]
    assert waves(["100%"], []) == []


def test_waves_that_leave_hosts_over_are_refused() -> None:
    with pytest.raises(UsageError, match="h2, h3, h4 and 1 more"):
        waves([2], hosts(6))


def test_rules_are_checked_against_the_fleet() -> None:
    with pytest.raises(UsageError, match=r"the label 'canery' .*'canary'"):
        check_rules([WaveRule.parse("label:canery"), WaveRule.parse("100%")], hosts(2, canary=[0]))
    with pytest.raises(UsageError, match="does not grow"):
        check_rules([WaveRule.parse(rule) for rule in ("50%", "20%", "100%")], hosts(5))
    for wrong in ("0%", 0, -1, True, "101%", "", None, 1.5, "-5%"):
        with pytest.raises(ValueError, match=r"expected|at least one"):
            WaveRule.parse(wrong)


labels = st.frozensets(st.sampled_from(["canary", "eu", "us"]))
fleets = st.lists(labels, max_size=40).map(
    lambda sets: [Named(f"h{at}", own) for at, own in enumerate(sets)]
)
shares = st.lists(st.integers(1, 99), max_size=3, unique=True).map(
    lambda values: [f"{value}%" for value in sorted(values)]
)


@given(fleets, shares, st.permutations(["label:canary", "label:eu", 2]))
def test_every_host_is_in_exactly_one_wave_and_canaries_are_alone(
    fleet: list[Named], percents: list[str], others: list[object]
) -> None:
    rules = [*others[:2], *percents, others[2], "100%"]
    found = make_waves([WaveRule.parse(rule) for rule in rules], fleet)
    placed = [name for wave in found for name in wave.hosts]
    assert sorted(placed) == sorted(host.name for host in fleet)
    assert all(wave.hosts for wave in found)
    by_name = {host.name: host for host in fleet}
    selectors = {rule for rule in rules if str(rule).startswith("label:")}
    for wave in found:
        reserved = [bool(by_name[name].labels & {"canary", "eu"}) for name in wave.hosts]
        assert all(reserved) if wave.rule in selectors else not any(reserved)
        indexes = [int(name[1:]) for name in wave.hosts]
        assert indexes == sorted(indexes)
    # The same again is the same: order never depends on anything but the input.
    assert found == make_waves([WaveRule.parse(rule) for rule in rules], fleet)


@given(st.integers(1, 500), shares)
def test_after_a_share_wave_at_least_that_share_has_had_its_turn(
    count: int, percents: list[str]
) -> None:
    fleet = hosts(count)
    done = 0
    found = make_waves([WaveRule.parse(rule) for rule in [*percents, "100%"]], fleet)
    for wave in found:
        before, done = done, done + len(wave.hosts)
        share = Fraction(wave.rule[:-1])
        assert done * 100 >= share * count
        # ... and not one host more than rounding up and the least of one ask for.
        assert len(wave.hosts) == 1 or (done - 1) * 100 < share * count
        assert before < done


LIMIT = {"failed": 0, "unreachable": 0, "wave_failed": 0, "wave_unreachable": 0, "wave_size": 5,
         "total": 20}  # fmt: skip


@pytest.mark.parametrize(
    ("failures", "unreachable", "counts", "stops"),
    [
        (1, 0, {}, None),
        (1, 0, {"failed": 1}, "failures"),
        (2, 0, {"failed": 1}, None),
        (2, 0, {"failed": 2}, "failures"),
        ("10%", 0, {"failed": 1, "wave_failed": 1}, "failures"),  # 10 % of the wave of 5 is 1
        ("10%", 0, {"failed": 1}, None),  # in an earlier wave: 10 % of 20 is 2
        ("10%", 0, {"failed": 2}, "failures"),
        ("50%", 0, {"failed": 2, "wave_failed": 2}, None),
        ("50%", 0, {"failed": 3, "wave_failed": 3}, "failures"),
        (1, 0, {"unreachable": 1}, "unreachable"),  # 0 means none, and they count apart
        (1, 1, {"unreachable": 1}, None),
        (1, 1, {"unreachable": 2}, "unreachable"),
        (1, "5%", {"unreachable": 1, "wave_unreachable": 1}, None),
        (1, "5%", {"unreachable": 2}, "unreachable"),
        (1, "100%", {"unreachable": 20, "wave_unreachable": 5}, None),
    ],
)
def test_limits(
    failures: object, unreachable: object, counts: dict[str, int], stops: str | None
) -> None:
    limits = Limits(Share.parse(failures), Share.parse(unreachable))
    assert limits.reached(**{**LIMIT, **counts}) == stops
