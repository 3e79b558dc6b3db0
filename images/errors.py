"""The error every room raises for what a user can cause. Travels to hosts."""

from __future__ import annotations


class WainError(Exception):
    """One line for a person, and its parts as data.

    ``where`` names the file, host or place, ``what`` says what was found and what was
    expected, ``hint`` says what to do next. ``exit_code`` is the process's exit status
    (see the table in DESIGN.md). A path with control characters is shown escaped.
    """

    exit_code = 1

    def __init__(self, where: str, what: str, hint: str = "") -> None:
        self.where = printable(where)
        self.what = what
        self.hint = hint
        super().__init__(self.where, what, hint)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line} ({self.hint})" if self.hint else line


class UsageError(WainError):
    """Wrong usage or configuration: exit 2, and nothing was contacted or written."""

    exit_code = 2


class DifferenceError(WainError):
    """A check found a difference: exit 3."""

    exit_code = 3


class LockedError(WainError):
    """Somebody else holds what this command needs: exit 6."""

    exit_code = 6


def printable(text: str) -> str:
    """The text as it is, or with escapes where it would disturb a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]
