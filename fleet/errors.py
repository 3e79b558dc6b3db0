"""The error of everything that can go wrong with one host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from images.errors import WainError


class HostError(WainError):
    """One host, what kind of thing went wrong, and what was found.

    ``kind`` is one of the words below; a roll-out decides by it, never by the text.

    ``unreachable``  no connection: name, route, port, time-out, not SSH, too many start-ups
    ``hostkey``      the host's key is unknown, changed or revoked; nothing was sent
    ``auth``         the host refused the key
    ``no-python``    the command did not start, or its Python cannot run the agent
    ``root``         the root on the host is refused: its place, its owner or its mode
    ``protocol``     something else than the agent answered
    ``agent-died``   the agent or the connection ended in the middle of a verb
    ``timeout``      no answer within the deadline of the step
    ``locked``       somebody else is at work on the host (exit 6)
    ``pending``      a switch still waits for its confirmation
    ``moved``        the host is not where the plan saw it
    ``foreign``      something that is not ours stands in the place of ``current``
    ``format``       the host's files are of another format
    ``base``         the host lacks the manifest a delta builds on
    ``manifest``     the host refused the manifest
    ``object``       the host refused an object
    ``space``        too few free blocks or inodes
    ``target``       the image is made for another interpreter
    ``quarantined``  the image failed here or elsewhere and is refused until cleared
    ``damaged``      a release is not what its manifest says
    ``missing``      the host has no such release, or no previous one
    ``signature``    the image's signature was refused
    ``io``           the host's disk or a system call failed
    ``usage``        a request the agent does not take
    """

    def __init__(
        self,
        host: str,
        kind: str,
        what: str,
        hint: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        self.host = host
        self.kind = kind
        self.data: dict[str, Any] = dict(data or {})
        if kind == "locked":
            self.exit_code = 6
        super().__init__(host, what, hint)


def printable(text: str, limit: int = 400) -> str:
    """Text from a host on one line: no control character, at most ``limit`` characters."""
    line = " ".join(text.split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def last_words(text: str, limit: int = 400) -> str:
    """What a program wrote last, on one line; of a traceback, the line that says what it was."""
    lines = [line for line in text.splitlines() if line.strip()]
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        text = lines[-1]
    return printable(text, limit)
