"""Which file answers a requirement on a target, and why the others do not (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import canonicalize_name

from wheelhouse.entry import Entry
from wheelhouse.target import Target, build_key


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one candidate, and why."""

    entry: Entry
    taken: bool
    reason: str


def judge(
    entries: Iterable[Entry], requirement: Requirement, target: Target
) -> tuple[Verdict, ...]:
    """Every file of the requirement's project with its verdict, the taken one first.

    The order is an installer's: highest version, a wheel before an sdist, the best tag, the
    highest build tag. Pre-releases count only where the requirement names one or nothing
    else fits.
    """
    name = canonicalize_name(requirement.name)
    refused: list[Verdict] = []
    fitting: list[tuple[Entry, int]] = []
    for entry in entries:
        if entry.name != name:
            continue
        reason = _misfit(entry, requirement, target)
        if reason:
            refused.append(Verdict(entry, taken=False, reason=reason))
            continue
        rank = target.rank(entry.tags) if entry.kind == "wheel" else None
        fitting.append((entry, -1 if rank is None else rank))
    allowed = set(requirement.specifier.filter({entry.version for entry, _ in fitting}))
    for entry, _ in fitting:
        if entry.version not in allowed:
            reason = f"{entry.version} is a pre-release, and there are final releases"
            refused.append(Verdict(entry, taken=False, reason=reason))
    ranked = sorted(
        ((entry, rank) for entry, rank in fitting if entry.version in allowed),
        key=lambda pair: (
            pair[0].version,
            pair[0].kind == "wheel",
            -pair[1],
            build_key(pair[0].build),
            pair[0].filename,
        ),
        reverse=True,
    )
    verdicts = [_ranked(position, ranked, target) for position in range(len(ranked))]
    refused.sort(key=lambda verdict: (verdict.entry.version, verdict.entry.filename), reverse=True)
    return (*verdicts, *refused)


def best(entries: Iterable[Entry], requirement: Requirement, target: Target) -> Entry | None:
    """The file that answers ``requirement`` on ``target``, None when there is none."""
    for verdict in judge(entries, requirement, target):
        if verdict.taken:
            return verdict.entry
    return None


def _misfit(entry: Entry, requirement: Requirement, target: Target) -> str:
    if not requirement.specifier.contains(entry.version, prereleases=True):
        return f"version {entry.version} is not {requirement.specifier}"
    if entry.requires_python and not SpecifierSet(entry.requires_python).contains(
        target.python_full_version, prereleases=True
    ):
        return f"needs Python {entry.requires_python}, the target has {target.python_full_version}"
    if entry.kind == "wheel" and target.rank(entry.tags) is None:
        return tag_misfit(entry.tags, target)
    return ""


def _ranked(position: int, ranked: list[tuple[Entry, int]], target: Target) -> Verdict:
    entry, rank = ranked[position]
    winner, best_rank = ranked[0]
    if position == 0:
        how = "an sdist, to be built" if entry.kind == "sdist" else f"as {target.tags()[rank]}"
        return Verdict(entry, taken=True, reason=f"the best match: {how}")
    if entry.version != winner.version:
        reason = f"version {winner.version} is higher"
    elif entry.kind != winner.kind:
        reason = "there is a wheel of this version"
    elif rank != best_rank:
        reason = f"{target.tags()[rank]} ranks below {target.tags()[best_rank]}"
    elif entry.build != winner.build:
        reason = "its build tag is lower"
    else:
        reason = f"equal to {winner.filename}, which sorts first"
    return Verdict(entry, taken=False, reason=reason)


def tag_misfit(tags: Iterable[Tag], target: Target) -> str:
    """Why none of a wheel's tags fits: the first of Python, ABI and platform that cannot."""
    wheel_tags = sorted(tags, key=str)
    accepted = target.tags()
    interpreters = {tag.interpreter for tag in accepted}
    left = [tag for tag in wheel_tags if tag.interpreter in interpreters]
    if not left:
        found = _words(tag.interpreter for tag in wheel_tags)
        return f"is for {found}, the target is Python {target.python}"
    abis = {(tag.interpreter, tag.abi) for tag in accepted}
    fitting = [tag for tag in left if (tag.interpreter, tag.abi) in abis]
    if not fitting:
        found = _words(f"{tag.interpreter}-{tag.abi}" for tag in left)
        return f"is for the ABI {found}, the target has {target.abi}"
    return _platform_misfit([tag.platform for tag in fitting], target)


def _platform_misfit(platforms: list[str], target: Target) -> str:
    libc = target.libc
    needed = []
    for platform in platforms:
        if platform == f"linux_{target.machine}":
            return "is tagged plain linux, which promises nothing about the C library"
        family, _, rest = platform.partition("_")
        numbers = rest.split("_", 2)
        if family in ("manylinux", "musllinux") and len(numbers) == 3:
            wheel_libc = "glibc" if family == "manylinux" else "musl"
            if numbers[2] == target.machine and libc is not None and libc[0] == wheel_libc:
                needed.append(f"{numbers[0]}.{numbers[1]}")
    if needed and libc is not None:
        return f"needs {libc[0]} {' or '.join(needed)}, the target has {libc[1]}.{libc[2]}"
    return f"is for {_words(platforms)}, the target is {target.platform}"


def _words(items: Iterable[str]) -> str:
    found = sorted(set(items))
    return ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
