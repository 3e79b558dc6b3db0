"""What a host says about itself and about what was done on it, as values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Proof:
    """What a host gets to check an image's signature itself.

    ``signers`` is the text of a trust or allowed_signers file, ``fleet`` the fleet a plain list
    stands for, ``name`` the image's, ``signature`` the signed statements (may be empty).
    """

    name: str
    fleet: str
    signers: str
    signature: str
    required: bool


@dataclass(frozen=True, slots=True)
class Pending:
    """A switch that waits for its confirmation. ``armed``: its revert timer lives."""

    to: str
    back: str | None
    generation: int
    armed: bool
    by: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HostState:
    """Where a host stands. Image ids are 64 hex digits; the generation orders everything.

    ``foreign`` says what stands in the place of ``current`` that is not ours, else empty.
    ``confirmed`` is in the order of confirmation. ``last`` is the last change: generation,
    what (confirmed, reverted, rolled back, adopted), id, reason.
    """

    generation: int
    current: str | None
    previous: str | None
    pending: Pending | None
    releases: tuple[str, ...]
    confirmed: tuple[str, ...]
    quarantined: Mapping[str, str]
    foreign: str
    last: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a host said in its hello. Sizes in bytes; -1 inodes: the file system has no limit."""

    python_version: str
    executable: str
    base_prefix: str
    implementation: str
    abi: str
    magic: str
    machine: str
    libc: tuple[str, str]
    free_bytes: int
    free_inodes: int
    uid: int
    user: str
    root: str
    root_exists: bool
    clock: float
    clock_skew: float
    kill_user_processes: bool
    state: HostState
    settled: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """A command or a probe on the host. status 0 is success; output is as the host sent it."""

    status: int
    output: str
    seconds: float
    timed_out: bool

    @property
    def ok(self) -> bool:
        """Whether it succeeded in time."""
        return self.status == 0 and not self.timed_out


@dataclass(frozen=True, slots=True)
class HostDrift:
    """One difference of a release; what: missing, added, content, size, mode, type."""

    path: str
    package: str
    what: str


def run_result(answer: Mapping[str, Any]) -> RunResult:
    """The answer to a command or a probe."""
    return RunResult(
        int(answer["status"]), str(answer["output"]), float(answer["seconds"]),
        bool(answer["timed_out"]),
    )  # fmt: skip


def facts_of(hello: Mapping[str, Any]) -> Facts:
    """A hello as facts. Raises LookupError, TypeError for one of another shape."""
    python, state = hello["python"], hello["state"]
    pending = state["pending"]
    if pending:
        pending = Pending(
            pending["to"], pending["back"], pending["generation"], pending["armed"],
            pending["by"] or {},
        )  # fmt: skip
    return Facts(
        python_version=python["version"],
        executable=python["executable"],
        base_prefix=python["base_prefix"],
        implementation=python["implementation"],
        abi=python["abi"],
        magic=python["magic"],
        machine=hello["machine"],
        libc=(hello["libc"][0], hello["libc"][1]),
        free_bytes=hello["free"][0],
        free_inodes=hello["free"][1],
        uid=hello["uid"],
        user=hello["user"],
        root=hello["root"]["path"],
        root_exists=hello["root"]["exists"],
        clock=hello["clock"],
        clock_skew=hello["clock"] - time.time(),
        kill_user_processes=hello["kill_user_processes"],
        settled=hello["settled"],
        state=HostState(
            generation=state["generation"],
            current=state["current"],
            previous=state["previous"],
            pending=pending,
            releases=tuple(state["releases"]),
            confirmed=tuple(state["confirmed"]),
            quarantined=state["quarantined"],
            foreign=state["foreign"],
            last=state["last"],
        ),
    )
