"""The difference of two locks, and the table made of it."""

from __future__ import annotations

from builder.changes import Change, as_markdown, changes
from wheelhouse.lock import Lock, LockedFile, LockedPackage
from wheelhouse.target import Target

TARGET = Target("t", "3.12", "manylinux_2_28_x86_64")


def lock(**versions: str) -> Lock:
    return Lock(
        TARGET,
        tuple(
            LockedPackage(name, version.rstrip("!"), LockedFile(f"{name}.whl", version * 8))
            for name, version in versions.items()
        ),
    )


def test_every_kind_of_change() -> None:
    old = lock(same="1", up="1.9", down="2", gone="1", other="1")
    new = lock(same="1", up="1.10", down="1", fresh="3", other="1!")
    assert changes(old, new) == (
        Change("down", "2", "1", "downgraded"),
        Change("fresh", "", "3", "added"),
        Change("gone", "1", "", "removed"),
        Change("other", "1", "1", "rebuilt"),
        Change("up", "1.9", "1.10", "upgraded"),
    )
    assert changes(old, old) == ()
    assert {change.what for change in changes(None, new)} == {"added"}


def test_table_shares_rows_between_targets() -> None:
    both = Change("a", "1", "2", "upgraded")
    one = Change("b", "", "1", "added")
    assert as_markdown([("x", (both, one)), ("y", (both,))]) == [
        "| package | from | to | | targets |",
        "|---|---|---|---|---|",
        "| a | 1 | 2 | upgraded | all |",
        "| b | - | 1 | added | x |",
    ]
    assert as_markdown([("x", ())]) == []
