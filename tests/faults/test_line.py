"""The line between controller and sshd: cut, damaged, gone without a word, or just slow.

Every roll-out is the real command over the real sshd, through a proxy.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fleet import agent
from fleet.frames import Closed
from fleet.session import Session
from fleet.transport import LocalTransport
from images.store import Store
from tests.support.fleets import Project, Ran
from tests.support.hosts import until
from tests.support.proxy import Proxy, proxy_to
from tests.support.sshd import Sshd, serving

Sample = Callable[[Sequence[int], int], Sequence[int]]

pytestmark = [pytest.mark.sshd, pytest.mark.xdist_group("sshd")]

SIZE = 60_000  # bytes of each file an image brings


class Line(Project):
    """One host behind the proxy; image v1 is on it."""

    server: Sshd
    proxy: Proxy

    def prepare(self, step: str = "20s", connect: str = "10s", confirm: str = "20s") -> None:
        port = f"port = {self.server.port}"
        text = self.server.fleet_toml().replace(port, f"port = {self.proxy.port}")
        text = text.replace('address = "127.0.0.1"', 'address = "localhost"')
        (self.folder / "fleet.toml").write_text(
            f'{text}\n[rollout]\nstep-timeout = "{step}"\nconnect-timeout = "{connect}"\n'
            f'confirm-timeout = "{confirm}"\n'
        )
        key = " ".join(self.server.host_key.split()[:2])
        self.server.known_hosts.write_text(f"[localhost]:{self.proxy.port} {key}\n")
        self.hosts = ["h1"]

    def root(self, host: str) -> Path:
        return Path(self.server.root(1))

    def new_image(self, at: int, count: int = 12) -> str:
        files = {f"data__{n}": os.urandom(SIZE) for n in range(count)}
        return self.image(f"n{at}", **files)

    def rollout(self, at: int) -> Ran:
        return self.wain("rollout", f"shop:n{at}", "--yes")

    def spoilt(self, at: int, connect: str = "2s") -> Ran:
        """A roll-out over a line that fails: with deadlines short enough to wait for."""
        self.prepare("2s", connect, "2s")
        try:
            return self.rollout(at)
        finally:
            self.prepare()

    def here(self) -> Session:
        """The host, without the line."""
        return Session.open(LocalTransport("h1"), self.server.root(1), sys.executable, timeout=20)

    def is_whole(self, image: str) -> bool:
        """Whether the host runs this image, and every byte of it is right."""
        with self.here() as session:
            return self.current("h1") == image and session.verify(image, deep=True) == []

    def back(self) -> None:
        """To v1, so that the next roll-out begins alike."""
        with self.here() as session:
            session.rollback(None, session.facts.state.current)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    folder, sshd = tmp_path / "shop", tmp_path / "sshd"
    folder.mkdir()
    sshd.mkdir(mode=0o755)
    with serving(sshd, 1) as server, proxy_to((server.address(1), server.port)) as proxy:
        line = Line(folder, Store(os.environ["WAIN_STORE"]))
        line.server, line.proxy = server, proxy
        line.prepare()
        line.image("v1")
        assert line.wain("rollout", "shop:v1", "--yes").code == 0
        yield line


def whole_rollout(line: Line) -> int:
    """The bytes a roll-out of twelve files sends."""
    line.new_image(0)
    line.proxy.set()
    assert line.rollout(0).code == 0
    sent = line.proxy.sent
    line.back()
    return sent


def failed_plainly(line: Line, ran: Ran, where: str) -> str:
    assert ran.code in (1, 4, 5), (where, ran.text)
    host = ran.document["hosts"]["h1"]
    assert host["state"] in ("failed", "reverted", "unreachable"), where
    assert host["error"], where
    assert "\n" not in host["error"], where
    assert "Traceback" not in ran.text, where
    assert "h1" in ran.text, where
    return str(host["error"])


@pytest.mark.row("T1")
def test_cut_at_every_percent(line: Line, sample: Sample) -> None:
    """Every other time the line stays down: then it fails, else it goes on by itself."""
    total = whole_rollout(line)
    line.proxy.set()
    assert line.wain("check").code == 0
    contact = line.proxy.sent  # what one more connection costs
    before = line.current("h1")
    for share in sample(range(100), 3):
        where = f"cut at {share} %"
        image = line.new_image(share + 1)
        line.proxy.set("cut", total * share // 100, down=bool(share % 2))
        ran = line.spoilt(share + 1, "1s" if share % 2 else "2s")
        assert line.proxy.happened, where
        if ran.code:
            failed_plainly(line, ran, where)
            until(lambda: line.current("h1") == before, 10)
            assert line.says("h1") == "v1", where
        else:
            assert (share % 2, line.current("h1")) == (0, image), where
        assert line.is_whole(str(line.current("h1"))), where
        crossed = line.proxy.sent
        line.proxy.set()
        ran = line.rollout(share + 1)
        assert (ran.code, line.current("h1")) == (0, image), (where, ran.text)
        # At most one file crossed twice; the rest is the talk of more connections.
        again = crossed + line.proxy.sent - total
        assert again <= SIZE + 9 * contact, where
        assert line.says("h1") == f"n{share + 1}", where
        line.back()


@pytest.mark.row("T2")
def test_a_bit_flips_on_the_way(line: Line, sample: Sample) -> None:
    total = whole_rollout(line)
    before = line.current("h1")
    for share in sample(range(2, 100, 4), 1):
        where = f"flipped at {share} %"
        image = line.new_image(share + 1)
        line.proxy.set("flip", total * share // 100)
        ran = line.spoilt(share + 1)
        assert line.proxy.happened, where
        if ran.code:
            failed_plainly(line, ran, where)
            until(lambda: line.current("h1") == before, 10)
        else:  # the line broke, and a second one did it
            assert line.current("h1") == image, where
        line.proxy.set()
        assert line.is_whole(str(line.current("h1"))), where
        assert line.rollout(share + 1).code == 0, where
        assert line.current("h1") == image, where
        line.back()


@pytest.mark.row("T4")
def test_the_peer_vanishes_without_a_word(line: Line, sample: Sample) -> None:
    """No FIN, no reset: what is sent is swallowed, and nothing ever comes back."""
    total = whole_rollout(line)
    before = line.current("h1")
    for share in sample(range(0, 100, 10), 2):
        where = f"gone at {share} %"
        image = line.new_image(share + 1)
        line.proxy.set("vanish", total * share // 100)
        began = time.monotonic()
        ran = line.spoilt(share + 1)
        assert time.monotonic() - began < 12, where
        assert line.proxy.happened, where
        failed_plainly(line, ran, where)
        until(lambda: line.current("h1") == before, 10)
        line.proxy.set()
        assert line.is_whole(str(line.current("h1"))), where
        line.proxy.drop()  # as the host's keep-alive does, in its own time
        ran = line.rollout(share + 1)
        assert (ran.code, line.current("h1")) == (0, image), (where, ran.text)
        line.back()


@pytest.mark.row("T3")
def test_slow_is_not_dead(line: Line) -> None:
    """A line of 1 Mbit/s: the whole takes longer than a step may, and yet it succeeds."""
    line.prepare("4s", "5s")
    image = line.new_image(1, count=14)
    line.proxy.set(rate=125_000)
    began = time.monotonic()
    ran = line.rollout(1)
    assert (ran.code, line.current("h1")) == (0, image), ran.text
    assert time.monotonic() - began > 5


def test_a_peer_that_is_silent_with_the_lock_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "SILENCE", 0.05)
    source, line = os.pipe()
    try:
        one = agent.Agent(str(tmp_path), "0" * 64, source, line)
        one.take_lock({})
        with pytest.raises(Closed, match="nothing was heard"):
            one.reader.next()
        one.free_lock()
    finally:
        os.close(source)
        os.close(line)
