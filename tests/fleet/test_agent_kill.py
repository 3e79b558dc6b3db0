"""An agent that dies, or whose disk fails, at every system call of what it does.

strace ends the agent at the entry of one call (which then is not executed), or makes one call
fail. Afterwards the host must run one whole release, old or new, and the same steps again must
finish. `make faults` tries every call, `make test` a sample.

Many calls leave the very same host behind (a module that is read, say): how it recovers is
tried once for each state that was ever left, however many calls led to it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fleet.agent_timer import is_armed
from fleet.session import HostError, Session
from images.layout import FIXED_NS
from images.store import Store
from tests.support.cutting import recovers, stop_timers
from tests.support.hosts import Host
from tests.support.small_images import small_image

Point = tuple[str, int]
Failure = tuple[str, str, int]

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")

# Whatever can change the disk, another process, or how far a stream has been read.
CALLS = (
    "openat,write,pwrite64,fsync,syncfs,rename,linkat,link,symlink,unlink,unlinkat,mkdir,rmdir,"
    "fchmod,chmod,utimensat,flock,ftruncate,clone,clone3,fork,vfork,read,close"
)
NAMING = "rename,mkdir,unlink,unlinkat,rmdir,symlink,link,linkat"
# The error, the calls that may give it, and of openat which: those whose line has this.
FAILING = {
    "EIO": (f"openat,write,pwrite64,fsync,syncfs,ftruncate,{NAMING}", "/app"),
    "ENOSPC": ("openat,write,pwrite64,fsync,syncfs,mkdir,link,linkat,symlink,rename", "O_CREAT"),
    "EDQUOT": ("openat,write,pwrite64,fsync,syncfs,mkdir,link,linkat,symlink,rename", "O_CREAT"),
    "EROFS": (f"openat,fchmod,utimensat,ftruncate,{NAMING}", "O_WRONLY|O_RDWR"),
    "ESTALE": (f"openat,write,pwrite64,fsync,{NAMING}", "/app"),
    "EMFILE": ("openat", ""),
    "EINTR": (f"openat,write,pwrite64,fsync,syncfs,flock,{NAMING}", "/app"),
}


class Bench:
    """A host prepared once and put back before every point; three releases: a, b there; c new."""

    def __init__(self, host: Host, store: Store) -> None:
        self.host = host
        self.images = [small_image(store, text, count=3) for text in ("a", "b", "c")]
        self.kept = Path(host.root).with_name("kept")
        self.seen: set[str] = set()
        host.deploy(self.images[0])
        host.deploy(self.images[1])

    def keep(self, name: str) -> None:
        """Bring the host to where the action begins, and remember that."""
        if name in ("settle", "confirm"):
            with self.host.open() as session:
                self.host.stage(session, self.images[2])
                if name == "settle":
                    self.host.switch(session, self.images[2], hooks=["true"])
            stop_timers(self.host.root)
        subprocess.run(["cp", "-a", self.host.root, self.kept], check=True)

    def reset(self) -> None:
        stop_timers(self.host.root)
        shutil.rmtree(self.host.root)
        subprocess.run(["cp", "-a", self.kept, self.host.root], check=True)


def stage(bench: Bench, session: Session) -> None:
    bench.host.stage(session, bench.images[2])


def switch(bench: Bench, session: Session) -> None:
    bench.host.stage(session, bench.images[2])
    bench.host.switch(session, bench.images[2], hooks=["true"])


def confirm(bench: Bench, session: Session) -> None:
    pending = session.facts.state.pending
    assert pending
    session.confirm(pending.generation)


def revert(bench: Bench, session: Session) -> None:
    bench.host.switch(session, bench.images[0], hooks=["true"])
    session.revert(session.facts.state.generation + 1, "unhealthy")


def settle(bench: Bench, session: Session) -> None:
    assert session.facts.settled


def rollback(bench: Bench, session: Session) -> None:
    session.rollback(None, bench.images[1].image_id)


def prune(bench: Bench, session: Session) -> None:
    session.rollback(None, bench.images[1].image_id)
    session.prune(1)
    session.prune(0)


ACTIONS: dict[str, Callable[[Bench, Session], None]] = {
    action.__name__: action for action in (stage, switch, confirm, revert, settle, rollback, prune)
}


@pytest.fixture
def bench(host: Host, store: Store) -> Bench:
    return Bench(host, store)


@functools.cache
def alone() -> list[str]:
    """Words before a program that give it a /proc of its own: what prune reads there is little."""
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        done = subprocess.run([*words, "true"], capture_output=True, check=False)
    except OSError:
        return []
    return words if done.returncode == 0 else []


def attempt(bench: Bench, name: str, *options: str) -> HostError | None:
    """The action under strace; the error the controller saw, if any."""
    bench.reset()
    if name == "confirm":  # its timer has to live
        with bench.host.open() as session:
            bench.host.switch(session, bench.images[2], hooks=["true"])
    words = [*(alone() if name == "prune" else []), "strace", "-qq", "-o", trace(bench), *options]
    try:
        with bench.host.open(become=words, timeout=20) as session:
            ACTIONS[name](bench, session)
    except HostError as error:
        return error
    return None


def trace(bench: Bench) -> str:
    return str(bench.kept.with_name("trace"))


def calls_of(bench: Bench, name: str, calls: str) -> list[tuple[str, int, str]]:
    """Every call the action makes: its name, how many of that name came before it, its line."""
    bench.keep(name)
    assert attempt(bench, name, "-y", "-s", "200", "-e", f"trace={calls}") is None
    counts: dict[str, int] = {}
    found = []
    for line in Path(trace(bench)).read_text(errors="replace").splitlines():
        match = re.match(r"(\w+)\(", line)
        if match:
            counts[match[1]] = counts.get(match[1], 0) + 1
            found.append((match[1], counts[match[1]], line))
    return found


def state_of(root: str) -> str:
    """What a host was left as; times, pids and random names apart."""
    found, passing = [f"timer {is_armed(root)}"], ("lock", "deadline", "store.lock")
    for folder, folders, names in os.walk(root):
        folders.sort()
        below = re.sub(r"/tmp/.*", "/tmp/?", folder[len(root) :])
        for name in [*folders, *names]:
            status = os.lstat(f"{folder}/{name}")
            shown = "?" if below == "/tmp/?" else re.sub(r"\.\d+$", ".?", name)
            text = ""
            if stat.S_ISLNK(status.st_mode):
                text = os.readlink(f"{folder}/{name}")
            elif name == "history.jsonl":
                text = re.sub(rb'"time": ?"[^"]*"', b"", Path(folder, name).read_bytes()).decode()
            elif stat.S_ISREG(status.st_mode) and name not in passing and below != "/seals":
                text = hashlib.sha256(Path(folder, name).read_bytes()).hexdigest()
            fixed = status.st_mtime_ns == FIXED_NS
            found.append(f"{below}/{shown} {status.st_mode:o} {status.st_nlink} {fixed} {text}")
    return "\n".join(sorted(found))


def check(bench: Bench, where: str) -> None:
    """One whole release runs; whatever is unconfirmed can go back; everything can be done again."""
    left = state_of(bench.host.root)
    if left not in bench.seen:
        recovers(bench.host, bench.images, where)
        bench.seen.add(left)


@pytest.mark.row("A1")
@pytest.mark.row("T7")
@pytest.mark.row("S4")
@pytest.mark.parametrize("name", ACTIONS)
def test_killed_at_a_system_call(
    bench: Bench, sample: Callable[[Sequence[Point], int], Sequence[Point]], name: str
) -> None:
    for call, count in sample([call[:2] for call in calls_of(bench, name, CALLS)], 5):
        rule = f"{call}:signal=KILL:when={count}"
        attempt(bench, name, "-e", f"trace={call}", "-e", f"inject={rule}")
        check(bench, f"{name} {rule}")


@pytest.mark.row("A3", "D1", "D2")
@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "stage"])
def test_a_system_call_fails(
    bench: Bench, sample: Callable[[Sequence[Failure], int], Sequence[Failure]], name: str
) -> None:
    """Also what a quota says (EDQUOT), a disk that turned read-only, and NFS (ESTALE)."""
    calls = calls_of(bench, name, CALLS)
    points = [
        (error, call, count)
        for error, (failing, opened) in FAILING.items()
        for call, count, line in calls
        if call in failing.split(",") and (call != "openat" or re.search(opened, line))
    ]
    for error, call, count in sample(points, 8):
        rule = f"{call}:error={error}:when={count}"
        seen = attempt(bench, name, "-e", f"trace={call}", "-e", f"inject={rule}")
        if seen:
            assert str(seen).startswith("h1: "), rule
            assert str(seen).isprintable(), rule
            assert "Traceback" not in str(seen), rule
        check(bench, f"{name} {rule}: {seen}")
