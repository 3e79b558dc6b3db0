"""`wain image build`: assemble the images of this project and tag them."""

from __future__ import annotations

import argparse

from wain.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wain image build`."""
    parser.add_argument(
        "--target", action="append", metavar="T", help="only this target (may be repeated)"
    )
    parser.add_argument("--tag", metavar="TAG", help="tag it so, besides 'latest'")
    parser.add_argument(
        "--locked",
        action="store_true",
        help="accept only the image that locks/image.<target>.txt names",
    )
    parser.add_argument(
        "--check", action="store_true", help="build a second time elsewhere and compare"
    )
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="default: all cores")


def run(args: argparse.Namespace, out: Output) -> int:
    """Build each target's image; the first that fails ends the command."""
    from builder.env_inputs import lock_problem
    from builder.image import build_image, check_image
    from builder.spec import load_spec
    from images.catalog import Catalog, check_tag
    from images.errors import UsageError
    from images.home import open_store
    from wain.output import human_bytes

    if args.jobs < 0:
        raise UsageError("--jobs", f"{args.jobs} is no number of jobs")
    spec = load_spec(args.directory)
    tags = ("latest",) if args.tag is None else ("latest", check_tag(args.tag))
    targets = spec.chosen_targets(args.target)
    catalog = Catalog(open_store(), spec.folder)
    images: dict[str, object] = {}
    for target in targets:
        built = build_image(
            spec,
            target,
            catalog,
            tags=tags,
            locked=args.locked,
            jobs=args.jobs,
            on_progress=out.progress,
        )
        image = built.image
        stale = lock_problem(spec, target)
        if stale:
            out.warn(f"{target.name}: built from a lock that is out of date: {stale} (wain lock)")
        for warning in image.warnings:
            out.warn(warning)
        if args.check:
            check_image(spec, target, image, jobs=args.jobs, on_progress=out.progress)
        document = built.document.to_json()
        images[target.name] = {
            "id": image.id,
            "name": spec.name,
            "files": len(image.manifest.entries),
            "bytes": image.bytes,
            "packages": document["packages"],
            "unpacked": image.unpacked,
            "compiled": image.compiled,
            "seconds": round(image.seconds, 3),
        }
        out.say(
            f"{target.name}: image {spec.name} {image.id[:12]}, {len(image.packages)} packages, "
            f"{len(image.manifest.entries)} files, {human_bytes(image.bytes)} "
            f"({image.seconds:.1f} s)"
        )
        if args.check:
            out.say(f"{target.name}: a second build gave the same image")
    out.result({"images": images})
    return 0
