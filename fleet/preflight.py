"""Whether an image can run on a host, decided from the host's facts. Pure.

A patch release of Python other than the one that compiled the bytecode is fine and only shown;
another minor version, ABI or bytecode magic, another machine, an older or another libc, too few
blocks or inodes, or a root with something foreign in it are problems.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from fleet.session import Facts

# Clocks that differ by more are worth a word; nothing is ordered by them. Seconds.
SKEW = 60.0

_OLD_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_PLATFORM = re.compile(
    r"(?:(manylinux|musllinux)_(\d+)_(\d+)|(manylinux1|manylinux2010|manylinux2014)|linux)_(\w+)"
)


@dataclass(frozen=True, slots=True)
class Needs:
    """What an image asks of a host. ``magic`` is its bytecode's, in hex, empty without any."""

    python: str
    abi: str
    platform: str
    magic: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """What a roll-out takes on a host's disk: bytes in whole blocks, and inodes."""

    size: int = 0
    inodes: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason not to go on. ``kind`` as in `fleet.errors.HostError`."""

    kind: str
    text: str


def target_problems(facts: Facts, needs: Needs) -> list[Problem]:
    """What of a host's interpreter, machine or libc does not fit an image."""
    found = []
    minor = ".".join(facts.python_version.split(".")[:2])
    if minor != needs.python:
        found.append(f"Python {facts.python_version} ({facts.executable}), "
                     f"the image is for {needs.python}")  # fmt: skip
    elif needs.abi not in ("none", facts.abi):
        found.append(f"ABI {facts.abi} ({facts.executable}), the image is for {needs.abi}")
    elif needs.magic and facts.magic != needs.magic:
        found.append(f"bytecode magic {facts.magic} ({facts.executable}), "
                     f"the image has {needs.magic}")  # fmt: skip
    found += _platform_problems(facts, needs.platform)
    return [Problem("target", text) for text in found]


def _platform_problems(facts: Facts, platform: str) -> list[str]:
    match = _PLATFORM.fullmatch(platform)
    if not match:
        return [] if platform == "any" else [f"platform {platform} is not Linux"]
    family, major, minor, old, machine = match.groups()
    found = []
    if facts.machine != machine:
        found.append(f"machine {facts.machine}, the image is for {machine}")
    if family or old:
        wanted = "musl" if family == "musllinux" else "glibc"
        least = _OLD_GLIBC[old] if old else (int(major), int(minor))
        name, version = facts.libc
        shown = f"{name} {version}".strip() or "no libc that was recognised"
        if name != wanted or _numbers(version) < least:
            found.append(f"{shown}, the image needs {wanted} {least[0]}.{least[1]}")
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def room_problems(facts: Facts, room: Room) -> list[Problem]:
    """Too few free bytes or inodes, before anything is written."""
    found = []
    if room.size > facts.free_bytes:
        found.append(f"{facts.root}: needs {room.size} bytes, {facts.free_bytes} are free")
    if facts.free_inodes >= 0 and room.inodes > facts.free_inodes:
        found.append(f"{facts.root}: needs {room.inodes} inodes, {facts.free_inodes} are free")
    return [Problem("space", text) for text in found]


def name_problems(facts: Facts, names: Collection[str]) -> list[Problem]:
    """The root is another application's: its images have none of these names."""
    name = facts.state.name
    if not names or name in ("", *names):
        return []
    expected = " or ".join(ascii(one) for one in sorted(names))
    text = f"{facts.root} is the root of {name!a}, expected {expected}"
    return [Problem("root", f"{text} (wain fleet adopt gives it to this one)")]


def state_problems(
    facts: Facts, image: str | None = None, names: Collection[str] = ()
) -> list[Problem]:
    """What stands in the way on the host itself: another application's root, something foreign,
    a switch, a quarantine.
    """
    found = name_problems(facts, names)
    state = facts.state
    if state.foreign:
        found.append(Problem("foreign", f"{state.foreign} (wain fleet adopt accepts it)"))
    if state.pending:
        who = state.pending.by.get("who") or "somebody"
        found.append(
            Problem("pending", f"a switch to {state.pending.to[:12]} by {who} is unconfirmed")
        )
    if image and image in state.quarantined:
        found.append(
            Problem("quarantined", f"image {image[:12]} is quarantined here: "
                    f"{state.quarantined[image]}")
        )  # fmt: skip
    return found


def remarks(facts: Facts) -> list[str]:
    """What is worth knowing and stops nothing."""
    found = []
    if abs(facts.clock_skew) > SKEW:
        found.append(f"its clock is {facts.clock_skew:+.0f} s off")
    if facts.kill_user_processes:
        found.append(
            "logind ends detached processes here (KillUserProcesses): the revert timer dies with "
            f"the connection, an unconfirmed switch goes back at the next contact "
            f"(loginctl enable-linger {facts.user} keeps it)"
        )
    if facts.settled:
        found.append(facts.settled)
    return found
