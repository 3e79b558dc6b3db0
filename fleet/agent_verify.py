"""Whether a release is what its manifest says, and putting it right. Travels to hosts."""

from __future__ import annotations

import os
import stat

from fleet import agent_look, agent_seal, agent_state
from fleet.agent_errors import AgentError, image_id
from images import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fleet.agent import Agent
    from images.manifest import Entry
    from images.render import Interpreter
    from images.tree import Drift

    Request = dict[str, Any]
    Answer = dict[str, Any]

MOST = 20000  # differences in one answer


def drift_of(
    agent: Agent,
    image: str,
    deep: bool,
    strays: bool = True,
    among: Sequence[Entry] | None = None,
    interpreter: Interpreter | None = None,
) -> list[Drift]:
    """Where a release differs from its manifest; ``strays``: what was added counts.

    With ``among``, only these entries and their folders are looked at. ``interpreter``: what it
    was made for, when the host's state does not say so yet.
    """
    manifest, target = agent.manifest(image), agent.release(image)
    if among is not None:
        manifest = manifest.part(among)
    if not os.path.isdir(target) or os.path.islink(target):
        return [tree.Drift("", "-", "type" if os.path.lexists(target) else "missing")]
    return tree.scan(
        target, manifest, target, interpreter or agent.interpreter_of(image), deep,
        store=agent.store, strays=strays, on_progress=agent.progress,
    )  # fmt: skip


def check_release(
    agent: Agent,
    image: str,
    deep: bool,
    interpreter: Interpreter | None = None,
    seen: tuple[bytes, Sequence[Entry]] | None = None,
) -> None:
    """Raise AgentError `damaged` when a release is not whole. What was added does not count.

    ``seen``: what a look at it found, if it was looked at just now.
    """
    seal, doubtful = seen or agent_look.measure(agent.release(image), agent.manifest(image))
    among = None if deep else doubtful
    drift = drift_of(agent, image, deep, strays=False, among=among, interpreter=interpreter)
    if drift:
        raise AgentError(
            "damaged",
            f"release {image[:12]} is damaged: {len(drift)} files, first "
            f"{drift[0].path} ({drift[0].what})",
            "wain fleet verify --repair",
            drift=[list(one) for one in drift[:100]],
        )
    agent_seal.write(agent.root, image, seal)


def verify(agent: Agent, request: Request) -> Answer:
    """The differences of one release: [path, package, what]."""
    drift = drift_of(agent, image_id(request), bool(request.get("deep")))
    return {"drift": [list(one) for one in drift[:MOST]], "count": len(drift)}


def repair(agent: Agent, request: Request) -> Answer:
    """Put the named paths of a release right, or say which objects that needs.

    Objects whose bytes were changed, through a hard link for instance, are removed from the
    store and count as missing: ``missing`` has them, as [sha256, executable] pairs; send them
    as a pack and ask again. Files are replaced by rename, never written in place. Paths that
    the manifest does not have are removed, below the release only.
    """
    image = image_id(request)
    manifest, target = agent.manifest(image), agent.release(image)
    wanted = {str(path) for path in request.get("paths", [])}
    entries = [entry for entry in manifest.entries if entry.path in wanted]
    objects = manifest.objects()
    keys = sorted({entry.key for entry in entries})
    store = agent.store
    store.remove_bad([bad for bad in store.heal(keys) if bad.what != "missing"])
    missing = store.missing({key: objects[key] for key in keys})
    agent.wanted = {key: objects[key] for key in missing}
    if missing:
        return {"repaired": 0, "missing": [list(key) for key in missing]}
    removed = 0
    known = {entry.path for entry in manifest.entries}
    for path in sorted(wanted - known):
        tree.confine(path)
        if _real_folder(target, path):
            removed += _remove(f"{target}/{path}")
    if entries:
        interpreter = agent.interpreter_of(image)
        _replace(agent, manifest, entries, target, interpreter)
        state = agent_state.load(agent.root)
        if state["made"].get(image) != list(interpreter):
            state["made"] = {**state["made"], image: list(interpreter)}
            agent_state.save(agent.root, state)
    return {"repaired": len(entries), "removed": removed, "missing": []}


def _replace(
    agent: Agent, manifest: Any, entries: list[Any], target: str, interpreter: Any
) -> None:
    """A small tree of just these entries, each renamed into its place."""
    from images import durable

    part = manifest.part(entries)
    aside = f"{agent.root}/releases/.repair-{os.getpid()}"
    try:
        tree.checkout(part, agent.store, aside, target, interpreter)
        touched = set()
        for entry in entries:
            folder = target
            for name in entry.path.split("/")[:-1]:
                above, folder = folder, f"{folder}/{name}"
                if _make_real(folder):
                    touched.add(above)
            place = f"{target}/{entry.path}"
            if os.path.isdir(place) and not os.path.islink(place):
                remove_tree(place)
            os.rename(f"{aside}/{entry.path}", place)
            touched.add(folder)
        for folder in touched:
            durable.sync_folder(folder)
    finally:
        remove_tree(aside)


def _make_real(folder: str) -> bool:
    """A folder of our own there: what stands in its way is removed, never followed.

    Whether it had to be made.
    """
    try:
        if stat.S_ISDIR(os.lstat(folder).st_mode):
            return False
        os.unlink(folder)
    except FileNotFoundError:
        pass
    os.mkdir(folder, 0o755)
    return True


def _real_folder(target: str, path: str) -> bool:
    """Whether no part above the path is a symlink."""
    at = target
    for name in path.split("/")[:-1]:
        at = f"{at}/{name}"
        if os.path.islink(at):
            return False
    return True


def _remove(path: str) -> int:
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            remove_tree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return 0
    return 1


def remove_tree(path: str) -> None:
    """Remove a folder and all below it, links never followed. Raises OSError."""
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return
    import shutil

    shutil.rmtree(path)
