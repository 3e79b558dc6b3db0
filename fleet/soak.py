"""After a wave: its hosts are watched for a while, with their health checks again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from fleet.contact import ask_all, open_session
from fleet.errors import HostError
from fleet.inventory import Host
from fleet.steps import CheckFailed, Job, check_health

# Checks are this far apart, at most and at least. Seconds.
LONGEST, SHORTEST = 15.0, 0.5


def watch(
    job: Job,
    hosts: Sequence[Host],
    images: Mapping[str, str],
    seconds: float,
    *,
    stopped: Callable[[], bool],
    on_tick: Callable[[], None],
    on_left: Callable[[float], None],
    on_failed: Callable[[str, str, bool], bool],
) -> None:
    """Check `hosts` until `seconds` are over, and once more at the end.

    ``on_failed(host, reason, at_fault)`` is told once for each host: a failed check is the
    image's fault, a host that cannot be asked at the very end is not. It says whether to go on.
    Without health checks this only waits.
    """
    end = time.monotonic() + seconds
    pause = min(LONGEST, max(SHORTEST, seconds / 5))
    watched = list(hosts)
    going = True

    def ask(host: Host) -> str:
        with open_session(host, job.settings, by=job.by) as session:
            try:
                check_health(job, host, session, images[host.name])
            except CheckFailed as failure:
                return str(failure)
        return ""

    def take(host: Host, answer: str | HostError) -> None:
        nonlocal going
        lost = isinstance(answer, HostError)
        if (lost and time.monotonic() < end) or not answer:
            return
        watched.remove(host)
        reason = answer.what if isinstance(answer, HostError) else answer
        going = on_failed(host.name, reason, not lost) and going

    while going and watched and not stopped():
        until = min(end, time.monotonic() + pause)
        while time.monotonic() < until and not stopped():
            time.sleep(max(0.0, min(0.1, until - time.monotonic())))
            on_left(max(0.0, end - time.monotonic()))
            on_tick()
        if stopped():
            return
        over = time.monotonic() >= end
        if job.settings.health:
            ask_all(
                watched, job.settings, ask, take, limit=job.limit, on_tick=on_tick,
                stopped=lambda: not going,
            )  # fmt: skip
        if over:
            return
