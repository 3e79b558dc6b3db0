"""`wain build`: everything the locks name, in the wheelhouse."""

from __future__ import annotations

import argparse
import os

from wain.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wain build`."""
    parser.add_argument(
        "--target", action="append", metavar="T", help="only this target (may be repeated)"
    )
    parser.add_argument(
        "--reproduce",
        action="store_true",
        help="build every sdist twice in different folders and compare the bytes",
    )
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="downloads and builds at once"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Fill the wheelhouse; what is there is kept."""
    from builder.fill import fill
    from builder.spec import load_spec
    from images.errors import UsageError

    if args.jobs < 0:
        raise UsageError("--jobs", f"{args.jobs} is no number of jobs")
    spec = load_spec(args.directory)
    targets = spec.chosen_targets(args.target)
    made, locks = fill(
        spec, targets, jobs=args.jobs, reproduce=args.reproduce, on_progress=out.progress
    )
    shown = made if out.verbose else [one for one in made if one.source != "kept"]
    if shown:
        out.table(
            ["wheel", "source", "seconds"],
            [[one.file, one.source, f"{one.seconds:.1f}"] for one in shown],
        )
    counts = {name: sum(one.source == name for one in made) for name in ("index", "built", "kept")}
    out.say(
        f"{len(made)} wheels: {counts['index']} fetched, {counts['built']} built, "
        f"{counts['kept']} kept"
    )
    for one in made:
        if one.isolation:
            say = out.warn if one.isolation.startswith("NOT") else out.detail
            say(f"{one.file}: built {one.isolation}; log {one.log}")
    for name, path in locks.items():
        out.say(f"{name}: its wheels alone: {os.path.relpath(path)}")
    if args.reproduce:
        out.say("built twice, every byte the same")
    out.result(
        {
            "wheels": [
                {
                    "file": one.file,
                    "sha256": one.sha256,
                    "source": one.source,
                    "seconds": round(one.seconds, 3),
                    "targets": list(one.targets),
                }
                for one in made
            ],
            "locks": {name: str(path) for name, path in locks.items()},
        }
    )
    return 0
