"""What each host last said of itself, and questions about it: which hosts run what.

A view of the journal: images with their packages are written once, hosts point at them. So a
question about a package reads its few versions first and touches only the hosts that match.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.journal import Journal, now
from images.errors import UsageError

if TYPE_CHECKING:
    from fleet.session import Facts


@dataclass(frozen=True, slots=True)
class Report:
    """One host's last word. ``problem`` says why a newer contact brought none."""

    host: str
    image: str | None
    previous: str | None
    generation: int
    python: str
    machine: str
    libc: str
    releases: tuple[str, ...] = ()
    seen: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What is kept of an image: enough to answer questions when the store no longer has it."""

    id: str
    name: str
    python: str
    platform: str
    packages: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Match:
    """One answer: a host and, when a package was asked for, what it has of it."""

    host: str
    image: str | None
    package: str
    version: str
    seen: str


def remember_images(journal: Journal, images: Iterable[ImageRecord]) -> None:
    """Keep the packages of images; those already known cost nothing."""
    known = {row[0] for row in journal.rows("SELECT id FROM images")}
    new = {image.id: image for image in images if image.id not in known}
    if not new:
        return
    with journal.transaction() as db:
        for image in new.values():
            db.execute(
                "INSERT OR IGNORE INTO images VALUES (?,?,?,?)",
                (image.id, image.name, image.python, image.platform),
            )
            db.executemany(
                "INSERT OR IGNORE INTO image_packages VALUES (?,?,?)",
                [(name, version, image.id) for name, version in image.packages],
            )


def report(journal: Journal, reports: Iterable[Report]) -> None:
    """Replace what these hosts reported before. One transaction for all."""
    at = now()
    with journal.transaction() as db:
        db.executemany(
            "INSERT OR REPLACE INTO hosts (name, image, previous, generation, python, machine,"
            " libc, releases, seen) VALUES (?,?,?,?,?,?,?,?,?)",
            [
                (item.host, item.image, item.previous, item.generation, item.python, item.machine,
                 item.libc, json.dumps(item.releases), at)
                for item in reports
            ],
        )  # fmt: skip


def report_problem(journal: Journal, problems: Iterable[tuple[str, str]]) -> None:
    """Note why hosts could not be asked, beside what they said before."""
    with journal.transaction() as db:
        for host, problem in problems:
            db.execute(
                "INSERT INTO hosts (name, generation, python, machine, libc, releases, seen,"
                " problem) VALUES (?, 0, '', '', '', '[]', '', ?)"
                " ON CONFLICT (name) DO UPDATE SET problem=excluded.problem",
                (host, problem),
            )


def forget(journal: Journal, hosts: Iterable[str]) -> int:
    """Drop what hosts reported: they are retired. Returns how many were known."""
    with journal.transaction() as db:
        return sum(db.execute("DELETE FROM hosts WHERE name=?", (host,)).rowcount for host in hosts)


def any_known(journal: Journal, hosts: Iterable[str]) -> bool:
    """Whether one of these hosts was ever asked."""
    query = "SELECT 1 FROM hosts WHERE name=?"
    return any(True for host in hosts for _ in journal.rows(query, (host,)))


def reports(journal: Journal) -> list[Report]:
    """Every host's last word, by name."""
    return [
        Report(*row[:7], tuple(json.loads(row[7])), *row[8:10])  # type: ignore[call-arg]
        for row in journal.rows(
            "SELECT name, image, previous, generation, python, machine, libc, releases, seen,"
            " problem FROM hosts ORDER BY name"
        )
    ]


def images(journal: Journal) -> dict[str, tuple[str, str]]:
    """image id -> (name, python) of all images that were ever planned or seen."""
    return {row[0]: (row[1], row[2]) for row in journal.rows("SELECT id, name, python FROM images")}


def query_package(journal: Journal, requirement: str) -> list[Match]:
    """Hosts whose image has a package, for example ``requests<2.32``. UsageError when unreadable.

    Pre-releases count: the question is what is there, not what to choose.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    try:
        wanted = Requirement(requirement)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"query {requirement!a}", reason, "for example: 'requests<2.32'") from None
    if wanted.extras or wanted.marker or wanted.url:
        raise UsageError(
            f"query {requirement!a}", "takes a name and versions only", "'requests<2.32'"
        )
    package = canonicalize_name(wanted.name)
    versions = []
    for (version,) in journal.rows(
        "SELECT DISTINCT version FROM image_packages WHERE package=?", (package,)
    ):
        try:
            fits = wanted.specifier.contains(Version(version), prereleases=True)
        except InvalidVersion:
            fits = not wanted.specifier
        if fits:
            versions.append(version)
    marks = ",".join("?" * len(versions))
    rows = journal.rows(
        "SELECT hosts.name, hosts.image, package, version, seen FROM image_packages"
        " JOIN hosts ON hosts.image = image_packages.image"
        f" WHERE package=? AND version IN ({marks}) ORDER BY hosts.name",
        (package, *versions),
    )
    return [Match(*row) for row in rows]


def query_image(journal: Journal, image: str) -> list[Match]:
    """Hosts whose current release is an image (its whole id)."""
    return [
        Match(host, image, "", "", seen)
        for host, seen in journal.rows(
            "SELECT name, seen FROM hosts WHERE image=? ORDER BY name", (image,)
        )
    ]


def query_fact(journal: Journal, fact: str, specifier: str) -> list[Match]:
    """Hosts whose ``python`` or ``libc`` version fits, for example ``<3.11.5`` or ``<2.31``."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    if fact not in ("python", "libc"):
        raise ValueError(fact)
    text = specifier if specifier[:1] in "<>=!~" else f"=={specifier}.*"
    try:
        wanted = SpecifierSet(text)
    except InvalidSpecifier:
        raise UsageError(
            f"query --{fact} {specifier!a}", "is no version or specifier", "for example: '<3.11.5'"
        ) from None
    found = []
    for host, image, value, seen in journal.rows(
        f"SELECT name, image, {fact}, seen FROM hosts ORDER BY name"
    ):
        try:
            version = Version(value.split()[-1]) if value else None
        except InvalidVersion:
            version = None
        if version is not None and wanted.contains(version, prereleases=True):
            found.append(Match(host, image, fact, value, seen))
    return found


def moved(journal: Journal, hosts: Iterable[tuple[str, str | None, str | None, int]]) -> None:
    """Note (host, image, previous, generation) of hosts that a roll-out has just moved."""
    at = now()
    with journal.transaction() as db:
        db.executemany(
            "UPDATE hosts SET image=?, previous=?, generation=?, seen=? WHERE name=?",
            [
                (image, previous, generation, at, host)
                for host, image, previous, generation in hosts
            ],
        )


def report_of(host: str, facts: Facts) -> Report:
    """A host's hello as what it reported."""
    state = facts.state
    return Report(
        host, state.current, state.previous, state.generation, facts.python_version,
        facts.machine, " ".join(facts.libc).strip(), state.releases,
    )  # fmt: skip
