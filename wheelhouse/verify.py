"""Looking at every byte of a wheelhouse: what is corrupt, missing, unlisted or out of date."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from wheelhouse.entry import Entry, in_order, parse_filename
from wheelhouse.locks_here import locks_in, wrong_in
from wheelhouse.notes import Notes
from wheelhouse.site import Site
from wheelhouse.wheel import file_sha256
from wheelhouse.zipcheck import Refused

METADATA_SUFFIX = ".metadata"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: ``what`` is "corrupt", "missing", "unlisted", "page" or "lock"."""

    file: str
    what: str
    detail: str


def verify(notes: Notes, site: Site, on_progress: Progress | None = None) -> tuple[Problem, ...]:
    """Hash every file, and compare folder, notes and pages with each other. Changes nothing."""
    noted = in_order(notes.all())
    problems: list[Problem] = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for done, found in enumerate(pool.map(lambda e: _check(notes.folder, e), noted), 1):
            problems.extend(found)
            if on_progress is not None:
                on_progress("verifying", done, len(noted))
    known = {entry.filename for entry in noted}
    problems.extend(_unlisted(notes.folder, known))
    problems.extend(_locks(notes.folder, noted))
    problems.extend(_pages(notes, site, noted))
    return tuple(sorted(problems, key=lambda problem: (problem.file, problem.what)))


def _check(folder: Path, entry: Entry) -> list[Problem]:
    found = []
    digest, size = _digest(folder / entry.filename)
    if digest is None:
        found.append(Problem(entry.filename, "missing", "was taken in and is not there"))
    elif digest != entry.sha256:
        detail = f"has sha256 {digest} and {size} bytes, expected {entry.sha256} and {entry.size}"
        found.append(Problem(entry.filename, "corrupt", detail))
    if entry.metadata_sha256 is not None:
        name = entry.filename + METADATA_SUFFIX
        digest, _ = _digest(folder / name)
        if digest is None:
            found.append(Problem(name, "missing", "the copy of METADATA is not there"))
        elif digest != entry.metadata_sha256:
            detail = f"has sha256 {digest}, expected {entry.metadata_sha256}"
            found.append(Problem(name, "corrupt", detail))
    return found


def _digest(path: Path) -> tuple[str | None, int]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None, 0
    try:
        return file_sha256(handle), os.fstat(handle).st_size
    except OSError as error:
        return f"unreadable: {error.strerror}", 0
    finally:
        os.close(handle)


def _unlisted(folder: Path, known: set[str]) -> list[Problem]:
    found = []
    expected = known | {name + METADATA_SUFFIX for name in known} | {"simple", ".meta", ".staging"}
    expected |= {path.name for path in locks_in(folder)}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name in expected:
            continue
        detail = "is not a wheel or sdist of this wheelhouse"
        try:
            parse_filename(path.name)
            detail = "was not taken in; 'wain wheelhouse add' checks it"
        except Refused:
            pass
        found.append(Problem(path.name, "unlisted", detail))
    return found


def _locks(folder: Path, noted: tuple[Entry, ...]) -> list[Problem]:
    """Locks beside the files that name what is not there."""
    hashes = {entry.filename: entry.sha256 for entry in noted}
    found = [(path.name, wrong_in(path, hashes)) for path in locks_in(folder)]
    return [Problem(name, "lock", detail) for name, detail in found if detail]


def _pages(notes: Notes, site: Site, noted: tuple[Entry, ...]) -> list[Problem]:
    """Pages that differ from the notes. A corrupt file is one problem, not two."""
    projects: dict[str, list[Entry]] = {}
    for entry in noted:
        projects.setdefault(entry.name, []).append(entry)
    found = [
        Problem(f"simple/{name}", "page", "does not say what the wheelhouse holds")
        for name, entries in projects.items()
        if site.stale(name, entries)
    ]
    found += [
        Problem(f"simple/{name}", "page", "names a project the wheelhouse has nothing of")
        for name in site.projects()
        if name not in projects
    ]
    if projects and site.root_stale(sorted(projects)):
        found.append(Problem("simple", "page", "does not list the projects of the wheelhouse"))
    return found
