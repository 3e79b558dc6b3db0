"""A host whose agent or disk is stopped at a chosen system call, and what must hold then."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from fleet.session import HostError, Session
from images.manifest import Manifest
from images.store import Store
from tests.support.hosts import Host, until

TEXTS = "abc"


def stop_timers(root: str) -> None:
    """End what still runs for a root: timers, and agents whose controller is gone."""
    ended = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if root.encode() in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                os.kill(int(name), signal.SIGKILL)
                ended.append(name)
        except OSError:
            continue
    # Until it is gone it may still hold a lock.
    for name in ended:
        until(lambda name=name: _is_gone(name))


def _is_gone(pid: str) -> bool:
    """Whether a process has closed all it held: it is no more, or only waits to be counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in b"ZX"
    except OSError:
        return True


def attempt(
    host: Host, action: Callable[[Session], None], log: str, *options: str
) -> HostError | None:
    """One session under strace; the error the controller saw, if any."""
    try:
        with host.open(become=["strace", "-qq", "-o", log, *options], timeout=20) as session:
            action(session)
    except HostError as error:
        return error
    return None


def calls_in(log: str) -> list[tuple[str, int]]:
    """What strace saw: each call's name and how often that name had come up."""
    counts: dict[str, int] = {}
    found = []
    for line in Path(log).read_text(errors="replace").splitlines():
        match = re.match(r"(\w+)\(", line)
        if match:
            counts[match[1]] = counts.get(match[1], 0) + 1
            found.append((match[1], counts[match[1]]))
    return found


def whole(host: Host, images: list[Manifest], where: str) -> None:
    """``current`` leads to one whole release that runs and equals its manifest."""
    texts = {image.image_id: text for image, text in zip(images, TEXTS, strict=True)}
    assert host.current in texts, where
    program = f"{host.root}/releases/{host.current}/bin/app"
    shown = subprocess.run([program], capture_output=True, text=True, check=False)
    assert shown.stdout == f"{texts[str(host.current)]}\n", f"{where}: {shown.stderr}"
    with host.open() as session:
        state = session.facts.state
        assert state.foreign == "", where
        assert session.verify(str(state.current), deep=True) == [], where


def recovers(host: Host, images: list[Manifest], where: str) -> None:
    """Whatever is unconfirmed goes back, and everything can be done again."""
    whole(host, images, where)
    with host.open() as session:
        state = session.facts.state
        if state.pending:
            assert state.pending.armed, where
            session.revert(state.pending.generation, "checked")
    if host.current == images[2].image_id:
        assert images[2].image_id in state.confirmed, where
    else:
        host.deploy(images[2])
    whole(host, images, where)
    assert host.current == images[2].image_id, where
    with host.open() as session:
        session.prune(1)
        back = session.rollback(None, images[2].image_id)[0]
        assert session.verify(back, deep=True) == [], where
    assert Store(host.root).verify() == [], where
    left = [name for name in os.listdir(f"{host.root}/releases") if name.startswith(".")]
    assert left == [], where
