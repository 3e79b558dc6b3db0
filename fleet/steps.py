"""What several kinds of work on a host share: the job they belong to, steps, checks, outcomes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from fleet.contact import Held
from fleet.errors import HostError, printable
from fleet.inventory import Check, Host, Settings
from fleet.journal import StepRow, now
from fleet.session import RunResult, Session
from images.duration import format_duration

SUCCEEDED, UNCHANGED, UNTOUCHED = "succeeded", "unchanged", "untouched"
REVERTED, FAILED, UNREACHABLE = "reverted", "failed", "unreachable"

# What of a command's output the journal keeps. Characters.
KEPT_OUTPUT = 4000
# A URL that is not there yet is asked for again after so long. Seconds.
ASK_AGAIN = 0.3
# One question to a URL waits no longer than this. Seconds.
ONE_ANSWER = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How work on one host ended. ``kind`` says what went wrong, as `HostError.kind` does.

    ``image``, ``previous`` and ``generation`` are where the host stands now, as far as known;
    ``switched`` whether it was ever moved; ``at_fault`` whether the image itself failed there.
    """

    host: str
    state: str
    image: str | None = None
    previous: str | None = None
    generation: int = 0
    bytes_sent: int = 0
    bytes_overhead: int = 0
    seconds: float = 0.0
    error: str = ""
    kind: str = ""
    switched: bool = False
    at_fault: str = ""


StepListener = Callable[[str, str, StepRow | None], None]
"""host, step, and how it ended (None: it begins). Called from the host's thread."""


@dataclass
class Job:
    """What all hosts of one roll-out share. Threads only read it, and call ``on_step``."""

    settings: Settings
    by: Mapping[str, str]
    on_step: StepListener = lambda host, step, row: None
    cancelled: threading.Event = field(default_factory=threading.Event)
    held: Held | None = None  # sessions of the survey that may be gone on with
    names: frozenset[str] = frozenset()  # of the images whose hosts these are; empty: any

    @property
    def limit(self) -> float:
        """What a whole host may take at most, whatever its steps say. Seconds."""
        settings = self.settings
        commands = len(settings.health) + 2 * len(settings.after_switch)
        checks = sum(check.timeout or settings.step_timeout for check in settings.health)
        steps = (6 + commands) * settings.step_timeout + checks
        return steps + 4 * settings.connect_timeout + 2 * settings.confirm_timeout


class CheckFailed(Exception):
    """A hook or a health check failed on a host; ``args[0]`` says which and how."""


def is_unreachable(error: HostError, answered: bool) -> bool:
    """Whether a host could not be asked at all, which counts apart from failures."""
    return error.kind == "unreachable" or (error.kind == "timeout" and not answered)


@contextmanager
def step(job: Job, host: str, name: str) -> Iterator[list[str]]:
    """A step of a host, reported as it begins and ends. What the list gets is its output."""
    if job.cancelled.is_set():
        raise HostError(host, "cancelled", "stopped before " + name)
    job.on_step(host, name, None)
    began, at = time.monotonic(), now()
    output: list[str] = []
    outcome = "ok"
    try:
        yield output
    except HostError as error:
        outcome = f"{error.kind}: {error.what}"
        raise
    except CheckFailed as error:
        outcome = str(error)
        raise
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
        raise
    finally:
        seconds = round(time.monotonic() - began, 3)
        text = "\n".join(output)[-KEPT_OUTPUT:]
        job.on_step(host, name, StepRow(host, name, at, seconds, outcome, text))


def run_hooks(job: Job, host: Host, session: Session, image: str) -> None:
    """The commands after a switch, in order. Raises CheckFailed at the first that fails."""
    for command in job.settings.after_switch:
        with step(job, host.name, "after-switch") as output:
            result = session.run(
                command, job.settings.step_timeout, env_file=host.env_file or "", image_id=image
            )
            output.append(f"$ {command}\n{result.output}")
            _judge(f"after-switch {command!a}", result, job.settings.step_timeout)


def check_health(job: Job, host: Host, session: Session, image: str) -> None:
    """All health checks, in order. Raises CheckFailed at the first that fails."""
    for check in job.settings.health:
        with step(job, host.name, "health") as output:
            result, allowed = _check(job, host, session, image, check)
            output.append(f"$ {check.text}\n{result.output}")
            _judge(f"health {check.text!a}", result, allowed)


def _check(
    job: Job, host: Host, session: Session, image: str, check: Check
) -> tuple[RunResult, float]:
    allowed = check.timeout or job.settings.step_timeout
    if check.command:
        result = session.run(check.command, allowed, env_file=host.env_file or "", image_id=image)
        return result, allowed
    end = time.monotonic() + allowed
    while True:
        left = end - time.monotonic()
        seconds = max(0.1, min(left, ONE_ANSWER))
        result = session.http(check.http, seconds, env_file=host.env_file or "")
        if result.ok or time.monotonic() + ASK_AGAIN >= end or job.cancelled.is_set():
            return result, allowed
        time.sleep(ASK_AGAIN)


def _judge(what: str, result: RunResult, allowed: float) -> None:
    if result.ok:
        return
    lines = [line for line in result.output.splitlines() if line.strip()]
    last = f": {printable(lines[-1], 160)}" if lines else ""
    if result.timed_out:
        raise CheckFailed(f"{what} did not end within {format_duration(allowed)}{last}")
    raise CheckFailed(f"{what} failed, status {result.status}{last}")
