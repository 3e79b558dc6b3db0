"""Writing the index's pages so that a reader never sees one that names a missing file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from wheelhouse import pages
from wheelhouse.entry import Entry
from wheelhouse.staging import Stage


class Site:
    """The pages under ``root``, the ``simple`` folder. Change them with the lock held."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def projects(self) -> list[str]:
        """The projects that have pages, sorted."""
        try:
            with os.scandir(self.root) as found:
                return sorted(entry.name for entry in found if entry.is_dir())
        except FileNotFoundError:
            return []

    def write_project(
        self, stage: Stage, project: str, entries: Sequence[Entry], *, root: bool = True
    ) -> None:
        """One project's pages; with ``root`` the list of projects when it comes or goes."""
        folder = self.root / project
        known = (folder / "index.json").exists()
        if entries:
            folder.mkdir(parents=True, exist_ok=True)
            stage.publish(folder / "index.html", pages.project_html(project, entries))
            stage.publish(folder / "index.json", pages.project_json(project, entries))
            if root and not known:
                self.write_root(stage)
        elif folder.is_dir():
            if root:
                self.write_root(stage, leaving_out=project)
            shutil.rmtree(folder, ignore_errors=True)

    def write_root(self, stage: Stage, leaving_out: str = "") -> None:
        """The list of projects."""
        self.root.mkdir(parents=True, exist_ok=True)
        names = [name for name in self.projects() if name != leaving_out]
        stage.publish(self.root / "index.html", pages.root_html(names))
        stage.publish(self.root / "index.json", pages.root_json(names))

    def stale(self, project: str, entries: Sequence[Entry]) -> bool:
        """Whether a project's pages are not what they should be."""
        wanted = {
            "index.html": pages.project_html(project, entries),
            "index.json": pages.project_json(project, entries),
        }
        return any(_read(self.root / project / name) != data for name, data in wanted.items())

    def root_stale(self, names: Sequence[str]) -> bool:
        """Whether the list of projects is not ``names``."""
        wanted = {"index.html": pages.root_html(names), "index.json": pages.root_json(names)}
        return any(_read(self.root / name) != data for name, data in wanted.items())


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
