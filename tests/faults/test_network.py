"""A network of the test's own: a cable that is pulled, and one that carries 1 Mbit/s.

The controller's thread moves into a namespace of its own, the server lives in another, and a pair
of virtual network cards is the cable between them. Nothing of this machine's network changes.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from images.store import Store
from tests.support.fleets import Project, Ran
from tests.support.hosts import until
from tests.support.sshd import Sshd, require

pytestmark = [
    pytest.mark.faults,  # tests/faults/test_line.py has the short ones
    pytest.mark.sshd,
    pytest.mark.root,
    pytest.mark.xdist_group("sshd"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="no ip here (apt-get install iproute2)"),
]

CLONE_NEWNET = 0x40000000
HERE, THERE = "10.213.7.1", "10.213.7.2"


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Cable(Project):
    """One host at the other end of a cable; image v1 is on it."""

    pid: int

    def root(self, host: str) -> Path:
        return self.folder.parent / "sshd" / "hosts" / host / "app"

    def wain(self, *words: str) -> Ran:
        """As a process: signals are for the main thread, the network is this thread's."""
        process = self.start(*words, "--json")
        stdout, stderr = process.communicate(timeout=60)
        return Ran(process.returncode, json.loads(stdout) if stdout.strip() else {}, stderr)

    def there(self, *words: str) -> None:
        run("nsenter", "-t", str(self.pid), "-n", *words)


@contextmanager
def cable(tmp_path: Path) -> Iterator[Cable]:
    folder, home = tmp_path / "shop", tmp_path / "sshd"
    folder.mkdir()
    home.mkdir(mode=0o755)
    server = Sshd(home, 1)
    line = Cable(folder, Store(os.environ["WAIN_STORE"]))
    key = " ".join(server.host_key.split()[:2])
    server.known_hosts.write_text(f"[{THERE}]:{server.port} {key}\n")
    # Waits for its card before it listens.
    wait = f'while ! ip -4 addr | grep -q {THERE}; do sleep 0.02; done; exec "$@"'
    line.pid = server.start(
        [f"ListenAddress {THERE}"], before=["unshare", "--net", "sh", "-c", wait, "sh"]
    )
    try:
        mine = os.readlink("/proc/thread-self/ns/net")
        until(lambda: os.readlink(f"/proc/{line.pid}/ns/net") != mine)
        run("ip", "link", "add", "near", "type", "veth", "peer", "far", "netns", str(line.pid))
        run("ip", "addr", "add", f"{HERE}/24", "dev", "near")
        run("ip", "link", "set", "near", "up")
        run("ip", "link", "set", "lo", "up")
        line.there("ip", "link", "set", "lo", "up")
        line.there("ip", "link", "set", "far", "up")
        line.there("ip", "addr", "add", f"{THERE}/24", "dev", "far")
        text = server.fleet_toml().replace(f'"{server.address(1)}"', f'"{THERE}"')
        (folder / "fleet.toml").write_text(
            f'{text}\n[rollout]\nstep-timeout = "3s"\nconnect-timeout = "6s"\n'
            'confirm-timeout = "3s"\nbandwidth = "400kB/s"\n'
        )
        line.hosts = ["h1"]
        line.image("v1")
        until(lambda: line.wain("check").code == 0)
        assert line.wain("rollout", "shop:v1", "--yes").code == 0
        yield line
    finally:
        server.stop()


def elsewhere(work: Callable[[], None]) -> None:
    """Do it in a thread with a network of its own; what it starts is there too."""

    def inside() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            pytest.skip("no network namespace can be made here")
        work()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(inside).result()


@pytest.mark.row("T4")
def test_the_cable_is_pulled(tmp_path: Path) -> None:
    """Half open: neither end is told. The verdict comes at the deadline; all can be done again."""

    def work() -> None:
        require()
        with cable(tmp_path) as line:
            before = line.current("h1")
            image = line.image("v2", data=os.urandom(700_000))
            root = line.root("h1")

            def pull() -> None:
                until(lambda: any((root / "tmp").glob("*/*")))
                line.there("ip", "link", "set", "far", "down")

            puller = threading.Thread(target=pull)
            puller.start()
            began = time.monotonic()
            ran = line.wain("rollout", "shop:v2", "--yes")
            took = time.monotonic() - began
            puller.join()
            assert ran.code in (4, 5), ran.text
            error = ran.document["hosts"]["h1"]["error"]
            assert error.isprintable()
            assert "Traceback" not in ran.text
            # The step's 3 s without an answer, then the 6 s of trying to connect again.
            assert took < 15
            assert line.current("h1") == before
            assert line.says("h1") == "v1"
            line.there("ip", "link", "set", "far", "up")
            until(lambda: line.wain("rollout", "shop:v2", "--yes").code == 0, 30)
            assert line.current("h1") == image
            assert line.says("h1") == "v2"

    elsewhere(work)


@pytest.mark.row("T3")
def test_a_cable_of_one_megabit(tmp_path: Path) -> None:
    """Slow is not dead: the whole takes longer than a step may."""
    if shutil.which("tc") is None:
        pytest.skip("no tc here (apt-get install iproute2)")

    def work() -> None:
        require()
        with cable(tmp_path) as line:
            slow = ["tc", "qdisc", "add", "dev", "near", "root", "tbf", "rate", "1mbit", "burst",
                    "16kb", "latency", "400ms"]  # fmt: skip
            if subprocess.run(slow, capture_output=True, check=False).returncode:
                pytest.skip("this kernel has no token bucket")
            image = line.image("v2", data=os.urandom(500_000))
            began = time.monotonic()
            ran = line.wain("rollout", "shop:v2", "--yes")
            assert (ran.code, line.current("h1")) == (0, image), ran.text
            assert time.monotonic() - began > 3.5

    elsewhere(work)
