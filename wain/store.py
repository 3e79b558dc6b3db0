"""`wain store verify`: hash every object of the store again."""

from __future__ import annotations

import argparse

from wain.cli import EXIT_CODES, global_options
from wain.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    """One action so far."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    verify = actions.add_parser(
        "verify",
        parents=[global_options()],
        help="hash every object again, repair the bad ones",
        description="Hash every object again, repair the bad ones.",
        epilog=EXIT_CODES,
    )
    verify.add_argument("--repair", action="store_true", help="replace what is bad from the wheels")


def run(args: argparse.Namespace, out: Output) -> int:
    """Verify; exit 3 when something is bad and stays so."""
    from wain.image_verify import verify_store

    return verify_store(args, out)
