"""Looking after a host: what is kept, what runs, what happened. Travels to hosts."""

from __future__ import annotations

import os

from fleet import agent_json, agent_state, agent_timer
from fleet.agent_errors import AgentError, image_id, is_image_id, number, text, texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleet.agent import Agent

    Request = dict[str, Any]
    Answer = dict[str, Any]
    State = dict[str, Any]


def prune(agent: Agent, request: Request) -> Answer:
    """Remove releases nobody needs, then what only they needed.

    Kept: the newest ``keep`` by generation, current, previous, the last confirmed, what is
    pinned, what a process still uses, and what was checked out since the last switch. Never
    while a switch is unconfirmed. Order: release folders, then manifests, then objects.
    """
    from fleet.agent_verify import remove_tree

    root = agent.root
    state = agent_state.load(root)
    if state["pending"]:
        raise AgentError("pending", "a switch waits for its confirmation: nothing is removed")
    found = agent_state.releases(root)
    used = {name for name in users(root) if is_image_id(name)}
    live = keepers(state, found, int(number(request, "keep")), texts(request, "pins")) | used
    gone = [image for image in found if image not in live]
    home = f"{root}/releases"
    for image in gone:
        aside = f"{home}/.gone-{image[:16]}"
        remove_tree(aside)
        os.rename(f"{home}/{image}", aside)
        remove_tree(aside)
        remove_tree(f"{root}/seals/{image}")
    left = set(agent_state.releases(root))
    for name in ("seen", "confirmed", "staged", "made", "proven"):
        state[name] = {image: at for image, at in state[name].items() if image in left}
    agent_state.save(root, state)
    ids = [image for image in agent.store.manifests() if image in left]
    keys = {key for image in ids for key in agent.store.manifest(image).objects()}
    freed = agent.store.collect(keys, ids)
    _old_agents(root, agent.digest)
    if gone or freed.objects:
        agent_state.record(root, state, "prune", request, removed=gone)
    return {"removed": gone, "objects": freed.objects, "bytes": freed.size}


def keepers(state: State, found: list[str], keep: int, pins: list[str]) -> set[str]:
    """What stays, running processes apart. Pure."""
    release = agent_state.release_of
    live = {release(state["current"]), release(state["previous"]), *pins}
    confirmed = state["confirmed"]
    if confirmed:
        live.add(max(confirmed, key=lambda image: confirmed[image]))
    since = state["generation"]
    live |= {image for image, at in state["staged"].items() if at >= since}
    by_age = sorted(found, key=lambda image: state["seen"].get(image, -1), reverse=True)
    live |= set(by_age[:keep])
    return {image for image in live if image}


def _old_agents(root: str, digest: str) -> None:
    from images import durable

    for name in os.listdir(f"{root}/agent"):
        if is_image_id(name[:64]) and not name.startswith(digest):
            durable.discard(f"{root}/agent/{name}")


def users(root: str) -> dict[str, list[int]]:
    """Release id -> processes that run from it, as far as this user may look.

    A process started through ``current/`` is listed as ``current``: nothing says which release
    it began with.
    """
    prefix, moving = f"{root}/releases/", f"{root}/current/"
    found: dict[str, set[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        for line in _traces(f"/proc/{name}"):
            at = line.find(prefix)
            while at >= 0:
                image = line[at + len(prefix) : at + len(prefix) + 64]
                if is_image_id(image):
                    found.setdefault(image, set()).add(int(name))
                at = line.find(prefix, at + 1)
            if moving in line:
                found.setdefault("current", set()).add(int(name))
    return {image: sorted(pids) for image, pids in found.items()}


def _traces(folder: str) -> list[str]:
    """Where a process shows what it runs: its command line, links and mapped files."""
    traces = []
    for name in ("exe", "cwd"):
        try:
            traces.append(os.readlink(f"{folder}/{name}"))
        except OSError:
            continue
    for name in ("cmdline", "maps"):
        try:
            with open(f"{folder}/{name}", "rb") as file:
                traces.append(file.read(1 << 22).decode("utf-8", "replace"))
        except OSError:
            continue
    return traces


def processes(agent: Agent, request: Request) -> Answer:
    """Processes that still run from a release that is not current, and those through current/."""
    current = agent_state.release_of(agent_state.read_link(agent.root)[0])
    return {
        "current": current,
        "processes": [
            [image, pid] for image, pids in sorted(users(agent.root).items()) for pid in pids
        ],
    }


def history(agent: Agent, request: Request) -> Answer:
    """The last ``count`` lines of history.jsonl; lines that were cut short are left out."""
    count = int(number(request, "count", 20))
    lines: list[Any] = []
    try:
        with open(f"{agent.root}/history.jsonl", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 4096 * (count + 1)))
            texts_found = file.read().splitlines()
    except FileNotFoundError:
        texts_found = []
    for line in texts_found:
        try:
            lines.append(agent_json.loads(line))
        except ValueError:
            continue
    return {"lines": lines[-count:] if count else []}


def quarantine(agent: Agent, request: Request) -> Answer:
    """Refuse an image from now on."""
    image, reason = image_id(request), text(request, "reason")
    state = agent_state.load(agent.root)
    state["quarantined"] = {**state["quarantined"], image: reason or "no reason given"}
    agent_state.save(agent.root, state)
    agent_state.record(agent.root, state, "quarantine", request, id=image, reason=reason)
    return {}


def clear(agent: Agent, request: Request) -> Answer:
    """Take an image again; needs a reason."""
    image, reason = image_id(request), text(request, "reason")
    if not reason:
        raise AgentError("usage", "clearing a quarantine needs a reason")
    state = agent_state.load(agent.root)
    was = state["quarantined"].pop(image, "")
    agent_state.save(agent.root, state)
    agent_state.record(agent.root, state, "clear", request, id=image, reason=reason)
    return {"was": was}


def adopt(agent: Agent, request: Request) -> Answer:
    """Accept what stands in the place of ``current``, whatever it is.

    And the root of an application that is none of ``names``, where any are given: the next
    roll-out gives it its own name. A folder moves to ``adopted/<n>`` and a link to it takes its
    place, in one exchange, so there is no moment without it. A later way back leads to it again.
    """
    root = agent.root
    state = agent_state.load(root)
    if state["pending"] and agent_timer.is_armed(root):
        raise AgentError("pending", "a switch waits for its confirmation")
    found, names = agent_state.foreign(root, state), texts(request, "names")
    link, other = agent_state.read_link(root)
    if names and state["name"] not in ("", *names):
        found = f"{found}; " * bool(found) + f"the root of {state['name']!a}"
        state["name"] = ""
        if not agent_state.foreign(root, state) and not state["pending"]:
            agent_state.save(root, state)
            agent_state.record(root, state, "adopt", request, found=found, link=link)
            return {"adopted": found, "generation": state["generation"]}
    if not found and not state["pending"]:
        return {"adopted": "", "generation": state["generation"]}
    if other:
        link = _exchange(root)
    state["generation"] += 1
    state["pending"] = None
    if state["current"] != link:
        state["previous"], state["current"] = state["current"], link
    state["last"] = {
        "generation": state["generation"], "what": "adopted", "id": link, "reason": found,
    }  # fmt: skip
    agent_state.save(root, state)
    agent_timer.disarm(root)
    agent_state.record(root, state, "adopt", request, found=found, link=link)
    return {"adopted": found, "generation": state["generation"]}


def _exchange(root: str) -> str:
    """Swap whatever ``current`` is with a link that leads to where it now is."""
    import ctypes

    from images import durable

    os.makedirs(f"{root}/adopted", 0o755, exist_ok=True)
    count = 1
    while os.path.lexists(f"{root}/adopted/{count}"):
        count += 1
    link = f"adopted/{count}"
    os.symlink(link, f"{root}/{link}")
    here, there = f"{root}/current".encode(), f"{root}/{link}".encode()
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, exchange = -100, 2
    if call is None or call(at_cwd, here, at_cwd, there, exchange) != 0:
        os.unlink(there)
        raise AgentError(
            "io", f"{root}/current cannot be exchanged on this file system",
            "move it away by hand",
        )  # fmt: skip
    durable.sync_folder(f"{root}/adopted")
    durable.sync_folder(root)
    return link


def forget(agent: Agent, request: Request) -> Answer:
    """Remove everything of ours below the root; refused while a release is in use.

    What was adopted, and anything else somebody put there, stays.
    """
    from fleet.agent_verify import remove_tree

    root = agent.root
    state = agent_state.load(root)
    if state["pending"]:
        raise AgentError("pending", "a switch waits for its confirmation")
    foreign = agent_state.foreign(root, state)
    if foreign:
        raise AgentError("foreign", foreign, "wain fleet adopt accepts what is there")
    busy = sorted({pid for pids in users(root).values() for pid in pids})
    if busy and not request.get("force"):
        shown = ", ".join(str(pid) for pid in busy[:10])
        raise AgentError("locked", f"processes still run from here: pid {shown}", pids=busy)
    if agent_state.release_of(state["current"]):
        agent_state.set_link(root, None)
    for name in ("releases", "objects", "manifests", "tmp", "images", "roots", "seals", "agent"):
        remove_tree(f"{root}/{name}")
    for name in ("state.json", "history.jsonl", "store.lock", "format"):
        remove_tree(f"{root}/{name}")
    if state["trust"] and state["trust"]["required"]:
        # Else forgetting would be the way around it.
        agent_state.save(
            root, {**agent_state.load(root), "trust": state["trust"], "accepted": state["accepted"]}
        )
    return {"left": sorted(name for name in os.listdir(root) if name != "lock")}
