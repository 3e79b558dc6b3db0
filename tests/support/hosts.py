"""A host as tests see it: a root, a transport, and the whole way to a release as one call."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.pack import Packs
from fleet.session import HostState, Session
from fleet.transport import Transport
from images.manifest import Manifest
from images.parallel import cores
from images.store import Store

# An agent divides its work among processes where there is more than one core.
needs_cores = pytest.mark.skipif(cores() < 2, reason="one core: no other process")


class Host:
    """A root on a host, and the whole way to a new release as one call."""

    def __init__(self, transport: Transport, root: str, store: Store, packs: Packs) -> None:
        self.transport = transport
        self.root = root
        self.store = store
        self.packs = packs
        self.python = sys.executable

    def open(self, **options: object) -> Session:
        settings: dict[str, object] = {"timeout": 30.0, "by": {"who": "tester"}, **options}
        return Session.open(self.transport, self.root, self.python, **settings)  # type: ignore[arg-type]

    def stage(self, session: Session, manifest: Manifest) -> int:
        missing = session.begin(manifest)
        if missing:
            session.send_pack(self.packs.get(manifest, missing).pieces())
        session.checkout(manifest.image_id)
        assert session.verify(manifest.image_id) == []
        return len(missing)

    def switch(
        self, session: Session, manifest: Manifest, after: float = 60, **more: object
    ) -> int:
        state = session.facts.state
        return session.switch(manifest.image_id, state.current, state.generation, after, **more)  # type: ignore[arg-type]

    def deploy(self, manifest: Manifest) -> int:
        with self.open() as session:
            self.stage(session, manifest)
            generation = self.switch(session, manifest)
        with self.open() as session:
            return session.confirm(generation)

    @property
    def current(self) -> str | None:
        """The image id the link names."""
        try:
            link = os.readlink(f"{self.root}/current")
        except FileNotFoundError:
            return None
        assert link.startswith("releases/")
        return link[9:]

    def state(self) -> HostState:
        with self.open() as session:
            return session.facts.state


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what another process will do; fails when it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def children(pid: int | None = None) -> set[str]:
    """The processes one has begun, this one by default, and not yet seen end."""
    pid = pid or os.getpid()
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
