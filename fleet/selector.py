"""Which hosts a person means: ``label:eu & !web3``, ``web*``, ``db1, db2``. Pure.

The grammar, loosest first:

    either  = both { ("," | "|") both }
    both    = one  { "&" one }
    one     = "!" one | "(" either ")" | "all" | "label:" PATTERN | PATTERN

A pattern is a name or a glob (``*``, ``?``, ``[ab]``) and must match the whole name. A name or
label that no host has is an error: a typing slip must not select fewer hosts in silence.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from images.errors import UsageError

_TOKEN = re.compile(r"\s*(?:([&|,!()])|([^\s&|,!()]+))")
_Predicate = Callable[["Selectable"], bool]


class Selectable(Protocol):
    """What a selector looks at."""

    @property
    def name(self) -> str:
        """The host's name in fleet.toml."""
        ...

    @property
    def labels(self) -> frozenset[str]:
        """Its labels."""
        ...


class SelectorError(UsageError):
    """A selector that cannot be read, or that names what no host has. ``text`` is all of it."""

    def __init__(self, text: str, what: str, hint: str = "") -> None:
        self.text = text
        super().__init__(f"selector {text!a}", what, hint)


class Selector:
    """A parsed selector."""

    def __init__(
        self, text: str, predicate: _Predicate, atoms: tuple[tuple[str, str], ...]
    ) -> None:
        self.text = text
        self._predicate = predicate
        # ("label" | "name", pattern) of every leaf, for the check against an inventory.
        self._atoms = atoms

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read a selector; SelectorError says where it stops making sense."""
        return _Parser(text).parse()

    def matches(self, host: Selectable) -> bool:
        """Whether `host` is meant."""
        return self._predicate(host)

    def check(self, hosts: Sequence[Selectable]) -> None:
        """Raise SelectorError for a name, label or glob that none of all `hosts` has."""
        names = {host.name for host in hosts}
        labels = {label for host in hosts for label in host.labels}
        for kind, pattern in self._atoms:
            known = labels if kind == "label" else names
            if not fnmatch.filter(known, pattern):
                close = difflib.get_close_matches(pattern, known, 1)
                what = f"no host has the label {pattern!a}" if kind == "label" else (
                    f"no host is named {pattern!a}"
                )  # fmt: skip
                raise SelectorError(self.text, what, f"did you mean '{close[0]}'?" if close else "")

    def select(self, hosts: Iterable[Selectable]) -> list[str]:
        """The names of the hosts that are meant, in the given order."""
        return [host.name for host in hosts if self._predicate(host)]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._at = 0
        self._atoms: list[tuple[str, str]] = []

    def parse(self) -> Selector:
        predicate = self._either()
        if self._at < len(self._tokens):
            self._fail(f"'{self._tokens[self._at]}' is not expected here")
        return Selector(self._text, predicate, tuple(self._atoms))

    def _split(self) -> list[str]:
        tokens, at, end = [], 0, len(self._text.rstrip())
        while at < end:
            match = _TOKEN.match(self._text, at)
            assert match is not None  # one of the two classes holds every character
            tokens.append(match[1] or match[2])
            at = match.end()
        return tokens

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _either(self) -> _Predicate:
        parts = [self._both()]
        while self._peek() in (",", "|"):
            self._at += 1
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda host: any(part(host) for part in parts)

    def _both(self) -> _Predicate:
        parts = [self._one()]
        while self._peek() == "&":
            self._at += 1
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda host: all(part(host) for part in parts)

    def _one(self) -> _Predicate:
        word = self._peek()
        self._at += 1
        if word == "!":
            inner = self._one()
            return lambda host: not inner(host)
        if word == "(":
            inner = self._either()
            if self._peek() != ")":
                self._fail("a '(' has no ')'")
            self._at += 1
            return inner
        if not word or word in "&|,)":
            self._fail(f"a host or label is missing before '{word}'" if word else
                       "a host or label is missing at the end")  # fmt: skip
        return self._atom(word)

    def _atom(self, word: str) -> _Predicate:
        if word == "all":
            return lambda host: True
        kind, colon, pattern = word.partition(":")
        if colon and kind != "label":
            self._fail(f"unknown kind {kind!a}, expected 'label:'")
        if colon and not pattern:
            self._fail("'label:' without a label")
        if colon:
            self._atoms.append(("label", pattern))
            return lambda host: bool(fnmatch.filter(host.labels, pattern))
        self._atoms.append(("name", word))
        return lambda host: fnmatch.fnmatchcase(host.name, word)

    def _fail(self, what: str) -> None:
        raise SelectorError(self._text, what, "for example: 'label:eu & !web3', 'web*', 'a, b'")
