"""Going on with a roll-out whose process stopped: the same hosts, waves and images, or not at all.

Pure but for reading the journal. The hosts themselves are asked again before anything happens.
"""

from __future__ import annotations

from fleet.inventory import Host, Inventory
from fleet.journal import HostRow, Journal, Rollout
from fleet.plan import SWITCH, UNCHANGED, HostPlan, settings_document
from fleet.steps import FAILED, REVERTED, SUCCEEDED, Outcome
from fleet.wanted import Wanted, load_wanted
from fleet.waves import make_waves
from images.catalog import Catalog
from images.errors import DifferenceError


def going_on(
    inventory: Inventory, catalog: Catalog, rollout: Rollout, journal: Journal
) -> tuple[tuple[Host, ...], list[Wanted]]:
    """The frozen hosts and images of a roll-out.

    Raises DifferenceError (exit 3) listing what is no longer as it was when it began.
    """
    names = [row.host for row in journal.host_rows(rollout.number)]
    known = {host.name: host for host in inventory.hosts}
    gone = [name for name in names if name not in known]
    differences = [f"host {name} is gone from fleet.toml" for name in gone[:5]]
    hosts = tuple(known[name] for name in names if name in known)
    old = rollout.plan
    if not gone:
        for host in hosts:
            place = [host.address or host.name, host.root, host.python]
            if old["places"].get(host.name) != place:
                differences.append(f"host {host.name} is now {' '.join(place)}")
        waves = [list(wave.hosts) for wave in make_waves(inventory.settings.waves, hosts)]
        if waves != [wave["hosts"] for wave in old["waves"]]:
            differences.append("the waves are others")
    new = settings_document(inventory.settings)
    differences += [
        f"{name.replace('_', '-')} was {old['settings'].get(name)!a}, is {value!a}"
        for name, value in new.items()
        if old["settings"].get(name) != value
    ]
    wanted = load_wanted(catalog, rollout.image_name)
    if {one.document.target.name: one.id for one in wanted} != old["images"]:
        differences.append(f"{rollout.image_name} is another image now")
    if differences:
        raise DifferenceError(
            rollout.id, "cannot go on: " + "; ".join(differences[:8]),
            "put it back, or begin a new roll-out",
        )  # fmt: skip
    return hosts, wanted


def outcome_before(row: HostRow, plan: HostPlan) -> Outcome | None:
    """How a host ended before the interruption, None when it still has to be done.

    The host's own word in `plan` counts: one that has the image is done, whatever the journal
    knew; one that failed and went back stays counted as that.
    """
    if plan.action == UNCHANGED and row.state != UNCHANGED:
        switched = row.previous if row.state == SUCCEEDED else row.image
        was_there = row.state != SUCCEEDED and row.image == plan.current
        return Outcome(
            row.host, UNCHANGED if was_there else SUCCEEDED, plan.current,
            plan.previous if was_there else switched, plan.generation, row.bytes_sent,
            row.bytes_overhead, row.seconds, switched=not was_there,
        )  # fmt: skip
    if plan.action == SWITCH and row.state in (REVERTED, FAILED):
        return Outcome(
            row.host, row.state, plan.current, plan.previous, plan.generation, row.bytes_sent,
            row.bytes_overhead, row.seconds, row.error,
        )  # fmt: skip
    return None
