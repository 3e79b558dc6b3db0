"""Thousands of steps in any order against a model: one host, deployed to, killed, damaged.

The model is small: what is current, previous, pending, confirmed. After every step the host must
agree with it, run one whole release, and show nothing it did not do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from fleet import agent_json
from fleet.frames import frame
from fleet.pack import Packs
from fleet.session import HostError, Session
from fleet.transport import LocalTransport
from images.manifest import Manifest
from images.store import Store
from tests.support.cutting import TEXTS, stop_timers
from tests.support.hosts import Host
from tests.support.small_images import small_image

IMAGES = st.integers(min_value=0, max_value=2)


class HostMachine(RuleBasedStateMachine):
    """One host and what it must be.

    No preconditions: where a kill was too late or too early decides what may follow, and what is
    drawn must not depend on that.
    """

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm"
        self.folder = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None)
        store = Store(f"{self.folder}/store")
        self.images = [small_image(store, text, count=2) for text in TEXTS]
        self.ids = [image.image_id for image in self.images]
        self.packs = Packs(store)
        self.host = Host(LocalTransport("h1"), f"{self.folder}/app", store, self.packs)
        self.session: Session | None = None
        self.current: int | None = None
        self.previous: int | None = None
        self.pending: int | None = None
        self.generation = 0
        self.confirmed: set[int] = set()

    def teardown(self) -> None:
        if self.session:
            self.session.close()
        self.packs.close()
        stop_timers(self.host.root)
        shutil.rmtree(self.folder, ignore_errors=True)

    def line(self) -> Session:
        if self.session is None:
            self.session = self.host.open()
            self.generation = self.session.facts.state.generation
        return self.session

    def hang_up(self) -> None:
        if self.session:
            self.session.close()
            self.session = None

    @property
    def id(self) -> str | None:
        return None if self.current is None else self.ids[self.current]

    # Steps

    @rule(at=IMAGES)
    def stage(self, at: int) -> None:
        if self.pending is None:
            self.host.stage(self.line(), self.images[at])

    @rule(at=IMAGES)
    def deploy(self, at: int) -> None:
        if self.pending is not None:
            with pytest.raises(HostError):
                self.line().switch(self.ids[at], self.id, self.generation, 60)
            return
        self.host.stage(self.line(), self.images[at])
        made = self.line().switch(self.ids[at], self.id, self.generation, 60)
        assert made == self.generation + (at != self.current)
        self.generation = made
        if at != self.current:
            self.pending = at

    @rule()
    def confirm(self) -> None:
        if self.pending is None:
            return
        self.hang_up()
        self.line().confirm(self.generation)
        assert self.pending is not None
        self.confirmed.add(self.pending)
        self.previous, self.current, self.pending = self.current, self.pending, None

    @rule()
    def revert(self) -> None:
        if self.pending is None:
            return
        self.line().revert(self.generation, "asked")
        self.pending = None
        self.generation += 1

    @rule(deep=st.booleans())
    def rollback(self, deep: bool) -> None:
        allowed = self.pending is None and self.previous in self.confirmed
        if not allowed:
            with pytest.raises(HostError):
                self.line().rollback(None, self.id, deep=deep)
            return
        found, self.generation = self.line().rollback(None, self.id, deep=deep)
        assert self.previous is not None
        assert found == self.ids[self.previous]
        self.current, self.previous = self.previous, self.current

    @rule(keep=st.integers(min_value=0, max_value=3))
    def prune(self, keep: int) -> None:
        if self.pending is not None:
            with pytest.raises(HostError):
                self.line().prune(keep)
            return
        removed = self.line().prune(keep)["removed"]
        stay = {self.ids[at] for at in (self.current, self.previous) if at is not None}
        assert not stay & set(removed)
        self.confirmed -= {self.ids.index(one) for one in removed}

    @rule()
    def hang(self) -> None:
        self.hang_up()

    @rule(verb=st.sampled_from(["begin", "checkout", "prune", "switch", "rollback"]), at=IMAGES)
    def kill(self, verb: str, at: int) -> None:
        """The agent dies at once after a request was sent; then the host says what it did."""
        session = self.line()
        if self.pending is not None:
            verb = "verify"
        requests: dict[str, dict[str, Any]] = {
            "begin": {"bytes": True},
            "prune": {"keep": 0},
            "switch": {"expect_current": self.id, "generation": self.generation,
                       "revert_after": 60, "hooks": []},
            "rollback": {"expect_current": self.id},
        }  # fmt: skip
        request = {"verb": verb, "id": self.ids[at], "by": {}, **requests.get(verb, {})}
        with contextlib.suppress(OSError):
            session._channel.write(frame(b"J", agent_json.dumps(request)), session._deadline)
        os.killpg(session._channel._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        self.hang_up()
        before = (self.current, self.previous)
        state = self.line().facts.state
        if verb == "switch" and state.pending and self.host.current == self.id != self.ids[at]:
            # Between the timer and the link: still on the old one, and only back it can go.
            self.line().revert(state.generation, "killed")
            self.hang_up()
            state = self.line().facts.state
        elif verb == "switch" and state.pending:
            self.pending, self.generation = at, state.generation
        elif verb == "rollback" and state.current != self.id:
            assert self.previous in self.confirmed
            self.current, self.previous = self.previous, self.current
        self.generation = state.generation
        found = tuple(None if one is None else self.ids.index(one)
                      for one in (state.current, state.previous))  # fmt: skip
        if self.pending is None:
            assert found == (self.current, self.previous), (verb, before)
        self.confirmed &= {self.ids.index(one) for one in state.confirmed}

    @rule()
    def lose_the_timer(self) -> None:
        """As after a power cut: the next contact goes back."""
        if self.pending is None:
            return
        self.hang_up()
        stop_timers(self.host.root)
        self.pending = None
        assert self.line().facts.settled

    @rule(which=st.integers(min_value=0, max_value=99))
    def damage_and_repair(self, which: int) -> None:
        """A file of the release is changed, through the hard link its object too."""
        if self.current is None or self.pending is not None:
            return
        image = self.images[self.current]
        entries = [one for one in image.entries if one.kind == "file" and one.size]
        entry = entries[which % len(entries)]
        path = f"{self.host.root}/releases/{image.image_id}/{entry.path}"
        with open(path, "r+b") as file:
            file.write(bytes([file.read(1)[0] ^ 1]) if not file.seek(0) else b"")
        session = self.line()
        found = {one.path for one in session.verify(image.image_id, deep=True)}
        assert entry.path in found
        # Another release that shares the file is damaged by the same stroke.
        for release in os.listdir(f"{self.host.root}/releases"):
            self.repair(self.images[self.ids.index(release)])

    def repair(self, image: Manifest) -> None:
        session = self.line()
        paths = [one.path for one in session.verify(image.image_id, deep=True)]
        missing = session.repair(image.image_id, paths)
        if missing:
            session.begin(image)
            session.send_pack(self.packs.get(image, missing).pieces())
            assert session.repair(image.image_id, paths) == []
        assert session.verify(image.image_id, deep=True) == []

    # What always holds

    @invariant()
    def agrees(self) -> None:
        type(self).steps += 1
        active = self.current if self.pending is None else self.pending
        assert self.host.current == (None if active is None else self.ids[active])
        if active is None:
            return
        release = f"{self.host.root}/releases/{self.ids[active]}"
        assert Path(release, "bin", "plain").exists()
        assert TEXTS[active] in Path(
            release, next(one.path for one in self.images[active].entries
                          if one.path.endswith("/app.py"))
        ).read_text()  # fmt: skip
        if type(self).steps % 40 == 0:
            shown = subprocess.run([f"{release}/bin/app"], capture_output=True, check=False)
            assert shown.stdout.decode().strip() == TEXTS[active]
            assert self.line().verify(self.ids[active], deep=True) == []


@pytest.mark.row("A1")
@pytest.mark.row("A8")
@pytest.mark.row("S1")
@pytest.mark.row("S3")
def test_any_order_of_steps(request: pytest.FixtureRequest) -> None:
    full = request.config.getoption("--full")
    runs, length = (110, 100) if full else (5, 30)
    HostMachine.steps = 0
    run_state_machine_as_test(
        HostMachine,
        settings=settings(
            max_examples=runs, stateful_step_count=length, deadline=None, derandomize=True,
            database=None, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # to shrink one takes many times as long
        ),
    )  # fmt: skip
    request.node.user_properties.append(("points", HostMachine.steps))
