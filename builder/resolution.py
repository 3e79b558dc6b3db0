"""The question a resolver is asked and the answer it gives: the port both resolvers fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from builder.pages import IndexFile
from builder.requirements import Line
from builder.sources import Sources
from images.errors import WainError
from wheelhouse.target import Target


@dataclass(frozen=True, slots=True)
class Question:
    """What to resolve for one target.

    ``requirements`` hold on the target. ``keep`` gives the versions of the previous lock, kept
    unless something forces another; ``upgrade`` the names that may move, with the version to
    take or an empty text for the newest. ``options`` are those of requirements files.
    """

    target: Target
    requirements: tuple[Line, ...]
    sources: Sources
    constraints: tuple[Line, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    from_source: tuple[str, ...] = ()
    exclude_newer: datetime | None = None
    keep: Mapping[str, str] = field(default_factory=dict)
    upgrade: Mapping[str, str] = field(default_factory=dict)

    def kept(self) -> dict[str, str]:
        """The versions to keep: not those upgraded, nor those the requirements rule out."""
        kept = {name: version for name, version in self.keep.items() if name not in self.upgrade}
        for line in (*self.requirements, *self.constraints):
            requirement = line.requirement()
            version = kept.get(line.name)
            if version and not requirement.specifier.contains(version, prereleases=True):
                del kept[line.name]
        return kept


class Found(NamedTuple):
    """A package of an answer: its version and the files to choose from, in the index's order."""

    name: str
    version: str
    files: tuple[IndexFile, ...]
    requires_python: str | None = None


class Gate(NamedTuple):
    """The one index a resolver is to use instead of the configured ones."""

    url: str


class Resolver(Protocol):
    """Finds the versions that answer a question. Raises ResolveError when there are none."""

    name: str

    def resolve(self, question: Question, gate: Gate | None) -> tuple[Found, ...]:
        """The packages of the answer. With ``gate``, only that index is asked."""


class ResolveError(WainError):
    """No answer: ``reason`` is the resolver's own, on one line. ``names``: packages in it."""

    def __init__(
        self, target: str, resolver: str, reason: str, hint: str = "", names: tuple[str, ...] = ()
    ) -> None:
        self.reason = reason
        self.names = names
        super().__init__(f"target {target}", f"{resolver}: {reason}", hint)
