"""What may stop or hold a roll-out from outside: signals, and orders from other terminals."""

from __future__ import annotations

import time

from fleet.journal import Journal

# How often orders in the journal are looked for. Seconds.
LOOK = 0.5

ORDERS = ("pause", "resume", "approve", "abort")


class Control:
    """The wishes of people, as flags. Signals only set flags; `poll` reads the orders."""

    def __init__(self, journal: Journal, number: int = 0) -> None:
        self._journal = journal
        self._number = number
        self._seen = 0
        self._looked = 0.0
        self.interrupts = 0
        self.paused = False
        self.aborted = ""
        self.approvals = 0

    def watch(self, number: int) -> None:
        """Listen to the orders for a roll-out; earlier ones were for an earlier process."""
        self._number = number
        orders = self._journal.orders(number)
        self._seen = orders[-1][0] if orders else 0

    def interrupt(self) -> int:
        """A signal arrived: the first asks to stop, another one insists. How many so far."""
        self.interrupts += 1
        return self.interrupts

    def poll(self) -> None:
        """Read new orders, now and then."""
        if not self._number or time.monotonic() < self._looked + LOOK:
            return
        self._looked = time.monotonic()
        for number, verb, who in self._journal.orders(self._number, self._seen):
            self._seen = number
            if verb == "pause":
                self.paused = True
            elif verb == "resume":
                self.paused = False
            elif verb == "approve":
                self.approvals += 1
            elif verb == "abort":
                self.aborted = who

    @property
    def stopping(self) -> bool:
        """Whether no new host may be started."""
        return bool(self.interrupts or self.aborted or self.paused)
