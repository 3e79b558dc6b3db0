"""The proof that a lock can be installed: one file for each package on each target.

Pure: given what a resolver found, the best wheel for the target by its own tags, else the
sdist; else an error that names target, package and what there is. Whether an sdist can be built
for a target that is not this machine's shows only when it is: see ``builder.locking``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.pages import IndexFile
from builder.resolution import Found
from images.errors import WainError
from wheelhouse.target import Target, build_key


class Chosen(NamedTuple):
    """The file that answers for a package on one target. ``kind``: ``wheel`` or ``sdist``."""

    found: Found
    file: IndexFile
    kind: str


class Gap(NamedTuple):
    """A package without an installable file: why, in words."""

    name: str
    version: str
    why: str


class ProofError(WainError):
    """Packages that cannot be installed on a target. ``gaps`` lists each."""

    def __init__(self, target: Target, gaps: tuple[Gap, ...]) -> None:
        self.target = target
        self.gaps = gaps
        listed = "; ".join(f"{gap.name} {gap.version}: {gap.why}" for gap in gaps)
        super().__init__(
            f"target {target.name} (python {target.python}, {target.platform})",
            listed,
            "choose another version or target, or put a wheel where pip finds it",
        )


def prove(
    target: Target,
    packages: Iterable[Found],
    from_source: Iterable[str] = (),
) -> tuple[Chosen, ...]:
    """The file of every package.

    ``from_source``: names whose sdist is taken even where a wheel exists. Raises ProofError
    naming every package without a file.
    """
    forced = set(from_source)
    chosen: list[Chosen] = []
    gaps: list[Gap] = []
    for package in packages:
        outcome = choose(target, package, package.name in forced)
        if isinstance(outcome, Gap):
            gaps.append(outcome)
        else:
            chosen.append(outcome)
    if gaps:
        raise ProofError(target, tuple(gaps))
    return tuple(chosen)


def choose(target: Target, package: Found, from_source: bool) -> Chosen | Gap:
    """The best file of one package, or why there is none."""
    wheel = None if from_source else best_wheel(target, package.files)
    if wheel is not None:
        return Chosen(package, wheel, "wheel")
    sdists = [file for file in package.files if file.kind == "sdist"]
    sdist = next((file for file in sdists if file.filename.endswith(".tar.gz")), None)
    if sdist is None and sdists:
        why = f"there is only {sdists[0].filename}, and an sdist is a .tar.gz (PEP 625)"
        return Gap(package.name, package.version, why)
    if sdist is None:
        return Gap(package.name, package.version, _lacking(target, package, from_source))
    return Chosen(package, sdist, "sdist")


def best_wheel(target: Target, files: Iterable[IndexFile]) -> IndexFile | None:
    """The wheel an installer would take: best tag first, then the highest build tag."""
    best: tuple[int, tuple[int, str]] | None = None
    chosen: IndexFile | None = None
    for file in files:
        if file.kind != "wheel" or not _python_fits(target, file):
            continue
        try:
            _, _, build, tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        rank = target.rank(tags)
        if rank is None:
            continue
        key = (-rank, build_key(build))
        if best is None or key > best:
            best, chosen = key, file
    return chosen


def _python_fits(target: Target, file: IndexFile) -> bool:
    try:
        wanted = SpecifierSet(file.requires_python or "")
    except InvalidSpecifier:
        return True
    return wanted.contains(target.python_full_version, prereleases=True)


def _lacking(target: Target, package: Found, from_source: bool) -> str:
    if from_source:
        return "is in from-source, and there is no sdist"
    wheels = [file.filename for file in package.files if file.kind == "wheel"]
    if not wheels:
        return "there is no wheel and no sdist"
    shown = ", ".join(wheels[:3]) + (f" and {len(wheels) - 3} more" if len(wheels) > 3 else "")
    return (
        f"no wheel fits (there are {shown}; the target accepts {target.tags()[0]} and lesser) "
        "and there is no sdist"
    )
