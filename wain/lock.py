"""`wain lock`: requirements to locks, proved for every target."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from wain.output import Output

if TYPE_CHECKING:
    from builder.changes import Change
    from builder.locking import Locking
    from builder.spec import BuildSpec, TargetSpec
    from wheelhouse.lock import Lock


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wain lock`."""
    parser.add_argument(
        "--target", action="append", metavar="T", help="only this target (may be repeated)"
    )
    parser.add_argument(
        "--upgrade",
        action="append",
        default=[],
        metavar="PKG[==X]",
        help="move this package, to X or to the newest, and what that forces; nothing else",
    )
    parser.add_argument(
        "--upgrade-all", action="store_true", help="take the newest of everything that is allowed"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 3 when a lock is out of date"
    )
    parser.add_argument(
        "--urls", action="store_true", help="write the address of each file into the lock too"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Lock, or check the locks."""
    from builder.spec import load_spec
    from images.errors import UsageError

    spec = load_spec(args.directory)
    targets = spec.chosen_targets(args.target)
    if args.check:
        if args.upgrade or args.upgrade_all:
            raise UsageError("--check", "writes nothing, so it does not go with --upgrade")
        return _check(spec, targets, out)
    from builder.locking import Locking, parse_upgrades

    return _lock(
        Locking(
            spec,
            targets,
            parse_upgrades(args.upgrade),
            newest=args.upgrade_all,
            urls=args.urls,
            on_progress=out.progress,
            say=out.warn,
        ),
        out,
    )


def _lock(locking: Locking, out: Output) -> int:
    from builder.changes import as_markdown, changes

    written = locking.write(locking.resolve())
    differences = {name: changes(one.previous, one.lock) for name, one in written.items()}
    for name, one in written.items():
        sdists = sum(package.kind == "sdist" for package in one.lock.packages)
        from_source = f", {sdists} from source" if sdists else ""
        state = _state(one.previous is None, one.changed)
        out.say(f"{name}: locks/{one.path.name}: {len(one.lock.packages)} packages"
                f"{from_source}, {state}")  # fmt: skip
    if out.verbose or (len(written) > 1 and any(not one.previous for one in written.values())):
        _show_proof({name: one.lock for name, one in written.items()}, out)
    if any(one.previous is not None for one in written.values()):
        for line in as_markdown(differences.items()):
            out.say(line)
    out.result(
        {
            "targets": {
                name: {
                    "lock": str(one.path),
                    "changed": one.changed,
                    "packages": _packages(one.lock),
                    "changes": [_change(change) for change in differences[name]],
                }
                for name, one in written.items()
            }
        }
    )
    return 0


def _state(new: bool, changed: bool) -> str:
    return "new" if new else "changed" if changed else "unchanged"


def _packages(lock: Lock) -> list[dict[str, object]]:
    return [
        {
            "name": package.name,
            "version": package.version,
            "file": package.file.filename,
            "sha256": package.file.sha256,
            "kind": package.kind,
        }
        for package in lock.packages
    ]


def _change(change: Change) -> dict[str, str]:
    return {"name": change.name, "from": change.old, "to": change.new, "what": change.what}


def _show_proof(locks: dict[str, Lock], out: Output) -> None:
    """The table of packages by targets: what each target installs."""
    names = sorted({package.name for lock in locks.values() for package in lock.packages})
    rows = []
    for name in names:
        row = [name]
        for lock in locks.values():
            package = lock.package(name)
            row.append(_cell(package.version, package.file.filename) if package else "-")
        rows.append(row)
    out.table(["package", *locks], rows)


def _cell(version: str, filename: str) -> str:
    """``1.2 manylinux_2_28``: the version, and what of the file's name says where it runs."""
    if not filename.endswith(".whl"):
        return f"{version} sdist"
    _, _, platform = filename.removesuffix(".whl").rpartition("-")
    return f"{version} {'pure' if platform == 'any' else platform.rpartition('.')[2]}"


def _check(spec: BuildSpec, targets: tuple[TargetSpec, ...], out: Output) -> int:
    from builder.lockcheck import check_lock
    from builder.requirements import Inputs, read_inputs

    inputs = Inputs(()) if spec.given_lock else read_inputs(spec)
    verdicts: dict[str, dict[str, object]] = {}
    ok = True
    for target in targets:
        verdict = check_lock(spec, target, inputs)
        problems = list(verdict.problems)
        if not verdict.decided:
            problems = _resolved_anew(spec, target, verdict.lock, out)
        for problem in problems:
            out.say(f"{target.name}: {problem}")
        if not problems:
            out.say(f"{target.name}: the lock answers its requirements")
        ok = ok and not problems
        verdicts[target.name] = {
            "lock": spec.lock_path(target.name),
            "changed": bool(problems),
            "packages": _packages(verdict.lock) if verdict.lock else [],
            "problems": problems,
        }
    out.result({"ok": ok, "targets": verdicts})
    return 0 if ok else 3


def _resolved_anew(
    spec: BuildSpec, target: TargetSpec, lock: Lock | None, out: Output
) -> list[str]:
    """What would change; the resolver is asked because the files alone do not tell."""
    from builder.changes import changes
    from builder.locking import Locking

    out.detail(f"{target.name}: the inputs changed, resolving to see whether the lock does")
    new = Locking(spec, (target,), {}, on_progress=out.progress, say=out.warn).resolve()
    return [
        f"{change.name} {change.old or '-'} would become {change.new or '-'}"
        for change in changes(lock, new[target.name])
    ]
