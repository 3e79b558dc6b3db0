"""A project with a fleet of folders on this machine, and its commands as calls."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images.catalog import Catalog
from images.store import Store
from tests.support.made_images import Made, make_document
from tests.support.small_images import small_image
from wain.cli import main

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Ran:
    """How a command ended: its exit code, its JSON document, what people read."""

    code: int
    document: dict[str, Any]
    text: str

    def states(self) -> dict[str, str]:
        """Host -> state, of a roll-out's document."""
        return {name: host["state"] for name, host in self.document["hosts"].items()}


@dataclass
class Project:
    """A folder with fleet.toml; images are small but real, hosts are local."""

    folder: Path
    store: Store
    hosts: list[str] = field(default_factory=list)
    name: str = "shop"

    @property
    def catalog(self) -> Catalog:
        """The project's names."""
        return Catalog(self.store, str(self.folder))

    def image(self, tag: str, version: str = "", *, count: int = 5, **files: bytes) -> str:
        """An image `shop:<tag>` (or the project's name) with the package app; its id."""
        own = {name.replace("__", "/"): data for name, data in files.items()}
        manifest = small_image(self.store, version or tag, own, count)
        packages = [Made("app", version or tag, {})]
        self.catalog.put_document(make_document(manifest, packages, self.name))
        self.catalog.tag(tag, manifest.image_id)
        return manifest.image_id

    def write(self, hosts: int | Sequence[str] = 3, *, labels: str = "", **rollout: object) -> None:
        """Write fleet.toml: hosts h1…hN, the first one labelled canary, and [rollout]."""
        names = [f"h{at}" for at in range(1, hosts + 1)] if isinstance(hosts, int) else list(hosts)
        self.hosts = names
        lines = [f"python = {json.dumps(sys.executable)}", 'transport = "local"', labels]
        for at, name in enumerate(names):
            lines += ["[[host]]", f'name = "{name}"', f'root = "{self.root(name)}"']
            lines += ['labels = ["canary"]'] if at == 0 else []
        lines.append("[rollout]")
        lines += [f"{key.replace('_', '-')} = {_toml(value)}" for key, value in rollout.items()]
        (self.folder / "fleet.toml").write_text("\n".join(lines) + "\n")

    def root(self, host: str) -> Path:
        """Where a host's root is."""
        return self.folder.parent / "hosts" / host

    def current(self, host: str) -> str | None:
        """The image a host runs."""
        try:
            return os.readlink(self.root(host) / "current").removeprefix("releases/")
        except FileNotFoundError:
            return None

    def currents(self) -> dict[str, str | None]:
        """Host -> image it runs."""
        return {host: self.current(host) for host in self.hosts}

    def says(self, host: str) -> str:
        """What the release on a host prints: proof that it runs."""
        command = self.root(host) / "current" / "bin" / "app"
        return subprocess.run([command], capture_output=True, text=True, check=True).stdout.strip()

    def wain(self, *words: str) -> Ran:
        """Run `wain fleet …` in this process."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = main(["-C", str(self.folder), "fleet", *words, "--json"])
        text = stdout.getvalue()
        return Ran(code, json.loads(text) if text.strip() else {}, stderr.getvalue())

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start `wain fleet …` as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "wain", "-C", str(self.folder), "fleet", *words],
            cwd=ROOT,
            env={**os.environ, "WAIN_STORE": self.store.root},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value)
