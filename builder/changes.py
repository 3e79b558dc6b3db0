"""What changed between two locks, for people who review it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from packaging.version import Version

from wheelhouse.lock import Lock, LockedPackage


class Change(NamedTuple):
    """One package that is not the same: ``old`` or ``new`` is empty when it is not there.

    ``what``: ``added``, ``removed``, ``upgraded``, ``downgraded``, or ``rebuilt`` for another
    file of the same version.
    """

    name: str
    old: str
    new: str
    what: str


def changes(old: Lock | None, new: Lock) -> tuple[Change, ...]:
    """Every package that differs, by name."""
    before = {package.name: package for package in old.packages} if old else {}
    after = {package.name: package for package in new.packages}
    found = (
        _change(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
    )
    return tuple(change for change in found if change is not None)


def _change(name: str, old: LockedPackage | None, new: LockedPackage | None) -> Change | None:
    if old is None and new is not None:
        return Change(name, "", new.version, "added")
    if new is None and old is not None:
        return Change(name, old.version, "", "removed")
    assert old is not None
    assert new is not None
    if Version(old.version) != Version(new.version):
        up = Version(old.version) < Version(new.version)
        return Change(name, old.version, new.version, "upgraded" if up else "downgraded")
    if old.file.sha256 != new.file.sha256 or old.kind != new.kind:
        return Change(name, old.version, new.version, "rebuilt")
    return None


def as_markdown(sections: Iterable[tuple[str, tuple[Change, ...]]]) -> list[str]:
    """The changes of several targets as a table for a pull request.

    Targets with the same changes share their rows.
    """
    rows: dict[Change, list[str]] = {}
    names = []
    for target, found in sections:
        names.append(target)
        for change in found:
            rows.setdefault(change, []).append(target)
    if not rows:
        return []
    lines = ["| package | from | to | | targets |", "|---|---|---|---|---|"]
    for change in sorted(rows):
        where = "all" if rows[change] == names else ", ".join(rows[change])
        old, new = change.old or "-", change.new or "-"
        lines.append(f"| {change.name} | {old} | {new} | {change.what} | {where} |")
    return lines
