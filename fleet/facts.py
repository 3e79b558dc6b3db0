"""What a host says about itself and about what was done on it, as values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.errors import printable

_HEX = frozenset("0123456789abcdef")


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


def _text(value: Any) -> str:
    """A host's text, without what a terminal would obey."""
    if not isinstance(value, str):
        raise TypeError
    return value if value.isprintable() else printable(value, 4096)


def _number(value: Any) -> int:
    if type(value) is not int or not -1 <= value < 1 << 63:
        raise TypeError
    return value


def _image(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 64 or not _HEX.issuperset(value):
        raise TypeError
    return value


def _clock(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e12:
        raise TypeError
    return float(value)


def _clean(value: Any) -> Any:
    """A record whose values are shown, never decided by."""
    if not isinstance(value, Mapping):
        raise TypeError
    return {_text(name): _text(one) if isinstance(one, str) else one for name, one in value.items()}


def facts_of(hello: Mapping[str, Any]) -> Facts:
    """A hello as facts. Raises LookupError, TypeError for one of another shape.

    Every value is looked at: what one host says must not break what is decided for all.
    """
    python, state = hello["python"], hello["state"]
    pending, current, previous = state["pending"], state["current"], state["previous"]
    if pending:
        back = pending["back"]
        pending = Pending(
            _image(pending["to"]), None if back is None else _text(back),
            _number(pending["generation"]), bool(pending["armed"]), _clean(pending["by"] or {}),
        )  # fmt: skip
    clock = _clock(hello["clock"])
    return Facts(
        python_version=_text(python["version"]),
        executable=_text(python["executable"]),
        base_prefix=_text(python["base_prefix"]),
        implementation=_text(python["implementation"]),
        abi=_text(python["abi"]),
        magic=_text(python["magic"]),
        machine=_text(hello["machine"]),
        libc=(_text(hello["libc"][0]), _text(hello["libc"][1])),
        free_bytes=_number(hello["free"][0]),
        free_inodes=_number(hello["free"][1]),
        uid=_number(hello["uid"]),
        user=_text(hello["user"]),
        root=_text(hello["root"]["path"]),
        root_exists=bool(hello["root"]["exists"]),
        clock=clock,
        clock_skew=clock - time.time(),
        kill_user_processes=bool(hello["kill_user_processes"]),
        settled=_text(hello["settled"]),
        state=HostState(
            generation=_number(state["generation"]),
            current=None if current is None else _image(current),
            previous=None if previous is None else _image(previous),
            pending=pending or None,
            releases=tuple(_image(one) for one in state["releases"]),
            confirmed=tuple(_image(one) for one in state["confirmed"]),
            quarantined={_image(one): _text(why) for one, why in state["quarantined"].items()},
            foreign=_text(state["foreign"]),
            last=_clean(state["last"]),
        ),
    )
