"""`wain image diff A B`: by package first, then by file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from wain.output import Output, human_bytes
from wain.shared import open_catalog, short

if TYPE_CHECKING:
    from images.diff import Diff, FileChange
    from images.manifest import Entry
    from images.store import Store

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_MAX_TEXT = 1 << 20  # bytes; larger texts are shown as sizes


def arguments(parser: argparse.ArgumentParser) -> None:
    """Two images."""
    parser.add_argument("before", metavar="A", help="name, name:tag or id")
    parser.add_argument("after", metavar="B", help="name, name:tag or id")
    parser.add_argument("--target", default="", metavar="T", help="where a name has several")
    parser.add_argument("--files", action="store_true", help="list the files that differ")
    parser.add_argument("--text", action="store_true", help="show how texts differ (means --files)")


def run(args: argparse.Namespace, out: Output) -> int:
    """Compare; differing is no failure, so the exit code is 0."""
    from images.diff import compare, versions

    catalog = open_catalog(args)
    before = catalog.resolve(args.before, args.target)
    after = catalog.resolve(args.after, args.target)
    diff = compare(
        catalog.store.manifest(before),
        catalog.store.manifest(after),
        versions(catalog.document(before).to_json()),
        versions(catalog.document(after).to_json()),
    )
    document = {"from": before, "to": after, **diff.to_json()}
    hunks: dict[str, list[str]] = {}
    if args.text:
        hunks = {change.path: _hunks(catalog.store, change) for change in diff.files
                 if change.what == "changed" and not change.is_noise}  # fmt: skip
        for item in document["files"]["changed"]:
            if item["path"] in hunks:
                item["text"] = hunks[item["path"]]
    _show_packages(diff, before, after, out)
    if args.files or args.text:
        _show_files(diff, hunks, out)
    out.result(document)
    return 0


def _show_packages(diff: Diff, before: str, after: str, out: Output) -> None:
    if not diff:
        out.say(f"{short(before)} and {short(after)} are the same image")
        return
    rows = [
        [_SIGNS[one.what], one.name, one.before or "", one.after or "", one.files]
        for one in diff.packages
    ]
    own = sum(1 for _ in diff.files_of("-"))
    if own:
        rows.append(["~", "(the environment itself)", "", "", own])
    out.table(["", "package", "from", "to", "files"], rows)
    out.say(f"{len(diff.files)} files differ, {human_bytes(diff.size)} new")


def _show_files(diff: Diff, hunks: dict[str, list[str]], out: Output) -> None:
    owners = sorted({change.owner for change in diff.files})
    for owner in owners:
        out.say()
        out.say(f"{owner if owner != '-' else '(the environment itself)'}:")
        folded = 0
        for change in diff.files_of(owner):
            if change.is_noise:
                folded += 1
                continue
            details = ", ".join(change.details()) or _size(change)
            out.say(f"  {_SIGNS[change.what]} {change.path}  {details}")
            for line in hunks.get(change.path, []):
                out.say(f"      {line}")
        if folded:
            out.say(f"  and {folded} of bytecode and installer's records")


def _size(change: FileChange) -> str:
    entry = change.after or change.before
    return human_bytes(entry.size) if entry else ""


def _hunks(store: Store, change: FileChange) -> list[str]:
    from images.diff import text_hunks

    old, new = change.before, change.after
    if old is None or new is None or old.sha256 == new.sha256:
        return []
    if max(old.size, new.size) > _MAX_TEXT or "link" in (old.kind, new.kind):
        return []

    def read(entry: Entry) -> bytes:
        return store.read(*entry.key)

    return text_hunks(change.path, read(old), read(new))
