"""`wain image sbom A`: the bill of materials."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from wain.image_names import image_arguments
from wain.output import Output
from wain.shared import open_catalog


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which image, and where to."""
    image_arguments(parser)
    parser.add_argument("-o", "--output", default="", metavar="FILE", help="default: stdout")


def run(args: argparse.Namespace, out: Output) -> int:
    """Write CycloneDX JSON; with ``--json`` it is the document on stdout."""
    from images.sbom import make_sbom

    catalog = open_catalog(args)
    image_id = catalog.resolve(args.image, args.target)
    data = make_sbom(catalog.store, catalog.store.manifest(image_id), catalog.document(image_id))
    if args.output:
        path = Path(args.directory) / args.output
        path.write_bytes(data)
        out.say(f"{args.output}: {len(json.loads(data).get('components', []))} components")
    elif not out.json:
        sys.stdout.write(data.decode())
    out.result(json.loads(data))
    return 0
