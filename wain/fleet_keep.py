"""`wain fleet quarantine / prune / adopt / forget`: looking after hosts."""

from __future__ import annotations

import argparse
from typing import Any

from fleet import reported
from fleet.errors import HostError
from fleet.inventory import Host
from fleet.lock import fleet_lock
from fleet.result import hosts_text
from fleet.session import Session
from images.errors import UsageError, WainError
from wain.fleet_open import host_option, must_ask, open_fleet, selected, yes_option
from wain.fleet_shared import code_of, each_host, text_of
from wain.output import Output, human_bytes


def arguments_quarantine(parser: argparse.ArgumentParser) -> None:
    """Which image, which way, why."""
    parser.add_argument("image", nargs="?", default="", help="the image; without it, list them")
    parser.add_argument("--clear", action="store_true", help="take the image again")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; needed")


def run_quarantine(args: argparse.Namespace, out: Output) -> int:
    """List, put or clear; here and on every host."""
    with open_fleet(args) as fleet:
        if not args.image:
            known = fleet.journal.quarantined()
            rows = [[fleet.name_of(image), reason] for image, reason in known.items()]
            if rows:
                out.table(["image", "reason"], rows)
            else:
                out.say("no image is quarantined")
            out.result({"quarantined": known})
            return 0
        if not args.reason.strip():
            raise UsageError("fleet quarantine", "needs --reason", "it goes into the histories")
        images = fleet.images_of(args.image)

        def ask(host: Host, session: Session) -> str:
            was = ""
            for image in images:
                if args.clear:
                    was = session.clear(image, args.reason) or was
                else:
                    session.quarantine(image, args.reason)
            return was

        with fleet_lock(fleet.folder, "quarantine"):
            verb = "clear" if args.clear else "put"
            for image in images:
                fleet.journal.set_quarantine(image, verb, args.reason, fleet.by()["who"])
            found = each_host(fleet, fleet.inventory.hosts, ask, args.reason)
        done = "is taken again" if args.clear else "is refused"
        for image in images:
            out.say(f"{fleet.name_of(image)} {done}")
        return _end(out, found, {"images": list(images), "verb": verb})


def arguments_prune(parser: argparse.ArgumentParser) -> None:
    """Which hosts, how many releases stay."""
    host_option(parser)
    parser.add_argument(
        "--keep", type=int, default=None, metavar="N", help="releases that stay (default: keep)"
    )


def run_prune(args: argparse.Namespace, out: Output) -> int:
    """Remove old releases and objects; what runs, is pinned or can be rolled back to stays."""
    with open_fleet(args) as fleet:
        settings = fleet.inventory.settings
        keep = settings.keep if args.keep is None else args.keep
        if keep < 1:
            raise UsageError("fleet prune", f"--keep is {keep}, expected at least 1")
        pins = fleet.pins()
        with fleet_lock(fleet.folder, "prune"):
            found = each_host(
                fleet, selected(fleet, args), lambda host, session: session.prune(keep, pins),
                "prune",
            )  # fmt: skip
        for name, answer in found.items():
            if not isinstance(answer, HostError):
                freed = human_bytes(int(answer.get("bytes", 0)))
                out.say(f"{name}: removed {len(answer['removed'])} releases, freed {freed}")
        return _end(out, found, {})


def arguments_adopt(parser: argparse.ArgumentParser) -> None:
    """Which hosts."""
    host_option(parser)
    yes_option(parser)


def run_adopt(args: argparse.Namespace, out: Output) -> int:
    """Accept whatever stands in the place of ``current``; a folder is kept beside it."""
    with open_fleet(args) as fleet:
        hosts = selected(fleet, args)
        shown = ", ".join(host.name for host in hosts[:5]) + ", …" * (len(hosts) > 5)
        if must_ask(args, out, "fleet adopt") and not out.confirm(
            f"Accept what is on {hosts_text(len(hosts))} ({shown})?"
        ):
            return 1
        with fleet_lock(fleet.folder, "adopt"):
            names = sorted(fleet.applications)
            found = each_host(
                fleet, hosts, lambda host, session: session.adopt(names), "adopt", anybodys=True
            )
        for name, answer in found.items():
            if not isinstance(answer, HostError):
                out.say(f"{name}: {f'adopted: {answer}' if answer else 'nothing to adopt'}")
        return _end(out, found, {})


def arguments_forget(parser: argparse.ArgumentParser) -> None:
    """Which hosts, and whether they are still there."""
    parser.add_argument("host", nargs="+", help="hosts that are retired")
    parser.add_argument("--gone", action="store_true", help="do not contact them")
    parser.add_argument("--force", action="store_true", help="although processes still run there")
    yes_option(parser)


def run_forget(args: argparse.Namespace, out: Output) -> int:
    """Remove what is ours from hosts, and what they reported from the journal."""
    with open_fleet(args) as fleet:
        known = {host.name: host for host in fleet.inventory.hosts}
        strange = [name for name in args.host if name not in known]
        if strange and not args.gone:
            raise WainError(
                "fleet forget", f"no host is named {strange[0]!a} in fleet.toml",
                "--gone drops what it reported",
            )  # fmt: skip
        if must_ask(args, out, "fleet forget") and not out.confirm(
            f"Remove all releases from {', '.join(args.host)}?"
        ):
            return 1
        found: dict[str, Any] = {name: [] for name in args.host}
        with fleet_lock(fleet.folder, "forget"):
            if not args.gone:
                found = each_host(
                    fleet, [known[name] for name in args.host],
                    lambda host, session: session.forget(force=args.force), "forget",
                )  # fmt: skip
            gone = [name for name, one in found.items() if not isinstance(one, HostError)]
            reported.forget(fleet.journal, gone)
        for name in gone:
            left = found[name]
            out.say(f"{name}: forgotten" + (f"; left there: {', '.join(left)}" if left else ""))
        return _end(out, found, {})


def _end(out: Output, found: dict[str, Any], more: dict[str, object]) -> int:
    """Errors, the JSON document, the exit code."""
    hosts = {}
    for name, answer in found.items():
        if isinstance(answer, HostError):
            out.warn(f"{name}: {text_of(answer)}")
            hosts[name] = {"ok": False, "error": text_of(answer)}
        else:
            hosts[name] = {"ok": True, "error": "", "answer": answer}
    out.result({**more, "hosts": hosts})
    return code_of(found.values())
