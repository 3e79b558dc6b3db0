"""The oldest glibc a wheel's compiled files really run on (rule W13).

A file name may promise ``manylinux_2_17`` while the loader wants ``GLIBC_2.34``: the
installation passes and the import fails. The versions a compiled file asks for are in its
``.gnu.version_r`` section; weak ones the loader lets pass.
"""

from __future__ import annotations

import io
import itertools
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.tags import Tag

from wheelhouse.text import shown
from wheelhouse.wheel import WheelError

_ELF = b"\x7fELF"
_LIBRARY = re.compile(r"\.so(\.[0-9.]+)?$")
_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?")
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")
_LEGACY = {"manylinux1_": (2, 5), "manylinux2010_": (2, 12), "manylinux2014_": (2, 17)}
_WEAK = 2
_MAX_NEEDS = 4096


@dataclass(frozen=True, slots=True)
class Floor:
    """The newest glibc version a wheel asks for, and the member that asks."""

    glibc: tuple[int, int]
    member: str

    def __str__(self) -> str:
        return f"{self.glibc[0]}.{self.glibc[1]}"


def promised_glibc(tags: Iterable[Tag]) -> tuple[int, int] | None:
    """The oldest glibc a wheel's tags promise to run on; None when they speak of none."""
    found = []
    for tag in tags:
        if match := _MANYLINUX.match(tag.platform):
            found.append((int(match[1]), int(match[2])))
        found += [version for name, version in _LEGACY.items() if tag.platform.startswith(name)]
    return min(found, default=None)


def glibc_floor(wheel: Path) -> Floor | None:
    """What the shared libraries in a wheel ask for; None when none of them asks for glibc.

    Files that are no valid ELF are passed over: whether they load is not the question here.
    """
    highest: Floor | None = None
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            if not _LIBRARY.search(info.filename) or info.file_size < len(_ELF):
                continue
            data = archive.read(info)
            version = _asked(data) if data.startswith(_ELF) else None
            if version is not None and (highest is None or version > highest.glibc):
                highest = Floor(version, info.filename)
    return highest


def _needs(data: bytes) -> Iterator[Any]:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    for section in ELFFile(io.BytesIO(data)).iter_sections("SHT_GNU_verneed"):
        if isinstance(section, GNUVerNeedSection):
            for _, wanted in itertools.islice(section.iter_versions(), _MAX_NEEDS):
                yield from wanted


def _asked(data: bytes) -> tuple[int, int] | None:
    # Only a wheel with compiled files needs the reader: loading it takes a while.
    from elftools.common.exceptions import ELFError

    found = []
    try:
        # The counts in the file are its own word: a crafted one must not keep us for hours.
        for one in itertools.islice(_needs(data), _MAX_NEEDS):
            match = _GLIBC.fullmatch(one.name)
            if match and not one["vna_flags"] & _WEAK:
                found.append((int(match[1]), int(match[2])))
    except (ELFError, ValueError, KeyError, OverflowError, AttributeError, TypeError, IndexError):
        return None
    return max(found, default=None)


def check_promise(wheel: Path, tags: Iterable[Tag]) -> None:
    """Refuse a wheel whose compiled files want a newer glibc than its name says.

    Raises :class:`WheelError` (W13) with both versions.
    """
    promised = promised_glibc(tags)
    floor = glibc_floor(wheel) if promised is not None else None
    if promised is not None and floor is not None and floor.glibc > promised:
        raise WheelError(
            wheel,
            "W13",
            f"{shown(floor.member)} needs glibc {floor}, the name promises to run on "
            f"glibc {promised[0]}.{promised[1]}",
        )
