"""What the fleet's commands begin with: inventory, catalog, journal; who is at work, on what.

Nothing here imports what talks to hosts: a roll-out begins to pack before that is there.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fleet import reported
from fleet.inventory import Host, Inventory, load_inventory
from fleet.journal import Journal
from fleet.lock import fleet_lock, machine, whoami
from fleet.pack import Packs
from images.catalog import Catalog
from images.errors import UsageError, WainError
from images.home import make_state_folder
from wain.output import Output
from wain.shared import open_catalog, short


@dataclass(frozen=True)
class Fleet:
    """One project's fleet, opened."""

    folder: Path
    inventory: Inventory
    catalog: Catalog
    journal: Journal

    def by(self, **more: str) -> dict[str, str]:
        """Who is at work, for hosts' locks and histories."""
        controller = f"{machine()}:{self.folder}"
        return {"who": whoami(), "machine": machine(), "controller": controller, **more}

    @property
    def applications(self) -> frozenset[str]:
        """The names of the images this project has tagged: whose roots these hosts' are."""
        ids = {image for tagged in self.catalog.tags().values() for image in tagged.values()}
        names = set()
        for image in ids:
            with contextlib.suppress(WainError):
                document = self.catalog.document(image)
                names.update([document.name, *document.aliases])
        return frozenset(names)

    def images_of(self, name: str) -> tuple[str, ...]:
        """What a name means: an image for each target, or one that hosts had once, by its id.

        Raises WainError.
        """
        try:
            return tuple(dict.fromkeys(self.catalog.candidates(name).values()))
        except WainError:
            known = {*self.journal.quarantined(), *reported.images(self.journal)}
            ids = [image for image in known if len(name) >= 8 and image.startswith(name)]
            if len(ids) != 1:
                raise
            return (ids[0],)

    def pins(self) -> tuple[str, ...]:
        """The images that always stay on hosts. Raises WainError for a name of none."""
        return tuple(image for pin in self.inventory.settings.pins for image in self.images_of(pin))

    def name_of(self, image_id: str | None) -> str:
        """An image for people: its name, tags and short id."""
        if image_id is None:
            return "nothing"
        tags = sorted(tag for tag, ids in self.catalog.tags().items() if image_id in ids.values())
        tags = [tag for tag in tags if tag != "latest"] or tags
        name = ""
        with contextlib.suppress(WainError):
            name = self.catalog.document(image_id).name
        if not name:
            name = reported.images(self.journal).get(image_id, ("", ""))[0]
        label = f"{name}:{tags[0]}" if name and tags else name
        return f"{label} {short(image_id)}".strip()

    def names(self, ids: Iterable[str | None]) -> dict[str | None, str]:
        """`name_of` for many hosts, each image once."""
        return {image_id: self.name_of(image_id) for image_id in set(ids)}

    def remember(self) -> None:
        """Keep the packages of every image the hosts have, and keep those images alive."""
        ids = {
            image
            for report in reported.reports(self.journal)
            for image in (report.image, *report.releases)
            if image
        }
        from fleet.wanted import image_record

        known = reported.images(self.journal)
        records = []
        for image in ids - known.keys():
            with contextlib.suppress(WainError):
                records.append(image_record(self.catalog.document(image)))
        reported.remember_images(self.journal, records)
        self.keep(ids)

    def keep(self, ids: Iterable[str]) -> None:
        """Let no collection take images that hosts run."""
        with self.catalog.roots.adding():
            self.catalog.roots.register("fleet", str(self.folder), tuple(sorted(set(ids))))


@contextlib.contextmanager
def open_fleet(args: argparse.Namespace) -> Iterator[Fleet]:
    """The fleet of the folder a command works in. Raises WainError."""
    folder = Path(args.directory).resolve()
    catalog = open_catalog(args)
    inventory = load_inventory(folder, Path(catalog.store.root).resolve())
    make_state_folder(str(folder / ".wain"))
    with Journal.open(folder / ".wain" / "fleet.db") as journal:
        yield Fleet(folder, inventory, catalog, journal)


@contextlib.contextmanager
def spooling(fleet: Fleet, why: str, *, once: bool = False) -> Iterator[Packs]:
    """The fleet's lock, and a spool for packs; ``once`` as in Packs."""
    with fleet_lock(fleet.folder, why), Packs(fleet.catalog.store, once=once) as packs:
        yield packs


def host_option(parser: argparse.ArgumentParser) -> None:
    """``--hosts``."""
    parser.add_argument(
        "--hosts", metavar="SEL", default="", help="only these, such as 'label:eu & !web3'"
    )


def yes_option(parser: argparse.ArgumentParser) -> None:
    """``--yes``."""
    parser.add_argument("--yes", action="store_true", help="do not ask")


def reason_options(parser: argparse.ArgumentParser) -> None:
    """Why, for the histories."""
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the history")
    parser.add_argument("--ticket", default="", metavar="ID", help="a ticket, for the history")


def must_ask(args: argparse.Namespace, out: Output, what: str) -> bool:
    """Whether a person is to be asked; UsageError (exit 2) when that is needed and impossible."""
    if args.yes:
        return False
    if not out.interactive:
        raise UsageError(what, "nobody can be asked without a terminal", "--yes answers for you")
    return True


def selected(fleet: Fleet, args: argparse.Namespace) -> tuple[Host, ...]:
    """The hosts ``--hosts`` means."""
    return fleet.inventory.select(args.hosts)
