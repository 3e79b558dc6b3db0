"""A built wheel's promise about machines: audited, repaired and tagged for its target.

A backend tags C extensions ``linux_<machine>``, which promises nothing about libc. auditwheel
finds what the compiled files really need, copies in foreign libraries, and gives the widest
true tag (PEP 600, PEP 656). A wheel that needs a newer libc than the target has is refused.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from images.errors import WainError
from wheelhouse.target import Target
from wheelhouse.text import bare, shown

_VERSIONED = re.compile(r"(GLIBC|GLIBCXX|CXXABI|GCC)_(\d+(?:\.\d+)*)")
_ELF = b"\x7fELF"


class AbiError(WainError):
    """A built wheel that does not run on its target: ``needs`` and ``allowed`` as text."""

    def __init__(self, where: str, needs: str, allowed: str, hint: str = "") -> None:
        self.needs = needs
        self.allowed = allowed
        super().__init__(where, f"needs {needs}, {allowed}", hint)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a tool ended: its exit status and what it printed."""

    status: int
    output: bytes


# Runs `python -m auditwheel ARGUMENTS` where built files may be looked at; paths as given.
Auditor = Callable[[list[str]], Ran]


def is_pure(wheel: Path) -> bool:
    """Whether a wheel's tags say it runs on any platform."""
    return all(tag.platform == "any" for tag in _tags(wheel.name))


def check_pure(wheel: Path, target: Target) -> None:
    """Refuse a wheel tagged for any platform that holds compiled modules, or whose tags do
    not fit the target. Raises :class:`AbiError`."""
    for name in _machine_code(wheel):
        if name.endswith(".so"):
            raise AbiError(
                bare(wheel.name),
                f"a machine that runs the compiled module {shown(name)}",
                "and is tagged for any platform",
                "its build does not say what it makes",
            )
    check_tags(wheel, target)


def _machine_code(wheel: Path) -> Iterator[str]:
    """The names of the members that are ELF files."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                if info.file_size >= len(_ELF):
                    with archive.open(info) as member:
                        if member.read(len(_ELF)) == _ELF:
                            yield info.filename
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise WainError(bare(wheel.name), f"is no readable wheel: {bare(error)}") from None


def tagged_without_code(filename: str, target: Target) -> str:
    """The name of a platform wheel that holds no machine code after all (an optional
    extension that was not built): it runs with the oldest libc there are wheels for."""
    oldest = [name for name in target.platforms() if name.startswith(("manylinux_", "musllinux_"))]
    return f"{filename.removesuffix('.whl').rpartition('-')[0]}-{oldest[-1]}.whl"


def check_tags(wheel: Path, target: Target) -> None:
    """Refuse a wheel none of whose tags the target accepts. Raises :class:`AbiError`."""
    tags = _tags(wheel.name)
    if target.rank(tags) is None:
        said = ", ".join(sorted(map(str, tags)))
        raise AbiError(
            bare(wheel.name),
            f"an environment of {said}",
            f"target {target.name} is {target.abi} on {target.platform}",
        )


def audit(wheel: Path, seen_as: str, target: Target, run: Auditor) -> str:
    """Refuse a wheel whose compiled files need a newer libc (or another one) than ``target``.

    ``seen_as`` is the wheel's path where ``run`` runs. The result is the platform its symbols
    allow. Raises :class:`AbiError` naming both versions.
    """
    ran = run(["show", "--json", seen_as])
    try:
        report = json.loads(ran.output[ran.output.index(b"{") :])
    except ValueError:
        report = {}
    if report.get("error") or "versioned_symbols" not in report:
        said = str(report.get("error") or _last_line(ran.output))
        raise WainError(bare(wheel.name), f"auditwheel cannot read it: {bare(said)}")
    libc = target.libc
    if libc is None:
        raise AbiError(bare(wheel.name), "Linux", f"target {target.name} is {target.platform}")
    found = highest_versions(report["versioned_symbols"])
    if libc[0] == "glibc" and found.get("GLIBC", (0,)) > libc[1:]:
        needed = ".".join(map(str, found["GLIBC"]))
        raise AbiError(
            bare(wheel.name),
            f"glibc {needed}",
            f"target {target.name} ({target.platform}) allows at most {libc[1]}.{libc[2]}",
            f"build it on a machine with glibc {libc[1]}.{libc[2]} or older",
        )
    if libc[0] == "musl" and "GLIBC" in found:
        needed = ".".join(map(str, found["GLIBC"]))
        raise AbiError(
            bare(wheel.name),
            f"glibc {needed}",
            f"target {target.name} ({target.platform}) has musl {libc[1]}.{libc[2]}",
            "build it on a machine with musl",
        )
    overall, symbols = str(report.get("overall_tag")), str(report.get("sym_tag"))
    # The first is plain linux when libraries must be copied in: then the symbols decide.
    return symbols if overall.startswith("linux_") else overall


def highest_versions(symbols: object) -> dict[str, tuple[int, ...]]:
    """The newest version of each symbol family in auditwheel's ``versioned_symbols``."""
    highest: dict[str, tuple[int, ...]] = {}
    for match in _VERSIONED.finditer(json.dumps(symbols)):
        version = tuple(map(int, match[2].split(".")))
        if version > highest.get(match[1], ()):
            highest[match[1]] = version
    return highest


def repaired(
    wheel: Path, seen_as: str, target: Target, run: Auditor, take: Callable[[], Path]
) -> Path:
    """Let auditwheel repair and tag a platform wheel; ``take`` gives what it wrote.

    A wheel without machine code only gets the name it deserves.

    Raises :class:`AbiError` when the tag it earns does not fit ``target``, and
    :class:`WainError` with auditwheel's reason when it cannot be repaired.
    """
    if not any(_machine_code(wheel)):
        named = wheel.with_name(tagged_without_code(wheel.name, target))
        wheel.rename(named)
        check_tags(named, target)
        return named
    platform = audit(wheel, seen_as, target, run)
    ran = run(["repair", "--plat", platform, seen_as])
    if ran.status:
        raise WainError(
            bare(wheel.name),
            f"auditwheel cannot make it run elsewhere: {bare(_last_line(ran.output), 300)}",
        )
    result = take()
    try:
        check_tags(result, target)
    except AbiError as error:
        newer = sorted(tag.platform for tag in _tags(result.name))
        libc = target.libc or ("libc", 0, 0)
        raise AbiError(
            bare(wheel.name),
            newer[-1],
            f"target {target.name} allows at most {libc[0]} {libc[1]}.{libc[2]} "
            f"({target.platform})",
            error.what if not newer[-1].startswith(("manylinux", "musllinux")) else "",
        ) from None
    return result


def auditwheel_command(arguments: list[str], inside: str) -> list[str]:
    """The command line of auditwheel for :data:`Auditor` arguments, writing to ``inside``."""
    if arguments[0] == "repair":
        arguments = ["repair", "--wheel-dir", inside, *arguments[1:]]
    return [sys.executable, "-I", "-m", "auditwheel", *arguments]


def _tags(filename: str) -> frozenset[Tag]:
    return parse_wheel_filename(filename)[3]


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
