"""`wain fleet verify`: drift, by host and by package, and its repair."""

from __future__ import annotations

import argparse

from fleet.drift import Checked, by_package, verify_all
from fleet.errors import HostError
from wain.fleet_open import host_option, open_fleet, selected
from wain.fleet_shared import at_work, looking, text_of
from wain.output import Output, human_bytes

# Lines for people; the JSON document has more.
SHOWN = 40


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which hosts, how deep, and whether to repair."""
    host_option(parser)
    parser.add_argument("--deep", action="store_true", help="hash every file, not only look at it")
    parser.add_argument("--repair", action="store_true", help="put right what differs")


def run(args: argparse.Namespace, out: Output) -> int:
    """Exit 3 with a difference that stays, 5 when hosts were only unreachable."""
    with open_fleet(args) as fleet:
        working = at_work(fleet, "verify --repair") if args.repair else looking(fleet)
        with working as images:
            found = verify_all(
                selected(fleet, args), fleet.inventory.settings, images, deep=args.deep,
                repair=args.repair, by=fleet.by(reason="verify"), on_progress=out.progress,
            )  # fmt: skip
        packages = by_package(found)
        for package, hosts in packages.items():
            files, count = _differ(sum(hosts.values())), _count(len(hosts), "host")
            out.say(f"{_owner(package)}: {files} on {count}")
        shown = [
            [name, _owner(one.package), one.what, one.path]
            for name, checked in found.items()
            if isinstance(checked, Checked)
            for one in checked.drift
        ]
        if shown:
            out.table(["host", "package", "what", "path"], shown[:SHOWN])
        if len(shown) > SHOWN:
            out.say(f"and {len(shown) - SHOWN} more (--json has them)")
        out.table(
            ["host", "result"],
            [[name, _result(checked)] for name, checked in found.items()],
        )
        out.result(
            {
                "hosts": {name: _document(checked) for name, checked in found.items()},
                "packages": packages,
            }
        )
        errors = {one.kind for one in found.values() if isinstance(one, HostError)}
        differs = any(isinstance(one, Checked) and not one.ok for one in found.values())
        if differs or errors - {"unreachable"}:
            return 3
        return 5 if errors else 0


def _differ(number: int) -> str:
    return f"{_count(number, 'file')} {'differs' if number == 1 else 'differ'}"


def _owner(package: str) -> str:
    """A package for people; ``-`` is what no package brought."""
    return "(none)" if package == "-" else package


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _result(checked: Checked | HostError) -> str:
    if isinstance(checked, HostError):
        return text_of(checked)
    if checked.image is None:
        return "no release"
    if not checked.count:
        return "as its manifest says"
    if not checked.repaired:
        return _differ(checked.count)
    left = checked.count - checked.repaired
    sent = human_bytes(checked.bytes_sent)
    return f"{_count(checked.repaired, 'file')} repaired, {sent} sent" + (
        f", {left} left" if left else ""
    )


def _document(checked: Checked | HostError) -> dict[str, object]:
    if isinstance(checked, HostError):
        return {"ok": False, "drift": [], "error": text_of(checked)}
    return {
        "ok": checked.ok,
        "image": checked.image,
        "drift": [
            {"path": one.path, "package": one.package, "what": one.what} for one in checked.drift
        ],
        "count": checked.count,
        "repaired": checked.repaired,
        "bytes_sent": checked.bytes_sent,
        "error": "",
    }
