"""`wain wheelhouse …`: list, add, verify, explain, serve and prune the project's wheelhouse."""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import TYPE_CHECKING, Any, cast

from wain.cli import EXIT_CODES, global_options
from wain.output import Output, human_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from builder.spec import BuildSpec
    from wheelhouse.entry import Entry
    from wheelhouse.index import Wheelhouse
    from wheelhouse.lock import Lock

_PORT = 8041

# action -> one line of help
_ACTIONS = {
    "list": "list what the wheelhouse holds",
    "add": "check wheels and sdists and take them in",
    "verify": "hash every file again; name what is corrupt, missing or unlisted",
    "why": "show every candidate for a requirement, and why it was taken or refused",
    "serve": "serve the wheelhouse as an index for pip, uv and others",
    "prune": "remove what no lock of this project names",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each action."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action")
    parsers = {}
    for name, text in _ACTIONS.items():
        parsers[name] = actions.add_parser(
            name,
            parents=cast(Any, [global_options()]),
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=EXIT_CODES,
        )
        parsers[name].add_argument(
            "--wheelhouse", metavar="DIR", help="another wheelhouse than the project's"
        )
    parsers["list"].add_argument("project", nargs="?", help="only this project's files")
    parsers["add"].add_argument("files", nargs="+", metavar="FILE", help="a wheel or sdist")
    parsers["add"].add_argument("--sha256", help="what the file must have (one file only)")
    parsers["why"].add_argument("requirement", metavar="REQ", help="such as 'numpy>=2'")
    parsers["why"].add_argument(
        "--target", action="append", metavar="T", help="a target of wain.toml; default: all"
    )
    parsers["serve"].add_argument(
        "--port", type=int, default=_PORT, help=f"default {_PORT}; 0 takes a free one"
    )
    parsers["serve"].add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parsers["prune"].add_argument(
        "--dry-run", "-n", action="store_true", help="show what would go, remove nothing"
    )
    parser.set_defaults(show_help=parser.print_help)


def run(args: argparse.Namespace, out: Output) -> int:
    """Run one action."""
    if not args.action:
        args.show_help()
        return 2
    actions = {
        "list": _list,
        "add": _add,
        "verify": _verify,
        "why": _why,
        "serve": _serve,
        "prune": _prune,
    }
    return actions[args.action](args, out)


def _spec(args: argparse.Namespace) -> BuildSpec | None:
    """The folder's build, None where nothing there describes one."""
    from builder.spec import FILE, load_spec

    names = (FILE, "requirements.txt", "pylock.toml", "pyproject.toml")
    if not any(os.path.lexists(os.path.join(args.directory, name)) for name in names):  # noqa: PTH118
        return None
    return load_spec(args.directory)


def _house(args: argparse.Namespace) -> Wheelhouse:
    from pathlib import Path

    from builder.spec import WHEELHOUSE
    from wheelhouse.index import Wheelhouse

    if args.wheelhouse:
        return Wheelhouse(Path(args.wheelhouse))
    spec = _spec(args)
    folder = Path(spec.wheelhouse) if spec else Path(args.directory).absolute() / WHEELHOUSE
    return Wheelhouse(folder)


def _document(entry: Entry) -> dict[str, object]:
    return {
        "file": entry.filename,
        "name": entry.name,
        "version": str(entry.version),
        "kind": entry.kind,
        "sha256": entry.sha256,
        "size": entry.size,
        "requires_python": entry.requires_python,
        "upload_time": entry.upload_time.isoformat(),
    }


def _list(args: argparse.Namespace, out: Output) -> int:
    from packaging.utils import canonicalize_name

    house = _house(args)
    entries = house.files(canonicalize_name(args.project) if args.project else None)
    rows = [[e.name, e.version, human_bytes(e.size), e.filename] for e in entries]
    if rows:
        out.table(["project", "version", "size", "file"], rows)
    total = sum(entry.size for entry in entries)
    out.say(f"{len(entries)} files, {human_bytes(total)} in {house.folder}")
    documents = [_document(entry) for entry in entries]
    out.result({"wheelhouse": str(house.folder), "files": documents, "bytes": total})
    return 0


def _add(args: argparse.Namespace, out: Output) -> int:
    from pathlib import Path

    from wheelhouse.errors import UsageError, WheelhouseError

    if args.sha256 and len(args.files) != 1:
        raise UsageError("--sha256", f"is for one file, {len(args.files)} are named")
    house = _house(args)
    files: list[dict[str, object]] = []
    refused: list[dict[str, object]] = []
    for done, name in enumerate(args.files, 1):
        path = Path(name)
        known = house.entry(path.name)
        try:
            entry = house.add(path, sha256=args.sha256)
        except WheelhouseError as error:
            out.error(str(error))
            rule = getattr(error, "rule", None)
            refused.append({"file": path.name, "rule": rule, "error": str(error)})
            continue
        kept = known is not None and known.sha256 == entry.sha256
        out.say(f"{'kept' if kept else 'added'}  {entry.filename}")
        files.append({**_document(entry), "source": "kept" if kept else "added"})
        out.progress("checking", done, len(args.files))
    out.result({"files": files, "refused": refused})
    return 1 if refused else 0


def _verify(args: argparse.Namespace, out: Output) -> int:
    house = _house(args)
    problems = house.verify(out.progress)
    count = len(house.files())
    if problems:
        out.table(["file", "what", "detail"], [[p.file, p.what, p.detail] for p in problems])
    out.say(f"{count} files are good, {len(problems)} problems in {house.folder}")
    bad = [{"file": p.file, "what": p.what, "detail": p.detail} for p in problems]
    out.result({"ok": not problems, "files": count, "bad": bad})
    return 3 if problems else 0


def _why(args: argparse.Namespace, out: Output) -> int:
    from builder.spec import TargetSpec
    from wheelhouse.errors import UsageError
    from wheelhouse.index import parse_requirement

    requirement = parse_requirement(args.requirement)
    spec = _spec(args)
    if spec is None and args.target:
        raise UsageError("--target", f"there is no wain.toml in {args.directory} to name targets")
    wanted = spec.chosen_targets(args.target) if spec else (TargetSpec("default"),)
    house = _house(args)
    document: dict[str, list[dict[str, object]]] = {}
    for target in (each.target() for each in wanted):
        where = f"{requirement.name} on {target.name} (Python {target.python}, {target.platform})"
        verdicts = house.why(requirement, target)
        out.say(f"{where}: {'' if verdicts else 'the wheelhouse holds no file of it'}".rstrip())
        if requirement.marker and not target.evaluate(requirement.marker):
            out.say(f"not needed there: {requirement.marker} does not hold")
        rows = [["taken" if v.taken else "-", v.entry.filename, v.reason] for v in verdicts]
        if rows:
            out.table(["", "file", "why"], rows)
        document[target.name] = [
            {"file": v.entry.filename, "taken": v.taken, "reason": v.reason} for v in verdicts
        ]
    out.result({"requirement": str(requirement), "targets": document})
    return 0 if any(document.values()) else 1


def _serve(args: argparse.Namespace, out: Output) -> int:
    import signal

    from wheelhouse.serve import IndexServer

    house = _house(args)
    house.ensure_pages()
    with IndexServer(house.folder, args.host, args.port, out.detail) as server:
        out.say(f"serving {house.folder}")
        out.say(f"  pip install --index-url {server.url} …")
        out.say(f"  uv pip install --default-index {server.url} …")
        out.say("Ctrl-C ends it")
        out.result({"url": server.url, "wheelhouse": str(house.folder)})
        # Whoever started this as a service wants to know the address now, not at the end.
        out.finish()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            out.say("stopped")
    return 0


def _prune(args: argparse.Namespace, out: Output) -> int:
    house = _house(args)
    # What to keep is only known while nobody else brings files in.
    with contextlib.nullcontext() if args.dry_run else house.alone():
        keep = _kept(args, house)
        entries = house.files()
        if args.dry_run:
            gone = tuple(entry for entry in entries if entry.filename not in keep)
        else:
            gone = house.prune(keep)
    for entry in gone:
        out.say(f"{'would remove' if args.dry_run else 'removed'}  {entry.filename}")
    total = sum(entry.size for entry in gone)
    verb = "would go" if args.dry_run else "gone"
    out.say(f"{len(gone)} files {verb}, {human_bytes(total)}; {len(entries) - len(gone)} kept")
    out.result({"removed": [e.filename for e in gone], "bytes": total, "dry_run": args.dry_run})
    return 0


def _kept(args: argparse.Namespace, house: Wheelhouse) -> set[str]:
    """The names of the files the project's locks need.

    The locks themselves, the build locks, the wheels built of their sdists, and the project's
    own wheels. Raises UsageError without a lock: then nothing says what to keep.
    """
    from pathlib import Path

    from wheelhouse.errors import UsageError
    from wheelhouse.lock import read_lock

    spec = _spec(args)
    paths = sorted((Path(args.directory) / "locks").glob("pylock.*.toml"))
    if spec and spec.given_lock:
        paths.append(Path(spec.given_lock))
    if not paths:
        raise UsageError(str(house.folder), "no lock says what to keep", "run 'wain lock' first")
    locks: list[Lock] = [read_lock(path) for path in paths]
    keep = {package.file.filename for lock in locks for package in lock.packages}
    sdists = {
        (package.name, package.version)
        for lock in locks
        for package in lock.packages
        if package.kind == "sdist"
    }
    own = _own_name(Path(spec.project)) if spec and spec.project else ""

    def built(entry: Entry) -> bool:
        return (entry.name, str(entry.version)) in sdists or entry.name == own

    return keep | {entry.filename for entry in house.files() if built(entry)}


def _own_name(folder: Path) -> str:
    """The normalised name of the project in a folder, "" where it has none."""
    from packaging.utils import canonicalize_name

    from images.tomlfile import load_toml

    project = load_toml(str(folder / "pyproject.toml"), "pyproject.toml").data.get("project")
    name = project.get("name") if isinstance(project, dict) else None
    return canonicalize_name(name) if isinstance(name, str) else ""
