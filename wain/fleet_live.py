"""The live table of a roll-out, drawn with rich on a terminal."""

from __future__ import annotations

import time
from typing import TextIO

from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from fleet.result import Event, hosts_text
from wain.output import printable

# Hosts at work that are shown by name; the rest is counted.
ROWS = 12
_STYLE = {
    "succeeded": "green", "unchanged": "green", "reverted": "red", "failed": "red",
    "unreachable": "yellow", "untouched": "dim",
}  # fmt: skip


class Live:
    """Hosts at work with their steps, and counts of the rest. Host texts never reach a style."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, markup=False)
        self._working: dict[str, tuple[str, float]] = {}
        self._counts: dict[str, int] = {}
        self._title = ""
        self._note = ""
        self._live = RichLive(
            get_renderable=self._draw, console=self._console, refresh_per_second=5,
            redirect_stdout=False, redirect_stderr=False, transient=True,
        )  # fmt: skip
        self._live.start()

    def show(self, event: Event) -> None:
        """Take in one event; the screen follows by itself."""
        if event.kind == "wave":
            self._title = f"wave {event.wave + 1}: {event.text}, {hosts_text(event.total)}"
            self._note = ""
        elif event.kind == "step":
            self._working[event.host] = (event.text, time.monotonic())
        elif event.kind == "host":
            self._working.pop(event.host, None)
            self._counts[event.text] = self._counts.get(event.text, 0) + 1
        elif event.kind == "soak":
            self._note = f"soaking, {event.total - event.done} s left"
        elif event.kind == "back":
            self._note = f"going back ({event.text}): {hosts_text(event.total)}"
        else:
            self._note = event.text
        if not self._live.is_started:
            self._live.start()

    def pause(self) -> None:
        """Leave the screen to a question."""
        self._live.stop()

    def close(self) -> None:
        """Clear it."""
        self._live.stop()

    def _draw(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row(Text(printable(self._title), style="bold"))
        now = time.monotonic()
        for host, (step, since) in list(self._working.items())[:ROWS]:
            table.add_row(Text(printable(host)), Text(step), Text(f"{now - since:.0f} s"))
        if len(self._working) > ROWS:
            table.add_row(Text(f"and {len(self._working) - ROWS} more at work", style="dim"))
        counts = Text()
        for state, count in self._counts.items():
            counts.append(f"{count} {state}  ", style=_STYLE.get(state, ""))
        table.add_row(counts)
        if self._note:
            table.add_row(Text(printable(self._note), style="yellow"))
        return table
