"""`wain fleet query`: which hosts run what, from what each last reported. No host is asked."""

from __future__ import annotations

import argparse

from fleet import reported
from fleet.reported import Match
from fleet.result import hosts_text
from images.errors import UsageError
from wain.fleet_open import Fleet, open_fleet
from wain.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    """A package with versions, or an image, a Python, a libc."""
    parser.add_argument(
        "requirement", nargs="?", default="", help="package and versions: 'requests<2.32'"
    )
    parser.add_argument("--image", default="", metavar="A", help="hosts that run this image")
    parser.add_argument("--python", default="", metavar="SPEC", help="such as '<3.11.5'")
    parser.add_argument("--libc", default="", metavar="SPEC", help="such as '<2.31'")


def run(args: argparse.Namespace, out: Output) -> int:
    """Several questions at once mean: all of them."""
    with open_fleet(args) as fleet:
        answers = _answers(fleet, args)
        if not answers:
            raise UsageError("fleet query", "asks for nothing", "wain fleet query 'requests<2.32'")
        common = set.intersection(*({match.host for match in answer} for answer in answers))
        found = [match for match in answers[0] if match.host in common]
        names = fleet.names(match.image for match in found)
        out.table(
            ["host", "image", "what", "version", "seen"],
            [[m.host, names[m.image], m.package, m.version, m.seen] for m in found],
        )
        out.say(f"{hosts_text(len(found))}, from what each last reported")
        out.result(
            {"hosts": [{"host": m.host, "image": m.image, "package": m.package,
                        "version": m.version, "seen": m.seen} for m in found]}
        )  # fmt: skip
        return 0


def _answers(fleet: Fleet, args: argparse.Namespace) -> list[list[Match]]:
    answers = []
    if args.requirement:
        answers.append(reported.query_package(fleet.journal, args.requirement))
    if args.image:
        ids = fleet.images_of(args.image)
        answers.append([m for image in ids for m in reported.query_image(fleet.journal, image)])
    for fact in ("python", "libc"):
        if getattr(args, fact):
            answers.append(reported.query_fact(fleet.journal, fact, getattr(args, fact)))
    return answers
