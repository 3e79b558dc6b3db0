"""Where files may come from: the project's own indexes, or what pip is configured with.

The rules for names, in order:

1. Without an ``[[index]]``, pip's indexes and find-links are one place, as they are for pip.
2. A name that matches the ``projects`` of an index comes from that index and is asked for
   nowhere else. The pattern ``*`` means every name that no other index names.
3. Any other name may be on one index only. On an index whose ``projects`` leave it out, or on
   two indexes, it is an error and not a choice: that is how a stranger's package gets in.
4. Indexes without ``projects`` stand in the place of pip's; when every index has them, pip's
   configuration serves the rest, as one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from packaging.utils import canonicalize_name

from builder.pipconfig import PipSettings, default_index, read_settings
from builder.spec import BuildSpec, IndexSpec
from builder.urls import mask
from images.errors import WainError

# A pattern for every name that no other index names.
EVERY = "*"


class Source(NamedTuple):
    """One place files come from. ``group``: sources of a group are one place to the rules.

    ``links`` is true for a find-links folder or page, which lists files of any project.
    """

    group: str
    url: str
    links: bool = False
    projects: tuple[str, ...] = ()

    def serves(self, name: str) -> bool:
        """Whether a pattern other than ``*`` names this normalised project name."""
        return any(fnmatchcase(name, pattern) for pattern in self.projects if pattern != EVERY)


class AmbiguousError(WainError):
    """A name on an index it is not pinned to. ``indexes`` are the places it was found on."""

    def __init__(self, name: str, indexes: tuple[str, ...], what: str, hint: str) -> None:
        self.name = name
        self.indexes = indexes
        super().__init__(name, what, hint)


@dataclass(frozen=True, slots=True)
class Sources:
    """All places of one project, and pip's settings for reaching them."""

    settings: PipSettings
    indexes: tuple[IndexSpec, ...] = ()

    @property
    def ruled(self) -> bool:
        """Whether the project names indexes itself, so that the rules above hold."""
        return bool(self.indexes)

    def of_project(self) -> tuple[Source, ...]:
        """The project's own indexes."""
        return tuple(
            Source(
                f"index {index.name!r}",
                index.url,
                projects=tuple(_pattern(pattern) for pattern in index.projects),
            )
            for index in self.indexes
        )

    def of_pip(self) -> tuple[Source, ...]:
        """pip's places, the index first. Asks pip for its default when none is configured."""
        settings = self.settings
        group = "pip's indexes"
        links = tuple(Source(group, url, links=True) for url in settings.find_links)
        if settings.no_index:
            return links
        index = settings.index_url or default_index()
        urls = (index, *settings.extra_index_urls)
        return (*(Source(group, url) for url in urls), *links)

    def all(self) -> tuple[Source, ...]:
        """Every place a file may come from."""
        own = self.of_project()
        if own and not all(source.projects for source in own):
            return own
        return own + self.of_pip()

    def addresses(self) -> tuple[str, ...]:
        """Every configured address; they may hold logins."""
        return (*(index.url for index in self.indexes), *self.settings.secrets())


def sources_of(spec: BuildSpec) -> Sources:
    """The places of a project. Raises UsageError for a pip configuration that is wrong."""
    return Sources(read_settings(), spec.indexes)


def pinned_to(name: str, sources: Iterable[Source]) -> tuple[Source, ...]:
    """The indexes a normalised name is pinned to: named by a pattern, or else by ``*``."""
    listed = tuple(sources)
    named = tuple(source for source in listed if source.serves(name))
    return named or tuple(source for source in listed if EVERY in source.projects)


def asked_for(name: str, sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """The places to ask for a normalised name: its own index alone, or all of them."""
    return pinned_to(name, sources) or sources


def allowed(name: str, found: Mapping[Source, bool]) -> tuple[Source, ...]:
    """The places whose files count, given where the name was found. Pure.

    Raises AmbiguousError when the rules forbid a choice.
    """
    there = tuple(source for source, has in found.items() if has)
    pinned = pinned_to(name, there)
    groups = tuple(dict.fromkeys(source.group for source in pinned or there))
    foreign = () if pinned else tuple(source for source in there if source.projects)
    if foreign:
        where = ", ".join(dict.fromkeys(source.group for source in foreign))
        others = [group for group in groups if group not in where]
        also = f" and on {', '.join(others)}" if others else ""
        raise AmbiguousError(
            name,
            groups,
            f"is on {where}, whose 'projects' leave it out{also}",
            "add it to the 'projects' of the index it shall come from, or give that index "
            "projects = ['*'] for all names no other index names",
        )
    if len(groups) > 1:
        raise AmbiguousError(
            name,
            groups,
            f"is on {' and on '.join(groups)}",
            "pin it: add it to the 'projects' of the index it shall come from",
        )
    return pinned or there


def _pattern(pattern: str) -> str:
    return pattern if pattern == EVERY else canonicalize_name(pattern)


def shown(source: Source) -> str:
    """A place for messages, without its login."""
    return mask(source.url)
