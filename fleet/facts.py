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
    ``name`` is the application whose root it is: its images' name, empty before the first.
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
    name: str = ""


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
    zstd: bool = False


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
    """The answer to a command or a probe. Raises LookupError, TypeError."""
    output = answer["output"]
    if not isinstance(output, str):
        raise TypeError
    # Half a character (a lone surrogate) could be neither printed nor kept.
    output = output.encode("utf-8", "backslashreplace").decode()
    status, seconds = status_in(answer["status"]), seconds_in(answer["seconds"])
    return RunResult(status, output, seconds, bool(answer["timed_out"]))


def status_in(value: Any) -> int:
    """A command's exit status, negative for a signal. Raises TypeError."""
    if type(value) is not int or abs(value) >= 1 << 31:
        raise TypeError
    return value


def drift_of(row: Any) -> HostDrift:
    """One difference as a host sends it. Raises LookupError, TypeError."""
    path, package, what = row
    if not isinstance(path, str):  # as it is: a repair gives it back
        raise TypeError
    return HostDrift(path, text_in(package), text_in(what))


def key_of(row: Any) -> tuple[str, bool]:
    """An object's name as a host sends it. Raises LookupError, TypeError."""
    sha256, executable = row
    return image_in(sha256), bool(executable)


def text_in(value: Any) -> str:
    """A host's text, without what a terminal would obey."""
    if not isinstance(value, str):
        raise TypeError
    return value if value.isprintable() else printable(value, 4096)


def number_in(value: Any) -> int:
    """A whole number a host counted; -1 stands for none. Raises TypeError."""
    if type(value) is not int or not -1 <= value < 1 << 63:
        raise TypeError
    return value


def image_in(value: Any) -> str:
    """A sha256 in hex, of an image or an object. Raises TypeError."""
    if not isinstance(value, str) or len(value) != 64 or not _HEX.issuperset(value):
        raise TypeError
    return value


def seconds_in(value: Any) -> float:
    """Seconds. Raises TypeError."""
    if type(value) not in (int, float) or not 0 <= value < 1e12:
        raise TypeError
    return float(value)


def record_in(value: Any) -> Any:
    """A record whose values are shown, never decided by."""
    if not isinstance(value, Mapping):
        raise TypeError
    return {
        text_in(name): text_in(one) if isinstance(one, str) else one for name, one in value.items()
    }


def facts_of(hello: Mapping[str, Any]) -> Facts:
    """A hello as facts. Raises LookupError, TypeError for one of another shape.

    Every value is looked at: what one host says must not break what is decided for all.
    """
    python, state = hello["python"], hello["state"]
    pending, current, previous = state["pending"], state["current"], state["previous"]
    if pending:
        back = pending["back"]
        pending = Pending(
            image_in(pending["to"]),
            None if back is None else text_in(back),
            number_in(pending["generation"]),
            bool(pending["armed"]),
            record_in(pending["by"] or {}),
        )
    clock = seconds_in(hello["clock"])
    return Facts(
        python_version=text_in(python["version"]),
        executable=text_in(python["executable"]),
        base_prefix=text_in(python["base_prefix"]),
        implementation=text_in(python["implementation"]),
        abi=text_in(python["abi"]),
        magic=text_in(python["magic"]),
        machine=text_in(hello["machine"]),
        libc=(text_in(hello["libc"][0]), text_in(hello["libc"][1])),
        free_bytes=number_in(hello["free"][0]),
        free_inodes=number_in(hello["free"][1]),
        uid=number_in(hello["uid"]),
        user=text_in(hello["user"]),
        root=text_in(hello["root"]["path"]),
        root_exists=bool(hello["root"]["exists"]),
        clock=clock,
        clock_skew=clock - time.time(),
        kill_user_processes=bool(hello["kill_user_processes"]),
        settled=text_in(hello["settled"]),
        zstd=bool(hello["zstd"]),
        state=HostState(
            generation=number_in(state["generation"]),
            current=None if current is None else image_in(current),
            previous=None if previous is None else image_in(previous),
            pending=pending or None,
            releases=tuple(image_in(one) for one in state["releases"]),
            confirmed=tuple(image_in(one) for one in state["confirmed"]),
            quarantined={image_in(one): text_in(why) for one, why in state["quarantined"].items()},
            foreign=text_in(state["foreign"]),
            last=record_in(state["last"]),
            name=text_in(state["name"]),
        ),
    )
