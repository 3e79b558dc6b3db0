"""`wain fleet …`: each action's module is imported only when that action runs."""

from __future__ import annotations

import argparse

from wain import group
from wain.output import Output

# action -> (module, one line of help); the order is the order of the main job.
ACTIONS: dict[str, tuple[str, str]] = {
    "check": ("wain.fleet_check", "preflight every host, change nothing"),
    "plan": ("wain.fleet_plan", "what a roll-out would change, host by host"),
    "rehearse": ("wain.fleet_rehearse", "play a roll-out and its way back on clones here"),
    "rollout": ("wain.fleet_rollout", "bring an image to the hosts, wave by wave"),
    "resume": ("wain.fleet_rollout", "go on with a paused or interrupted roll-out"),
    "pause": ("wain.fleet_orders", "start no further host, until resume"),
    "abort": ("wain.fleet_orders", "stop the roll-out; on-halt says what goes back"),
    "approve": ("wain.fleet_orders", "let a roll-out with --approve begin its next wave"),
    "rollback": ("wain.fleet_rollback", "switch back to the previous or another kept release"),
    "status": ("wain.fleet_status", "where every host stands now"),
    "history": ("wain.fleet_history", "past roll-outs: who, what, when, how it ended"),
    "report": ("wain.fleet_history", "everything about one roll-out, as Markdown"),
    "query": ("wain.fleet_query", "which hosts run a package, an image, a Python, a libc"),
    "verify": ("wain.fleet_verify", "compare releases with their manifests, repair them"),
    "quarantine": ("wain.fleet_keep", "refuse an image everywhere, or take it again"),
    "prune": ("wain.fleet_keep", "remove releases that nobody needs"),
    "adopt": ("wain.fleet_keep", "accept what stands in the place of current"),
    "forget": ("wain.fleet_keep", "remove wainwright's files from retired hosts"),
    "unlock": ("wain.fleet_orders", "show who is at work on the fleet, since when and why"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each action."""
    group.arguments(parser, ACTIONS)


def run(args: argparse.Namespace, out: Output) -> int:
    """Run one action."""
    return group.run(args, out, ACTIONS)
