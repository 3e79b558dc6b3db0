"""A roll-out as people see it: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from fleet.control import Control
from fleet.result import Event, Result, hosts_text
from fleet.steps import UNTOUCHED
from wain.output import Output, human_bytes

if TYPE_CHECKING:
    from wain.fleet_live import Live

# Plain lines tell of every host up to so many; beyond, a line now and then counts them.
FEW = 40
# Seconds between such lines.
INTERVAL = 5.0


class Display:
    """Takes the events of a roll-out. A reader that has gone stops the roll-out, in order."""

    def __init__(self, out: Output, control: Control, hosts: int) -> None:
        self._out = out
        self._control = control
        self._hosts = hosts
        self._done = 0
        self._counted = 0.0
        self._live: Live | None = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        try:
            self._show(event)
        except BrokenPipeError:
            # What is under way settles; further lines go nowhere.
            self._control.interrupt()
            quiet = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for the rest of the process
            sys.stdout, sys.stderr = quiet, quiet

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the roll-out runs."""
        if self._out.stream.isatty() and not self._out.quiet:
            from wain.fleet_live import Live

            self._live = Live(self._out.stream)
        try:
            yield
        finally:
            if self._live:
                self._live.close()
                self._live = None

    def ask(self, question: str) -> bool:
        """Ask for approval; Ctrl-C meanwhile means no."""
        if self._live:
            self._live.pause()
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return self._out.confirm(question)
        except KeyboardInterrupt:
            self._control.interrupt()
            return False
        finally:
            signal.signal(signal.SIGINT, before)

    def _show(self, event: Event) -> None:
        if self._live:
            self._live.show(event)
            return
        if event.kind == "wave":
            self._out.say(f"wave {event.wave + 1}: {event.text}, {hosts_text(event.total)}")
        elif event.kind == "host":
            self._done += 1
            if self._hosts <= FEW:
                self._out.say(f"  {event.host}: {event.text}")
            elif time.monotonic() > self._counted + INTERVAL or self._done == self._hosts:
                self._counted = time.monotonic()
                self._out.say(f"  {self._done} of {hosts_text(self._hosts)} done")
        elif event.kind == "step":
            self._out.detail(f"  {event.host}: {event.text} …")
        elif event.kind == "soak":
            self._out.progress("Soaking", event.done, event.total)
        elif event.kind == "halt":
            self._out.say(f"stopping: {event.text}")
        elif event.kind == "back":
            self._out.say(f"going back ({event.text}): {hosts_text(event.total)}")
        else:
            self._out.say(event.text)


@contextlib.contextmanager
def signals(control: Control) -> Iterator[None]:
    """Ctrl-C, TERM and HUP stop in order; a second one stops at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        count = control.interrupt()
        text = (
            "stopping: no further host is started, those at work finish (again: stop them too)"
            if count == 1
            else "stopping the hosts at work: their timers take them back"
        )
        with contextlib.suppress(OSError):
            os.write(2, f"\nwain: {text}\n".encode())

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before: dict[int, Any] = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_result(
    out: Output, result: Result, name_of: Callable[[str | None], str],
    again: str = "`wain fleet resume` goes on",
) -> None:  # fmt: skip
    """The table at the end, errors in full below it, and what goes on from here."""
    wave_of = {name: at for at, wave in enumerate(result.waves, 1) for name in wave["hosts"]}
    names = {image: name_of(image) for image in {o.image for o in result.hosts.values()}}
    rows = []
    for name, outcome in result.hosts.items():
        rows.append(
            [name, wave_of.get(name, ""), outcome.state, names[outcome.image],
             human_bytes(outcome.bytes_sent), f"{outcome.seconds:.1f}", outcome.error]
        )  # fmt: skip
    out.table(["host", "wave", "state", "image", "sent", "seconds", "error"], rows)
    counts: dict[str, int] = {}
    for outcome in result.hosts.values():
        counts[outcome.state] = counts.get(outcome.state, 0) + 1
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    sent = human_bytes(sum(outcome.bytes_sent for outcome in result.hosts.values()))
    out.say(f"{result.rollout} {result.result}: {told}; {sent} sent in {result.seconds:.1f} s")
    if result.halted_by:
        out.say(f"it stopped because: {result.halted_by}")
    if result.result == "interrupted":
        out.say(f"{again}; hosts that were done stay as they are")
    elif result.result in ("halted", "reverted") and counts.get(UNTOUCHED):
        out.say(f"`wain fleet report {result.rollout}` tells what happened on each host")
