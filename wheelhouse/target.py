"""What an image must run on, and what that means for wheels and markers.

A :class:`Target` is computed from its own fields only. The running interpreter, kernel
and C library are looked at in exactly one place, :meth:`Target.running`, so that a lock
for a foreign machine never carries values of this one.

Follows the platform compatibility tags specification (PEP 425, 600, 656) and the
dependency specifiers specification (the eleven marker variables).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging import tags as pep425
from packaging.markers import Environment, Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.version import InvalidVersion, Version

from wheelhouse.errors import UsageError
from wheelhouse.text import shown

if TYPE_CHECKING:
    from packaging.utils import BuildTag

_PYTHON = re.compile(r"3\.(0|[1-9][0-9]?)(t?)")
_MANYLINUX = re.compile(r"manylinux_2_(0|[1-9][0-9]{0,2})_([a-z0-9_]+)")
_MUSLLINUX = re.compile(r"musllinux_1_(0|[1-9][0-9]{0,2})_([a-z0-9_]+)")
_LEGACY = re.compile(r"manylinux(1|2010|2014)_([a-z0-9_]+)")
_MACOS = re.compile(r"macosx_(1[0-9]|[2-9][0-9])_(0|[1-9][0-9]?)_(x86_64|arm64)")
_WINDOWS = {"win32": "x86", "win_amd64": "AMD64", "win_arm64": "ARM64"}
_LEGACY_GLIBC = {"1": 5, "2010": 12, "2014": 17}
_GLIBC_LEGACY = {minor: name for name, minor in _LEGACY_GLIBC.items()}
_LINUX_MACHINES = frozenset(
    {"x86_64", "i686", "aarch64", "armv7l", "ppc64le", "ppc64", "s390x", "riscv64", "loongarch64"}
)
# These two describe one running kernel; a target cannot know them.
_UNKNOWABLE = re.compile(r"\bplatform[_.](release|version)\b")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")


class TargetError(UsageError):
    """A target that cannot be: ``field`` names the wrong part."""

    def __init__(self, name: str, field: str, what: str, hint: str = "") -> None:
        self.field = field
        super().__init__(f"target {name}" if name else "target", what, hint)


class MarkerError(UsageError):
    """A marker that has no answer for a target."""


@dataclass(frozen=True, slots=True)
class Target:
    """An interpreter minor version, its ABI, a machine and a libc floor.

    ``python`` is "3.12", or "3.13t" for the free-threaded build. ``platform`` is the newest
    platform tag the hosts accept ("manylinux_2_28_x86_64", "musllinux_1_2_aarch64",
    "macosx_14_0_arm64", "win_amd64"); the legacy aliases such as "manylinux2014_x86_64"
    are accepted and rewritten. ``python_full_version`` is the interpreter's release where it
    is known, else "<minor>.0". ``local_wheels`` also accepts wheels tagged plain
    ``linux_<machine>``, which carry no promise about libc.

    Raises :class:`TargetError` for values that describe no target.
    """

    name: str
    python: str
    platform: str
    python_full_version: str = ""
    local_wheels: bool = False

    def __post_init__(self) -> None:
        if _PYTHON.fullmatch(self.python) is None:
            raise TargetError(
                self.name,
                "python",
                f"python is {shown(self.python)}, expected a minor version such as '3.12'",
            )
        object.__setattr__(self, "platform", _canonical_platform(self.name, self.platform))
        full = self.python_full_version or f"{self.version}.0"
        try:
            parsed = Version(full.removesuffix("+"))
        except InvalidVersion:
            parsed = None
        if parsed is None or parsed.release[:2] != self.minor:
            raise TargetError(
                self.name,
                "python_full_version",
                f"the interpreter's release is {shown(full)}, expected a release of Python "
                f"{self.version}",
            )
        object.__setattr__(self, "python_full_version", full)

    @property
    def version(self) -> str:
        """The minor version alone: "3.13" also for "3.13t"."""
        return self.python.removesuffix("t")

    @property
    def minor(self) -> tuple[int, int]:
        """The minor version as numbers: (3, 12)."""
        return (3, int(self.version.partition(".")[2]))

    @property
    def abi(self) -> str:
        """The ABI tag: "cp312", "cp313t"."""
        abi = f"cp3{self.minor[1]}"
        if self.python.endswith("t"):
            return f"{abi}t"
        return abi if self.minor >= (3, 8) else f"{abi}m"

    @property
    def machine(self) -> str:
        """The machine as ``platform_machine`` gives it: "x86_64", "arm64", "AMD64"."""
        for pattern in (_MANYLINUX, _MUSLLINUX):
            if match := pattern.fullmatch(self.platform):
                return match[2]
        if match := _MACOS.fullmatch(self.platform):
            return match[3]
        return _WINDOWS[self.platform]

    @property
    def libc(self) -> tuple[str, int, int] | None:
        """("glibc", 2, 28) or ("musl", 1, 2); None where the platform has no such floor."""
        if match := _MANYLINUX.fullmatch(self.platform):
            return ("glibc", 2, int(match[1]))
        if match := _MUSLLINUX.fullmatch(self.platform):
            return ("musl", 1, int(match[1]))
        return None

    def platforms(self) -> tuple[str, ...]:
        """Every platform tag this target accepts, best first."""
        return _platforms(self.platform, self.local_wheels)

    def tags(self) -> tuple[pep425.Tag, ...]:
        """Every tag this target accepts, best first."""
        return _tags(self.minor, self.abi, self.platform, self.local_wheels)

    def rank(self, wheel_tags: Iterable[pep425.Tag]) -> int | None:
        """The position of the best of ``wheel_tags`` in :meth:`tags`; None: does not fit."""
        ranks = _ranks(self.minor, self.abi, self.platform, self.local_wheels)
        found = [ranks[tag] for tag in wheel_tags if tag in ranks]
        return min(found) if found else None

    def environment(self) -> Environment:
        """All eleven marker variables.

        All of them, because a missing one would be filled in from the running machine.
        ``platform_release`` and ``platform_version`` are empty: :meth:`evaluate` refuses
        markers that ask for them.
        """
        if self.platform.startswith("macosx"):
            os_name, system, sys_platform = "posix", "Darwin", "darwin"
        elif self.platform.startswith("win"):
            os_name, system, sys_platform = "nt", "Windows", "win32"
        else:
            os_name, system, sys_platform = "posix", "Linux", "linux"
        return {
            "implementation_name": "cpython",
            "implementation_version": self.python_full_version,
            "os_name": os_name,
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": system,
            "platform_version": "",
            "python_full_version": self.python_full_version,
            "python_version": self.version,
            "sys_platform": sys_platform,
        }

    def evaluate(self, marker: Marker | str, *, extra: str = "", where: str = "") -> bool:
        """Whether ``marker`` holds on this target (for one extra, or none).

        Raises :class:`MarkerError` when it asks for the kernel's release or version, or
        compares what cannot be compared.
        """
        parsed = Marker(marker) if isinstance(marker, str) else marker
        check_marker(parsed, where or f"target {self.name}")
        environment = {**self.environment(), "extra": extra}
        try:
            return parsed.evaluate(_values(environment))
        except (UndefinedComparison, UndefinedEnvironmentName) as error:
            raise MarkerError(
                where or f"target {self.name}",
                f"marker {shown(str(parsed))} has no answer: {error}",
            ) from None

    @classmethod
    def running(cls, name: str = "default") -> Target:
        """The interpreter and machine this process runs on.

        The one function here that looks at the machine.
        """
        import platform
        import sys
        import sysconfig

        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
        return cls(
            name=name,
            python=version + ("t" if threaded else ""),
            platform=_running_platform(name),
            python_full_version=platform.python_version(),
        )


def _values(environment: Mapping[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in environment.items()}


def check_marker(marker: Marker, where: str) -> None:
    """Refuse a marker whose value depends on one running kernel.

    Raises :class:`MarkerError` naming the variable.
    """
    match = _UNKNOWABLE.search(_QUOTED.sub("", str(marker)))
    if match is not None:
        raise MarkerError(
            where,
            f"marker {shown(str(marker))} asks for {match[0]}, which only a running machine has",
            "it cannot be locked for a target",
        )


def build_key(build: BuildTag) -> tuple[int, str]:
    """A sort key for build tags: no tag first, then by number, then by text (PEP 427)."""
    return (build[0], build[1]) if build else (-1, "")


def _canonical_platform(name: str, platform: str) -> str:
    if match := _LEGACY.fullmatch(platform):
        platform = f"manylinux_2_{_LEGACY_GLIBC[match[1]]}_{match[2]}"
    for pattern in (_MANYLINUX, _MUSLLINUX):
        if match := pattern.fullmatch(platform):
            machine = match[2]
            if machine not in _LINUX_MACHINES:
                raise TargetError(
                    name,
                    "platform",
                    f"platform {shown(platform)} names the machine {shown(machine)}, expected "
                    f"one of {', '.join(sorted(_LINUX_MACHINES))}",
                )
            floor = _glibc_floor(machine)
            if pattern is _MANYLINUX and int(match[1]) < floor:
                raise TargetError(
                    name,
                    "platform",
                    f"platform {shown(platform)} is older than any manylinux wheel for "
                    f"{machine}, the oldest is manylinux_2_{floor}_{machine}",
                )
            return platform
    if platform in _WINDOWS or (_MACOS.fullmatch(platform) and any(_platforms(platform, False))):
        return platform
    hint = "such as manylinux_2_28_x86_64, musllinux_1_2_aarch64 or macosx_14_0_arm64"
    if platform.startswith("linux_"):
        hint = "plain linux says nothing about the C library: name the oldest glibc or musl"
    raise TargetError(
        name, "platform", f"platform is {shown(platform)}, expected a platform tag", hint
    )


def _glibc_floor(machine: str) -> int:
    """The oldest glibc minor version manylinux wheels exist for."""
    return 5 if machine in {"x86_64", "i686"} else 17


@functools.lru_cache(maxsize=64)
def _platforms(platform: str, local_wheels: bool) -> tuple[str, ...]:
    return tuple(_iter_platforms(platform, local_wheels))


def _iter_platforms(platform: str, local_wheels: bool) -> Iterator[str]:
    if match := _MANYLINUX.fullmatch(platform):
        machine = match[2]
        if local_wheels:
            yield f"linux_{machine}"
        for minor in range(int(match[1]), _glibc_floor(machine) - 1, -1):
            yield f"manylinux_2_{minor}_{machine}"
            if minor in _GLIBC_LEGACY:
                yield f"manylinux{_GLIBC_LEGACY[minor]}_{machine}"
    elif match := _MUSLLINUX.fullmatch(platform):
        machine = match[2]
        if local_wheels:
            yield f"linux_{machine}"
        for minor in range(int(match[1]), -1, -1):
            yield f"musllinux_1_{minor}_{machine}"
    elif match := _MACOS.fullmatch(platform):
        yield from pep425.mac_platforms((int(match[1]), int(match[2])), match[3])
    else:
        yield platform


@functools.lru_cache(maxsize=64)
def _tags(
    minor: tuple[int, int], abi: str, platform: str, local_wheels: bool
) -> tuple[pep425.Tag, ...]:
    platforms = _platforms(platform, local_wheels)
    interpreter = f"cp{minor[0]}{minor[1]}"
    # The ABI is always passed: left out, packaging takes the running interpreter's.
    return (
        *pep425.cpython_tags(minor, abis=[abi], platforms=platforms),
        *pep425.compatible_tags(minor, interpreter, platforms),
    )


@functools.lru_cache(maxsize=64)
def _ranks(
    minor: tuple[int, int], abi: str, platform: str, local_wheels: bool
) -> dict[pep425.Tag, int]:
    ranks: dict[pep425.Tag, int] = {}
    for rank, tag in enumerate(_tags(minor, abi, platform, local_wheels)):
        ranks.setdefault(tag, rank)
    return ranks


def _running_platform(name: str) -> str:
    for platform in pep425.platform_tags():
        if platform.startswith(("manylinux_", "musllinux_", "win")):
            return platform
        # The first macOS tag names the running release and the native machine.
        if _MACOS.fullmatch(platform):
            return platform
    raise TargetError(
        name,
        "platform",
        "this machine's platform has no wheel tag wainwright knows",
        "name a platform in wain.toml",
    )
