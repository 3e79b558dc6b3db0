"""Nothing has a name before it lasts: every order on the disk, against a strict file system.

The power cuts in test_power.py are real, but ext4 is kind: one sync commits every earlier
change of names. Here the agent's own system calls are replayed against a model in which bytes
last by a sync of their file, names by a sync of their folder, and nothing else, so that leaving
out any one sync is seen.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet.pack import Packs
from fleet.session import Session
from fleet.transport import LocalTransport
from images.manifest import Manifest
from images.store import Store
from tests.support.cutting import attempt, stop_timers
from tests.support.hosts import Host

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")

CALLS = "openat,write,pwrite64,fsync,syncfs,rename,link,linkat,symlink,unlink,unlinkat,mkdir,rmdir"
CALLS += ",renameat2"
# Below the root, what need not outlive anything: locks, the agent (checked by its hash and sent
# again), its timer, seals (made anew), history; and names (not bytes) of what is being staged.
PASSING = re.compile(r"(store\.)?lock|agent(/.*)?|seals(/.*)?|history\.jsonl")
STAGING = re.compile(r"tmp(/.*)?")
# Syncs of what is said to be passing, of folders above the root's (who made them is not known),
# and of the manifests' folder: the barrier of the check-out comes later, and does not count on it
# (tests/images/test_store.py proves that one).
SPARE = re.compile(r"/agent(/[^>]*)?>|/manifests>")


class Disk:
    """What would be lost now: bytes of files, names in folders."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.bytes: set[str] = set()
        self.names: set[tuple[str, str]] = set()
        self.staged: set[tuple[str, str]] = set()  # names that count once their folder is named
        self.gone: set[str] = set()  # manifests that were removed, and might come back
        self.problems: list[str] = []
        self.history_lasts = True  # by the time of the answer; nothing else waits for it
        self.root_lasts = True  # its own name, where it was just made

    def _ours(self, path: str) -> bool:
        below = path[len(self.root) + 1 :]
        return path.startswith(self.root + "/") and not PASSING.fullmatch(below)

    def _name(self, path: str) -> None:
        if self._ours(path):
            staged = STAGING.fullmatch(path[len(self.root) + 1 :])
            (self.staged if staged else self.names).add((os.path.dirname(path), path))

    def lost(self, below: str = "") -> list[str]:
        """What is not safe yet, at or below a path."""
        paths = self.bytes | {path for _, path in self.names}
        return sorted(
            path for path in paths
            if not below or path == below or path.startswith(below + "/")
        )  # fmt: skip

    def call(self, line: str) -> None:
        found = re.match(r"(\w+)\((.*)\)\s+= (\d+)(?:<(.*?)>)?", line)
        if not found:
            return
        name, words, _, opened = found.groups()
        texts = re.findall(r'"([^"]*)"', words)
        inside = re.match(r"\d+<(.*?)>", words)
        if name == "openat" and "O_CREAT" in words and opened and not self._known(opened):
            self._name(opened)
        elif name in ("write", "pwrite64") and inside and self._ours(inside[1]):
            self.bytes.add(inside[1])
        elif name == "write" and inside and inside[1] == f"{self.root}/history.jsonl":
            self.history_lasts = False
        elif name == "fsync" and inside:
            self.bytes.discard(inside[1])
            self.names = {one for one in self.names if one[0] != inside[1]}
            self.staged = {one for one in self.staged if one[0] != inside[1]}
            self.gone = {one for one in self.gone if os.path.dirname(one) != inside[1]}
            self.history_lasts |= inside[1] == f"{self.root}/history.jsonl"
            self.root_lasts |= inside[1] == os.path.dirname(self.root)
        elif name == "syncfs":
            self.bytes.clear()
            self.names.clear()
            self.staged.clear()
            self.gone.clear()
        elif name == "mkdir" and texts == [self.root]:
            self.root_lasts = False
        elif name in ("mkdir", "symlink", "link", "linkat") and texts:
            self._name(self._whole(words, texts[-1]))
        elif name == "renameat2":
            self._name(texts[0])
            self._name(texts[1])
        elif name == "rename":
            self._rename(*texts[:2])
        elif name in ("unlink", "rmdir", "unlinkat") and texts:
            path = self._whole(words, texts[-1])
            if path.startswith(f"{self.root}/manifests/"):
                self.gone.add(path)
            if path.startswith(f"{self.root}/objects/") and self.gone:
                self.problems.append(f"{path} goes before it lasts that its manifest went")
            self.bytes.discard(path)
            self.names = {one for one in self.names if one[1] != path}
            self.staged = {one for one in self.staged if one[1] != path}

    def _known(self, path: str) -> bool:
        return any(path == one for _, one in self.names)

    @staticmethod
    def _whole(words: str, text: str) -> str:
        at = re.search(r"<([^>]*)>, \"" + re.escape(text) + '"', words)
        return f"{at[1]}/{text}" if at and not text.startswith("/") else text

    def _rename(self, source: str, target: str) -> None:
        left = [path for path in self.lost(source) if path in self.bytes or path != source]
        if left and self._ours(target) and "/.gone-" not in target and "/.old-" not in target:
            self.problems.append(f"{target} is named before {left[0]} lasts")
        if re.fullmatch(r".*/releases/[0-9a-f]{64}", target):
            waiting = [path for path in self.lost() if "/objects/" in path or "/manifests/" in path]
            if waiting:
                self.problems.append(f"{target} is named before {waiting[0]} lasts")
        if target == f"{self.root}/state.json" and self.lost(f"{self.root}/current"):
            self.problems.append("the state tells of a link before it lasts")
        if target == f"{self.root}/current":
            waiting = [path for path in self.lost() if path != source]
            if not self.root_lasts:
                self.problems.append("current is switched before the root lasts")
            if waiting:
                self.problems.append(f"current is switched before {waiting[0]} lasts")
        self.bytes = {path for path in self.bytes if path != source}
        self.names = {one for one in self.names if one[1] != source}
        for folder, path in list(self.staged):
            if folder == source:
                self._name(f"{target}/{os.path.basename(path)}")
        self.staged = {one for one in self.staged if source not in one}
        self._name(target)


@pytest.fixture
def host(tmp_path: Path, store: Store, packs: Packs) -> Iterator[Host]:
    folder = tmp_path / "host"
    folder.mkdir(mode=0o755)
    host = Host(LocalTransport("h1"), str(folder / "app"), store, packs)
    yield host
    stop_timers(host.root)


def replay(host: Host, lines: list[str]) -> Disk:
    disk = Disk(host.root)
    for line in lines:
        answer = re.match(r'write\(\d+<(?:pipe|socket):[^>]*>, "[JX]', line)
        if answer and disk.lost():
            disk.problems.append(f"answered before {disk.lost()[0]} lasts")
        if answer and not disk.history_lasts:
            disk.problems.append("answered before the history lasts")
        disk.call(line)
    return disk


@pytest.mark.row("A2")
def test_every_order_and_every_answer(
    host: Host, images: list[Manifest], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """And leaving out any one sync that the agent makes is noticed here."""
    first, second, third = images

    def stage(session: Session) -> None:
        host.stage(session, second)

    def switch(session: Session) -> None:
        host.switch(session, second)

    def confirm(session: Session) -> None:
        assert session.facts.state.pending
        session.confirm(session.facts.state.pending.generation)

    def revert(session: Session) -> None:
        host.stage(session, third)
        session.revert(host.switch(session, third), "checked")

    def rollback(session: Session) -> None:
        session.rollback(None, second.image_id)

    def quarantine(session: Session) -> None:
        session.quarantine(third.image_id, "checked")
        session.clear(third.image_id, "checked")

    def repair(session: Session) -> None:
        paths = [one.path for one in second.entries if "/filler/" in one.path]
        shutil.rmtree(f"{host.root}/releases/{second.image_id}/{os.path.dirname(paths[0])}")
        paths.append("bin/app")
        os.unlink(f"{host.root}/releases/{second.image_id}/bin/app")
        assert session.repair(second.image_id, paths) == []

    def prune(session: Session) -> None:
        session.rollback(None, first.image_id)
        assert session.prune(0)["removed"] == [third.image_id]

    def adopt(session: Session) -> None:
        os.unlink(f"{host.root}/current")
        os.mkdir(f"{host.root}/current")
        assert session.adopt()

    def first_of_all(session: Session) -> None:
        host.stage(session, first)
        host.switch(session, first)

    actions: list[Callable[[Session], None]] = [
        first_of_all, confirm, stage, switch, confirm, revert, rollback, quarantine,
        repair, prune, adopt,
    ]  # fmt: skip
    log = tmp_path / "trace"
    syncs, spare, parent = 0, [], os.path.dirname(host.root)
    above = os.path.dirname(parent)
    for action in actions:
        error = attempt(host, action, str(log), "-y", "-s", "8", "-e", f"trace={CALLS}")
        assert error is None
        lines = log.read_text(errors="replace").splitlines()
        assert replay(host, lines).problems == [], action.__name__
        for at, line in enumerate(lines):
            call = re.match(r"(?:fsync|syncfs)\(\d+<([^>]*)", line)
            if not call or SPARE.search(line) or above.startswith(call[1]):
                continue
            # The root and what is above are synced with every release; once, its parent must be.
            spares = [host.root] if action == first_of_all else [host.root, parent]
            if call[1] in spares and f"<{os.path.dirname(call[1])}>" in lines[at + 1]:
                continue
            syncs += 1
            # Without any one of them it would not hold.
            if not replay(host, lines[:at] + lines[at + 1 :]).problems:
                spare.append((action.__name__, line))
    assert spare == []
    assert syncs > 30
    request.node.user_properties.append(("points", syncs))
