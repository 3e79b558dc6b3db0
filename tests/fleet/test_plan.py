"""Plans and preflight, from facts alone: no host, no connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import HostError
from fleet.inventory import Host, Settings
from fleet.plan import BLOCKED, SWITCH, UNCHANGED, UNREACHABLE, Plan, choose, make_plan
from fleet.preflight import Needs, Room, remarks, room_problems, target_problems
from fleet.session import Facts, HostState, Pending
from fleet.wanted import Change, Transfer, Wanted
from fleet.waves import WaveRule

OLD, NEW = "a" * 64, "b" * 64


def state(current: str | None = OLD, generation: int = 1, **more: Any) -> HostState:
    values: dict[str, Any] = {
        "generation": generation, "current": current, "previous": None, "pending": None,
        "releases": tuple([current] if current else []), "confirmed": (), "quarantined": {},
        "foreign": "", "last": {}, **more,
    }  # fmt: skip
    return HostState(**values)


def facts(**more: Any) -> Facts:
    values: dict[str, Any] = {
        "python_version": "3.11.7", "executable": "/usr/bin/python3.11", "base_prefix": "/usr",
        "implementation": "cpython", "abi": "cp311", "magic": "a70d0d0a", "machine": "x86_64",
        "libc": ("glibc", "2.36"), "free_bytes": 10**9, "free_inodes": 10**6, "uid": 1000,
        "user": "deploy", "root": "/srv/a", "root_exists": True, "clock": 0.0, "clock_skew": 0.0,
        "kill_user_processes": False, "state": state(), "settled": "", **more,
    }  # fmt: skip
    return Facts(**values)


def wanted(image: str = NEW, needs: Needs | None = None, target: str = "default") -> Wanted:
    document = SimpleNamespace(
        id=image, name="shop", aliases=(), target=SimpleNamespace(name=target)
    )
    needs = needs or Needs("3.11", "cp311", "manylinux_2_28_x86_64", "a70d0d0a")
    return Wanted("shop:v2", cast(Any, document), cast(Any, None), needs)


class Compare:
    """Every host lacks two objects and needs a little room."""

    def __init__(self, room: Room | None = None) -> None:
        self.room = room or Room(1000, 10)

    def change(self, current: str | None, wanted: Wanted) -> Change:
        return Change({"added": [], "removed": [], "changed": []}, 0, 0, 1)

    def transfer(
        self, releases: Sequence[str], current: str | None, wanted: Wanted, zstd: bool
    ) -> Transfer:
        return Transfer(2, 500, self.room)


HOSTS = [Host(name, f"/srv/{name}", "python3") for name in ("h1", "h2", "h3")]


def plan(answers: dict[str, Facts | HostError], **more: Any) -> Plan:
    settings = more.pop("settings", Settings())
    compare = more.pop("compare", Compare())
    return make_plan(HOSTS, answers, more.pop("wanted", [wanted()]), settings, compare, **more)


def test_what_each_host_gets() -> None:
    made = plan(
        {
            "h1": facts(),
            "h2": facts(state=state(NEW, 7)),
            "h3": HostError("h3", "unreachable", "no route", "is it up?"),
        }
    )
    assert [host.action for host in made.hosts] == [SWITCH, UNCHANGED, UNREACHABLE]
    first = made.hosts[0]
    assert (first.current, first.image, first.generation) == (OLD, NEW, 1)
    assert (first.objects, first.size) == (2, 500)
    assert made.hosts[2].error == "no route (is it up?)"
    assert made.count(SWITCH) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (facts(python_version="3.12.1"), "target"),
        (facts(state=state(foreign="current is a folder")), "foreign"),
        (facts(state=state(pending=Pending(NEW, OLD, 2, True, {"who": "me"}))), "pending"),
        (facts(state=state(quarantined={NEW: "it failed"})), "quarantined"),
        (facts(free_bytes=10), "space"),
        (HostError("h1", "hostkey", "changed"), "hostkey"),
    ],
)
def test_what_stands_in_the_way(answer: Facts | HostError, kind: str) -> None:
    made = plan({"h1": answer, "h2": facts(), "h3": facts()})
    assert made.hosts[0].action == BLOCKED
    assert [problem.kind for problem in made.hosts[0].problems] == [kind]
    assert [host.action for host in made.hosts[1:]] == [SWITCH, SWITCH]


def test_the_digest_covers_every_decision_and_nothing_else() -> None:
    answers: dict[str, Facts | HostError] = {"h1": facts(), "h2": facts(), "h3": facts()}
    digest = plan(answers).digest
    assert plan(dict(reversed(answers.items()))).digest == digest
    # What only informs does not count.
    told = {**answers, "h1": facts(free_bytes=2 * 10**9, clock_skew=3.0)}
    assert plan(told).digest == digest
    two_waves = (WaveRule.parse(1), WaveRule.parse("100%"))
    elsewhere = [replace(HOSTS[0], root="/srv/x"), *HOSTS[1:]]
    others = [
        plan({**answers, "h2": facts(state=state(OLD, 2))}),
        plan({**answers, "h2": facts(state=state(None, 1))}),
        plan({**answers, "h2": HostError("h2", "unreachable", "x")}),
        plan(answers, wanted=[wanted("c" * 64)]),
        plan(answers, stage_only=True),
        plan(answers, settings=replace(Settings(), health=())),
        plan(answers, settings=replace(Settings(), after_switch=("true",))),
        plan(answers, settings=replace(Settings(), waves=two_waves)),
        plan(answers, settings=replace(Settings(), on_halt="keep")),
        make_plan(elsewhere, answers, [wanted()], Settings(), Compare()),
    ]  # fmt: skip
    assert [other.digest == digest for other in others] == [False] * 5 + [True] + [False] * 4


currents = st.sampled_from([None, OLD, NEW, "c" * 64])
answers_st = st.one_of(
    st.builds(lambda current, generation: facts(state=state(current, generation)),
              currents, st.integers(0, 5)),
    st.builds(lambda kind: HostError("h", kind, "x"), st.sampled_from(["unreachable", "auth"])),
    st.just(facts(machine="aarch64")),
)  # fmt: skip


@given(st.lists(answers_st, min_size=3, max_size=3))
def test_a_plan_switches_exactly_the_hosts_that_can_and_need_it(
    given_answers: list[Facts | HostError],
) -> None:
    answers = {host.name: answer for host, answer in zip(HOSTS, given_answers, strict=True)}
    made = plan(answers)
    assert [host.host for host in made.hosts] == [host.name for host in HOSTS]
    for one in made.hosts:
        answer = answers[one.host]
        if isinstance(answer, HostError):
            assert one.action == (UNREACHABLE if answer.kind == "unreachable" else BLOCKED)
        elif answer.machine != "x86_64":
            assert (one.action, one.image) == (BLOCKED, None)
        else:
            same = answer.state.current == NEW
            assert one.action == (UNCHANGED if same else SWITCH)
            assert (one.current, one.generation) == (answer.state.current, answer.state.generation)
            assert (one.size > 0) != same
        assert bool(one.error) == (one.action in (BLOCKED, UNREACHABLE))
    assert plan(answers).digest == made.digest


@pytest.mark.parametrize(
    ("change", "needs", "text"),
    [
        ({}, {}, ""),
        ({"python_version": "3.11.2"}, {}, ""),  # another patch release is fine
        ({"python_version": "3.12.1", "abi": "cp312"}, {}, "Python 3.12.1"),
        ({"abi": "cp311d"}, {}, "ABI cp311d"),
        ({"abi": "cp311d"}, {"abi": "none"}, ""),
        ({"magic": "00000000"}, {}, "bytecode magic"),
        ({"magic": "00000000"}, {"magic": ""}, ""),
        ({"machine": "aarch64"}, {}, "machine aarch64, the image is for x86_64"),
        ({"libc": ("glibc", "2.27")}, {}, "glibc 2.27, the image needs glibc 2.28"),
        ({"libc": ("glibc", "2.100")}, {}, ""),
        ({"libc": ("musl", "1.2.4")}, {}, "musl 1.2.4, the image needs glibc 2.28"),
        ({"libc": ("musl", "1.2.4")}, {"platform": "musllinux_1_2_x86_64"}, ""),
        ({"libc": ("", "")}, {}, "no libc that was recognised"),
        ({"libc": ("glibc", "2.16")}, {"platform": "manylinux2014_x86_64"}, "needs glibc 2.17"),
        ({"libc": ("", "")}, {"platform": "linux_x86_64"}, ""),
        ({"machine": "sparc"}, {"platform": "any"}, ""),
        ({}, {"platform": "macosx_11_0_arm64"}, "is not Linux"),
    ],
)
def test_whether_a_host_can_run_an_image(
    change: dict[str, Any], needs: dict[str, str], text: str
) -> None:
    base = Needs("3.11", "cp311", "manylinux_2_28_x86_64", "a70d0d0a")
    problems = target_problems(facts(**change), replace(base, **needs))
    assert len(problems) == bool(text)
    assert not text or text in problems[0].text


@pytest.mark.row("A9")
def test_room_is_counted_in_blocks_and_in_inodes() -> None:
    room = Room(5000, 40)
    assert room_problems(facts(free_bytes=5000, free_inodes=40), room) == []
    assert "5000 bytes, 4999 are free" in room_problems(facts(free_bytes=4999), room)[0].text
    assert "40 inodes, 39 are free" in room_problems(facts(free_inodes=39), room)[0].text
    # A file system without a limit says -1.
    assert room_problems(facts(free_inodes=-1), room) == []


def test_of_several_targets_the_newest_that_fits_is_chosen() -> None:
    old = wanted("1" * 64, Needs("3.11", "cp311", "manylinux_2_17_x86_64"), "old")
    new = wanted("2" * 64, Needs("3.11", "cp311", "manylinux_2_34_x86_64"), "new")
    other = wanted("3" * 64, Needs("3.12", "cp312", "manylinux_2_17_x86_64"), "other")
    assert choose(facts(), [old, new, other])[0] == new
    assert choose(facts(libc=("glibc", "2.28")), [old, new, other])[0] == old
    chosen, problems = choose(facts(machine="aarch64"), [old, new, other])
    assert chosen is None
    assert "none of the targets new, old, other fits" in problems[0].text


@pytest.mark.row("Z1")
def test_remarks_stop_nothing() -> None:
    assert remarks(facts()) == []
    told = remarks(facts(clock_skew=-3.2e8, kill_user_processes=True, settled="went back"))
    assert ["clock" in told[0], "KillUserProcesses" in told[1], told[2]] == [
        True,
        True,
        "went back",
    ]
    made = plan({name: facts(clock_skew=3.2e8, clock=1e9) for name in ("h1", "h2", "h3")})
    assert made.count(SWITCH) == 3
