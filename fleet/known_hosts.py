"""Which keys a host may show, from OpenSSH's known_hosts files.

A fleet's files are long and most of their lines are for other hosts: a file is read once, and a
key is decoded when its host is asked for. Hashed names, patterns, ``[name]:port`` and
``@revoked`` are understood; ``@cert-authority`` lines are not used.
"""

from __future__ import annotations

import fnmatch
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from paramiko import HostKeys, PKey
from paramiko.hostkeys import HostKeyEntry
from paramiko.ssh_exception import SSHException

DEFAULT = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")


class HostKeyError(Exception):
    """A host's key is not to be trusted; ``args[0]`` says why, fingerprints included."""


class _Line(NamedTuple):
    names: str
    key: str
    revoked: bool


class KnownHosts:
    """The lines of some known_hosts files."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._by_name: dict[str, list[_Line]] = {}
        self._others: list[_Line] = []
        for text in texts:
            for line in text.splitlines():
                self._add(line.strip())

    def _add(self, line: str) -> None:
        marker = ""
        if line.startswith("@"):
            marker, _, line = line.partition(" ")
        names, _, key = line.strip().partition(" ")
        if not key or names.startswith("#") or marker not in ("", "@revoked"):
            return
        found = _Line(names, key, marker == "@revoked")
        if names.startswith("|") or any(character in names for character in "*?!"):
            self._others.append(found)
        else:
            for name in names.lower().split(","):
                self._by_name.setdefault(name, []).append(found)

    def _lines(self, name: str) -> list[_Line]:
        name = name.lower()
        others = [line for line in self._others if _matches(line.names, name)]
        return self._by_name.get(name, []) + others

    def keys(self, names: Iterable[str]) -> list[PKey]:
        """The keys a host of one of these names may show; the first name that has any counts."""
        for name in names:
            found = [_decode(line) for line in self._lines(name) if not line.revoked]
            keys = [key for key in found if key is not None]
            if keys:
                return keys
        return []

    def check(self, names: list[str], shown: PKey) -> None:
        """Raise HostKeyError unless the key is one of the host's, and not revoked."""
        print_shown = fingerprint(shown)
        for line in (line for name in names for line in self._lines(name) if line.revoked):
            if _decode(line) == shown:
                raise HostKeyError(f"its host key {print_shown} is revoked")
        known = self.keys(names)
        if not known:
            raise HostKeyError(f"its host key {print_shown} is not in known_hosts")
        if shown not in known:
            same = [key for key in known if key.get_name() == shown.get_name()] or known
            wanted = ", ".join(fingerprint(key) for key in same)
            raise HostKeyError(f"its host key changed: it shows {print_shown}, known is {wanted}")


def _matches(names: str, name: str) -> bool:
    if names.startswith("|"):
        return HostKeys.hash_host(name, names) == names
    patterns = names.lower().split(",")
    # Only * and ? are special in known_hosts; [host]:port is not a set of characters.
    literal = [pattern.replace("[", "[[]") for pattern in patterns]
    if any(fnmatch.fnmatchcase(name, pattern[1:]) for pattern in literal if pattern[:1] == "!"):
        return False
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in literal)


def _decode(line: _Line) -> PKey | None:
    try:
        entry = HostKeyEntry.from_line(f"name {line.key}")
    except (SSHException, ValueError):
        return None
    return entry.key if entry else None


def fingerprint(key: PKey) -> str:
    """Type and fingerprint, as ssh shows them."""
    return f"{key.get_name()} {key.fingerprint}"


def load(paths: Iterable[str]) -> KnownHosts:
    """The files that exist; each state of them is read once in a process."""
    stamps = []
    for name in paths:
        path = os.path.expanduser(name)  # noqa: PTH111 - a missing home is no error here
        try:
            status = Path(path).stat()
        except OSError:
            continue
        stamps.append((path, status.st_mtime_ns, status.st_size))
    return _load(tuple(stamps))


@functools.lru_cache(maxsize=64)
def _load(stamps: tuple[tuple[str, int, int], ...]) -> KnownHosts:
    return KnownHosts(
        Path(path).read_text(encoding="utf-8", errors="replace") for path, _, _ in stamps
    )
