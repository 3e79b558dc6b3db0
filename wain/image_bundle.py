"""`wain image export A FILE` and `wain image import FILE`."""

from __future__ import annotations

import argparse
import os

from wain.image_names import image_arguments
from wain.output import Output, human_bytes
from wain.shared import open_catalog, short


def arguments_export(parser: argparse.ArgumentParser) -> None:
    """Which image, to which file."""
    image_arguments(parser)
    parser.add_argument("file", help="the file to write")
    parser.add_argument("--since", default="", metavar="B", help="leave out what image B has")


def run_export(args: argparse.Namespace, out: Output) -> int:
    """Write one file that carries the image."""
    from images.bundle import export_image

    catalog = open_catalog(args)
    image_id = catalog.resolve(args.image, args.target)
    since = catalog.resolve(args.since, args.target) if args.since else ""
    path = os.path.join(args.directory, args.file)
    tag = args.image.partition(":")[2]
    done = export_image(catalog, image_id, path, since=since, tag=tag, on_progress=out.progress)
    size = os.stat(path).st_size
    note = f" beyond {short(since)}" if since else ""
    out.say(f"{args.file}: image {short(image_id)}{note}, {done.objects} objects, "
            f"{human_bytes(size)}")  # fmt: skip
    out.result(
        {"file": args.file, "image": image_id, "since": since or None,
         "objects": done.objects, "bytes": size}
    )  # fmt: skip
    return 0


def arguments_import(parser: argparse.ArgumentParser) -> None:
    """Which file, and the image's name here."""
    parser.add_argument("file", help="a file that wain image export wrote")
    parser.add_argument("--tag", default="", metavar="TAG", help="default: as it was exported")


def run_import(args: argparse.Namespace, out: Output) -> int:
    """Check the file, take the image over and tag it."""
    from images.bundle import import_image
    from images.catalog import LATEST

    catalog = open_catalog(args)
    path = os.path.join(args.directory, args.file)
    done = import_image(catalog, path, tag=args.tag, on_progress=out.progress)
    tag = done.tag or LATEST
    out.say(f"image {short(done.image)} is now {done.name}:{tag}, {done.objects} objects read")
    out.result(
        {"image": done.image, "name": done.name, "tag": tag, "objects": done.objects,
         "bytes": done.size}
    )  # fmt: skip
    return 0
