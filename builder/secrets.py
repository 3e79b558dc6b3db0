"""Finds what should not be in an image: files that are made to hold passwords.

By name first, so that thousands of files cost nothing; then by content, so that a sample
without a password in it is no alarm. A password found stops the image; a file that only might
hold one is a warning. `[image] prune` leaves either out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from images.errors import WainError
from images.manifest import Entry

_NAMES = re.compile(
    r"(?:\.env(?:\..+)?|\.?pip\.conf|pip\.ini|\.pypirc|[._]netrc|\.git-credentials|\.npmrc"
    r"|direct_url\.json|uv\.toml|id_(?:rsa|dsa|ecdsa|ed25519))"
)
_SAMPLE = re.compile(r"\.(?:example|sample|template|dist|defaults?)$")
_PASSWORD_IN_URL = re.compile(rb"[a-z][a-z0-9+.-]*://[^\s/@:'\"]*:(?![$<{%*])[^\s/@'\"]+@", re.I)
_BY_NAME = {
    ".pypirc": re.compile(rb"(?mi)^\s*password\s*[=:]\s*\S"),
    ".netrc": re.compile(rb"(?mi)\bpassword\s+\S"),
    "_netrc": re.compile(rb"(?mi)\bpassword\s+\S"),
    ".npmrc": re.compile(rb"(?mi)_(?:authToken|password|auth)\s*=\s*(?!\$)\S"),
}
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_MAY_HOLD = re.compile(r"\.env(?:\..+)?|\.pypirc|[._]netrc|\.git-credentials|id_[a-z0-9]+")
_MOST = 1 << 20  # bytes; nobody keeps a password in a larger file of these names


class SecretError(WainError):
    """A password or private key in a file of an image. ``path`` and ``owner`` name it."""

    def __init__(self, path: str, owner: str, what: str) -> None:
        self.path = path
        self.owner = owner
        super().__init__(owner, f"{path} holds {what}", "leave it out: prune in [image]")


class Suspicion(NamedTuple):
    """A file that is made to hold passwords, though none was recognised in it."""

    path: str
    owner: str

    def __str__(self) -> str:
        return f"{self.owner}: {self.path} goes into the image; files of this name hold secrets"


def check(entries: Iterable[Entry], read: Callable[[Entry], bytes]) -> list[Suspicion]:
    """Files to warn of. Raises SecretError for one with a password in it."""
    found = []
    for entry in entries:
        name = entry.path.rpartition("/")[2]
        if not _NAMES.fullmatch(name) or _SAMPLE.search(name) or entry.size > _MOST:
            continue
        data = read(entry)
        if _PRIVATE_KEY.search(data):
            raise SecretError(entry.path, entry.owner, "a private key")
        rule = _BY_NAME.get(name)
        if _PASSWORD_IN_URL.search(data) or (rule and rule.search(data)):
            raise SecretError(entry.path, entry.owner, "a password")
        if data.strip() and _MAY_HOLD.fullmatch(name):
            found.append(Suspicion(entry.path, entry.owner))
    return found
