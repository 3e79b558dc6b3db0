"""Put source code into a build folder: an sdist's, or a project's own tree."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidSdistFilename, parse_sdist_filename

from builder.tracked import tracked_files
from images.errors import WainError
from wheelhouse.sdistcheck import check_sdist
from wheelhouse.text import bare, shown

MAX_MEMBERS = 200_000
MAX_BYTES = 8 << 30
# 1980-01-01, the first moment a zip can hold.
EPOCH = 315_532_800
# What a backend gets when a project has no [build-system] table (PEP 517, PEP 518).
DEFAULT_REQUIRES = ("setuptools>=40.8.0",)
_NOT_SOURCE = frozenset(
    {".git", ".hg", ".svn", ".wain", "__pycache__", ".tox", ".nox", ".mypy_cache",
     ".pytest_cache", ".ruff_cache", ".hypothesis", "node_modules"}
)  # fmt: skip
# At the top of a project these are made by builds or by wain, unless they are packages.
_MADE = frozenset({"build", "dist", "locks"})
# Tracked, but made from the sources: an image's own lock may not change the image.
_LOCK = re.compile(r"locks/(?:image\.[^/]*\.txt|pylock\.[^/]*\.toml)")


class SourceError(WainError):
    """Source code that cannot be built: no good sdist, or no Python project."""


@dataclass(frozen=True, slots=True)
class SdistName:
    """An sdist's normalised project name and version, from its file name."""

    name: str
    version: str


def sdist_name(path: Path) -> SdistName:
    """Parse an sdist's file name. Raises :class:`SourceError`."""
    try:
        name, version = parse_sdist_filename(path.name)
    except InvalidSdistFilename as error:
        raise SourceError(bare(path.name), f"is no sdist file name: {bare(error)}") from None
    return SdistName(name, str(version))


def unpack_sdist(path: Path, folder: Path) -> None:
    """Unpack an sdist so that its one top folder becomes ``folder``.

    Members are created in sorted order, so that a listing of the folder does not depend on
    the archive. Raises ``WheelError`` (W11) for an sdist that no wheelhouse would take, and
    :class:`SourceError`.
    """
    check_sdist(path)
    staging = folder.with_name(folder.name + ".unpacked")
    staging.mkdir()
    try:
        _untar(path, staging)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise SourceError(bare(path.name), f"cannot be unpacked: {bare(error)}") from None
    tops = list(staging.iterdir())
    if len(tops) != 1 or not tops[0].is_dir() or tops[0].is_symlink():
        raise SourceError(
            bare(path.name), f"has {len(tops)} entries at its top, expected one folder"
        )
    tops[0].rename(folder)
    staging.rmdir()


def _untar(path: Path, staging: Path) -> None:
    with tarfile.open(path, "r:gz") as archive:
        members = []
        total = 0
        for member in archive:
            total += member.size
            members.append(member)
            if len(members) > MAX_MEMBERS or total > MAX_BYTES:
                raise SourceError(bare(path.name), "is larger than any sdist")
        members.sort(key=lambda member: member.name)
        archive.extractall(staging, members, filter=_plain_member)


def _plain_member(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """The standard data filter, with modes and times that do not depend on the packer."""
    if member.type in (tarfile.XGLTYPE, tarfile.XHDTYPE):
        return None
    checked = tarfile.data_filter(member, path)
    mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    # Times keep their order (make looks at it) but not what lies before the epoch.
    return checked.replace(mode=mode, mtime=max(EPOCH, int(member.mtime)), deep=False)


def build_requirements(source: Path, where: str) -> list[str]:
    """``build-system.requires`` of an unpacked project, or what stands in for it.

    ``where`` is for messages. Raises :class:`SourceError` when there is no Python project,
    or a requirement is none or names an address instead of a version.
    """
    path = source / "pyproject.toml"
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        document = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SourceError(where, f"pyproject.toml: {bare(error)}") from None
    table = document.get("build-system")
    if table is None:
        if not document and not (source / "setup.py").is_file():
            raise SourceError(where, "has neither pyproject.toml nor setup.py")
        return list(DEFAULT_REQUIRES)
    requires = table.get("requires") if isinstance(table, dict) else None
    if not isinstance(requires, list) or not all(isinstance(item, str) for item in requires):
        raise SourceError(where, "pyproject.toml: build-system.requires must be a list of strings")
    return checked_requirements(requires, f"{where}: pyproject.toml: build-system.requires")


def checked_requirements(requires: list[str], where: str) -> list[str]:
    """The same requirements, sorted, each one parsed. Raises :class:`SourceError`."""
    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            raise SourceError(where, f"{shown(text)} is no requirement") from None
        if requirement.url:
            raise SourceError(
                where,
                f"{shown(requirement.name)} comes from an address, not from an index",
                "it cannot be locked by hash; publish a wheel of it",
            )
    return sorted(set(requires))


def copy_project(source: Path, folder: Path, with_history: bool) -> str:
    """Copy a project's tree for a build and return its digest (sha256, hex).

    Of a git repository the tracked files are taken. Left out: version control (unless
    ``with_history``, for backends that read the version from it), caches, virtual
    environments, and what builds and wain itself leave at the top.
    The digest covers paths, executable bits and bytes; ``.git`` is not in it.
    Raises :class:`SourceError`.
    """
    digest = hashlib.sha256()
    try:
        folder.mkdir()
        for path in _source_files(source):
            relative = path.relative_to(source)
            executable = bool(path.stat().st_mode & 0o100)
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes()
            target.write_bytes(data)
            target.chmod(0o755 if executable else 0o644)
            os.utime(target, (EPOCH, EPOCH))
            name = relative.as_posix().encode("utf-8", "surrogateescape")
            digest.update(b"%d %d %b\0" % (executable, len(data), name))
            digest.update(data)
        if with_history and (source / ".git").is_dir():
            shutil.copytree(source / ".git", folder / ".git", symlinks=True)
    except OSError as error:
        raise SourceError(str(source), f"cannot be copied: {error.strerror}") from None
    return digest.hexdigest()


def project_files(source: Path) -> list[Path]:
    """The files of a project's tree that its build gets to see. Raises :class:`SourceError`."""
    try:
        return list(_source_files(source))
    except OSError as error:
        raise SourceError(str(source), f"cannot be read: {error.strerror}") from None


def _source_files(source: Path) -> Iterator[Path]:
    """What git tracks, else every file that is no trace of work on it; never what wain made."""
    tracked = tracked_files(source)
    if tracked is None:
        yield from _project_files(source, source, top=True)
        return
    for path in tracked:
        if _LOCK.fullmatch(path.relative_to(source).as_posix()):
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(source.resolve()):
            raise SourceError(str(path), "is a link to a file outside the project")
        yield path


def _project_files(folder: Path, root: Path, top: bool = False) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        name = path.name
        if name in _NOT_SOURCE or name.endswith((".pyc", ".egg-info")):
            continue
        if path.is_dir():
            if (path / "pyvenv.cfg").exists():
                continue
            if top and name in _MADE and not (path / "__init__.py").exists():
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                raise SourceError(str(path), "is a link to a folder outside the project")
            if path.is_symlink() and path.resolve() in (path.parent.resolve(), *path.parents):
                continue
            yield from _project_files(path, root)
        elif path.is_file():
            if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                raise SourceError(str(path), "is a link to a file outside the project")
            yield path
