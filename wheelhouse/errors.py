"""The errors the wheelhouse raises for what a user can cause."""

from __future__ import annotations


class WheelhouseError(Exception):
    """One line for a person, and its parts as data.

    ``where`` names the file, host or place, ``what`` says what was found and what was
    expected, ``hint`` says what to do next. ``exit_code`` is the process's exit status
    (see the table in DESIGN.md).
    """

    exit_code = 1

    def __init__(self, where: str, what: str, hint: str = "") -> None:
        self.where = where
        self.what = what
        self.hint = hint
        super().__init__(where, what, hint)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line} ({self.hint})" if self.hint else line


class UsageError(WheelhouseError):
    """Wrong usage or configuration: exit 2, and nothing was contacted or written."""

    exit_code = 2


class InUseError(WheelhouseError):
    """Somebody else is at work in the wheelhouse: exit 6."""

    exit_code = 6


class DifferenceError(WheelhouseError):
    """A check found a difference: exit 3."""

    exit_code = 3
