"""Bringing an image to a host: its manifest, its objects, its release. Travels to hosts.

Everything is checked here again, whatever the controller has checked. The manifest is checked
once, in memory, and those very bytes are used for the rest of the session. Only objects that
manifest names, that were missing, and that have its size and sha256 are taken.

Write order: objects (a barrier for each batch), then the manifest, then the tree under
``releases/.new-…``, synced, then its rename to ``releases/<id>``. The state learns of it last.
A cut leaves objects, which are not sent again, and a ``.new`` folder, which the next check-out
removes. The tree of a first release is made while the disk takes its objects, of links to where
they are staged; it is synced, and named, when they have been.
"""

from __future__ import annotations

import os
import sys
import zlib
from hashlib import sha256

from fleet import agent_state
from fleet.agent_errors import AgentError, image_id, running, text
from images.errors import WainError
from images.forks import can_fork, kill, start
from images.manifest import Manifest, folders
from images.store import MAX_MANIFEST, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleet.agent import Agent
    from images.batch import Batch
    from images.tree import Checkout

    Key = tuple[str, bool]
    Request = dict[str, Any]
    Answer = dict[str, Any]

RESERVE = 8 << 20  # bytes that stay free


def begin(agent: Agent, request: Request) -> Answer:
    """Take a manifest, whole or as a delta to one that is here; which objects are missing.

    Answers with one bit for each object in the order of ``Manifest.objects()``, highest bit
    first, and whether a pack of them may be zstd.
    """
    image, base, name = image_id(request), request.get("base"), text(request, "name")
    sent = b"".join(agent.stream())
    if base:
        from images.delta import apply_delta

        try:
            old = agent.store.manifest_bytes(image_id(request, "base"))
        except StoreError as error:
            raise AgentError("base", str(error)) from None
        data = apply_delta(old, sent)
    else:
        data = _inflate(sent)
    found = sha256(data).hexdigest()
    if found != image:
        raise AgentError("manifest", f"a manifest of id {found[:12]} came as {image[:12]}")
    state = agent_state.load(agent.root)
    if name and state["name"] not in ("", name):
        raise AgentError(
            "root", f"{agent.root} is the root of {state['name']!a}, this is {name!a}",
            "each application has a root of its own; wain fleet adopt gives this one away",
        )  # fmt: skip
    if image in state["quarantined"]:
        raise AgentError("quarantined", f"image {image[:12]} is quarantined here: "
                         f"{state['quarantined'][image]}")  # fmt: skip
    if state["trust"] or request.get("proof"):
        from fleet import agent_trust

        if agent_trust.check(state, image, request.get("proof")):
            agent_state.save(agent.root, state)
    manifest = Manifest.parse(data, f"manifest {image[:12]}")
    _check_target(manifest)
    objects = manifest.objects()
    missing = agent.store.missing(objects)
    _check_space(agent, manifest, {key: objects[key] for key in missing})
    agent.name = name
    agent.staged[image] = manifest
    agent.wanted = {key: objects[key] for key in missing}
    if not base:
        agent.packed[image] = sent
    bits = bytearray((len(objects) + 7) // 8)
    lacking = set(missing)
    for at, key in enumerate(objects):
        if key in lacking:
            bits[at >> 3] |= 0x80 >> (at & 7)
    return {"missing": len(missing), "zstd": bool(missing) and _has_zstd(), "body": bytes(bits)}


def _has_zstd() -> bool:
    from fleet import agent_zstd

    return agent_zstd.library() is not None


def _inflate(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, MAX_MANIFEST)
    except zlib.error:
        raise AgentError("manifest", "the manifest arrived damaged") from None
    if not unpacker.eof or unpacker.unused_data:
        raise AgentError("manifest", "the manifest arrived cut short, or is too large")
    return plain


def _check_target(manifest: Manifest) -> None:
    version, abi = running()
    if manifest.python != version or manifest.abi not in (abi, "none"):
        raise AgentError(
            "target",
            f"the image is for Python {manifest.python} ({manifest.abi}), "
            f"{os.path.realpath(sys.executable)} is {version} ({abi})",
        )


def _check_space(agent: Agent, manifest: Manifest, missing: dict[Key, int]) -> None:
    """Blocks and inodes, before the first write. Raises AgentError `space`."""
    status = os.statvfs(agent.root)
    block = max(512, status.f_frsize)
    # Besides objects: folders, templates, links and empty files have inodes of their own.
    own = [entry for entry in manifest.entries if entry.kind != "file" or not entry.size]
    made = len(folders(entry.path for entry in manifest.entries)) + len(own)
    if os.path.isdir(agent.release(manifest.image_id)):
        made = 0
    blocks = sum(-(-size // block) for size in missing.values()) + made
    need, free = blocks * block + RESERVE, status.f_bavail * status.f_frsize
    if need > free:
        raise AgentError("space", f"{agent.root}: needs {need} bytes, {free} are free")
    inodes = len(missing) + made + 300  # the object folders among them
    if status.f_files and inodes > status.f_favail:
        raise AgentError(
            "space", f"{agent.root}: needs {inodes} inodes, {status.f_favail} are free"
        )


def prepare(agent: Agent) -> None:
    """Work out, while nothing has arrived yet, what a check-out needs to know."""
    from fleet.agent_look import Look
    from images.worklist import WorkList

    for image, manifest in agent.staged.items():
        if image not in agent.prepared:
            agent.prepared[image] = (WorkList.of(manifest), Look(manifest))


class Early:
    """A tree that stands as ``new`` and was not synced yet."""

    def __init__(self, new: str, done: Checkout, descriptor: int) -> None:
        self.new = new
        self.done = done
        self.descriptor = descriptor  # of the folder it is in, opened before it was begun

    def make_last(self) -> Checkout:
        """Sync it. Raises OSError."""
        from images import tree

        try:
            tree.make_last(self.descriptor, self.new)
        finally:
            os.close(self.descriptor)
        return self.done


def place_early(agent: Agent, batch: Batch) -> None:
    """Make a release's tree, and begin to look at it, while the disk takes its objects.

    Where all of them are new, in this batch. What goes wrong here the check-out will meet again.
    """
    from images import tree

    [(image, manifest), *others] = agent.staged.items()
    folder = batch.folder_of_all(len(manifest.objects()))
    if others or not folder or not can_fork() or os.path.lexists(agent.release(image)):
        return
    work, look = agent.prepared[image]
    flushing: list[tuple[int, int]] = []
    home = _home(agent)
    new = f"{home}/.new-{image[:16]}"
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flushing.append(start(batch.flush))
        done = tree.checkout(
            work, agent.store.with_objects_in(folder), new, agent.release(image),
            agent.interpreter(), fsync=False, fresh=agent.fresh,
            meanwhile=lambda: look.begin(new), on_progress=agent.progress,
        )  # fmt: skip
    except (OSError, WainError):
        os.close(descriptor)
    else:
        agent.early[image] = Early(new, done, descriptor)
    finally:
        kill(flushing)


def drop_early(agent: Agent) -> None:
    """Give up the trees that were made early."""
    from fleet.agent_verify import remove_tree

    while agent.early:
        image, early = agent.early.popitem()
        agent.prepared[image][1].stop()
        os.close(early.descriptor)
        remove_tree(early.new)


def _home(agent: Agent) -> str:
    """Where releases are, without what a dead session left there: the lock is ours."""
    from fleet.agent_verify import remove_tree

    home = f"{agent.root}/releases"
    os.makedirs(home, 0o755, exist_ok=True)
    ours = {one.new for one in agent.early.values()}
    for name in os.listdir(home):
        if name.startswith(".") and f"{home}/{name}" not in ours:
            remove_tree(f"{home}/{name}")
    return home


def _make_path_last(folder: str) -> None:
    """The names of a folder and of all above it, which a first roll-out has just made."""
    from images import durable

    while True:
        try:
            durable.sync_folder(folder)
        except PermissionError:
            return  # not ours, so we cannot have made it
        if folder == "/":
            return
        folder = os.path.dirname(folder)


def checkout(agent: Agent, request: Request) -> Answer:
    """Make the release ``releases/<id>``; an existing one is kept when it is as it should be."""
    from fleet.agent_look import Look
    from fleet.agent_verify import check_release, drift_of, remove_tree
    from images import tree

    image, root = image_id(request), agent.root
    manifest = agent.manifest(image)
    target = agent.release(image)
    home, early = _home(agent), agent.early.pop(image, None)
    state = agent_state.load(root)
    answer: Answer = {"files": len(manifest.entries), "made": False}
    there = os.path.lexists(target)
    drift = drift_of(agent, image, False, strays=False) if there else []
    if drift and agent_state.link_of(image) == state["current"]:
        raise AgentError(
            "damaged",
            f"release {image[:12]} is current and differs from its manifest: {drift[0].path}",
            "wain fleet verify --repair",
        )
    if drift or not there:
        agent.store.put_manifest(manifest, agent.packed.get(image))
        new = f"{home}/.new-{image[:16]}"
        interpreter = agent.interpreter()
        work, look = agent.prepared.get(image) or (manifest, Look(manifest))
        try:
            done = early.make_last() if early else tree.checkout(
                work, agent.store, new, target, interpreter,
                fresh=agent.fresh, meanwhile=lambda: look.begin(new), on_progress=agent.progress,
            )  # fmt: skip
            seen = look.take()
            if drift:
                os.rename(target, f"{home}/.old-{image[:16]}")
            os.rename(new, target)
            _make_path_last(home)
        finally:
            look.stop()
            for leftover in (new, f"{home}/.old-{image[:16]}"):
                if os.path.lexists(leftover):
                    remove_tree(leftover)
        check_release(agent, image, False, interpreter, seen)
        state["made"] = {**state["made"], image: list(interpreter)}
        answer.update(
            made=True, reflinked=done.reflinked, hardlinked=done.hardlinked,
            copied=done.copied, fallback=done.fallback,
        )  # fmt: skip
    unnamed = agent.name and not state["name"]
    if unnamed:
        state["name"] = agent.name
    if image not in state["staged"] or answer["made"] or unnamed:
        state["staged"] = {**state["staged"], image: state["generation"]}
        agent_state.save(root, state)
        agent_state.record(root, state, "stage", request, id=image)
    return answer
