"""Switching ``current``, and everything that takes it back. Travels to hosts.

Write order of a switch, each step lasting before the next begins:

1. ``state.json`` gets ``pending``: to, back (the link's text now), the hooks for the way back.
2. The revert timer is armed and has said so.
3. ``current`` is replaced: symlink to a temporary name, rename, sync of the folder.
4. The lock is freed: from here the pending record and the timer guard the host.

A cut after 1 or 2 leaves the old release and a pending record, a cut after 3 the new one and
the same record. Whoever finds a pending record without a lock holder and without a timer goes
back. Going back: ``pending.phase`` = reverting, the link, the hooks of the release that is
active again, then ``pending`` = null: done again from the start when it is cut.

Confirming is one replacement of ``state.json``. A rollback to a release that was confirmed once
needs no timer; its pending record says so, and a cut one is finished in the direction the link
shows.
"""

from __future__ import annotations

import os

from fleet import agent_state, agent_timer
from fleet.agent_errors import AgentError, image_id, number, text, texts
from fleet.agent_lock import try_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleet.agent import Agent

    Request = dict[str, Any]
    Answer = dict[str, Any]
    State = dict[str, Any]


def switch(agent: Agent, request: Request) -> Answer:
    """Arm the timer and make a checked-out release the current one."""
    image, root = image_id(request), agent.root
    seconds = number(request, "revert_after")
    state = _ready(root, request)
    if state["quarantined"].get(image):
        raise AgentError("quarantined", f"image {image[:12]} is quarantined here: "
                         f"{state['quarantined'][image]}")  # fmt: skip
    link = agent_state.link_of(image)
    if state["current"] == link:
        agent.free_lock()
        return {"generation": state["generation"], "changed": False}
    if state["trust"]:
        from fleet import agent_trust

        agent_trust.check_switch(state, image)
    if image not in state["staged"] or not os.path.isdir(agent.release(image)):
        raise AgentError("missing", f"release {image[:12]} is not checked out here")
    before = dict(state)
    generation = state["generation"] + 1
    state["generation"] = generation
    state["seen"] = {**state["seen"], image: generation}
    state["pending"] = {
        "kind": "switch",
        "phase": "switching",
        "to": image,
        "back": state["current"],
        "generation": generation,
        "hooks": texts(request, "hooks"),
        "hook_timeout": number(request, "hook_timeout", 60),
        "env_file": text(request, "env_file"),
        "by": request.get("by") if isinstance(request.get("by"), dict) else {},
    }
    agent_state.save(root, state)
    try:
        agent_timer.arm(agent, generation, seconds)
    except OSError:
        agent_state.save(root, {**before, "generation": generation})
        raise
    try:
        agent_state.set_link(root, link)
    except OSError:
        go_back(root, generation, "the switch failed", request)
        raise
    agent_state.record(root, state, "switch", request, id=image, previous=before["current"])
    agent.free_lock()
    return {"generation": generation, "changed": True}


def _ready(root: str, request: Request) -> State:
    """The state, when it is settled and where the caller believes it to be."""
    state = agent_state.load(root)
    if state["pending"]:
        who = state["pending"].get("by", {}).get("who") or "somebody"
        raise AgentError("pending", f"a switch by {who} waits for its confirmation")
    foreign = agent_state.foreign(root, state)
    if foreign:
        raise AgentError("foreign", foreign, "wain fleet adopt accepts what is there")
    current = agent_state.release_of(state["current"])
    expected = request.get("expect_current")
    generation = request.get("generation")
    if current != expected or (generation is not None and generation != state["generation"]):
        raise AgentError(
            "moved",
            f"the host moved since: current is {(current or 'nothing')[:12]} at generation "
            f"{state['generation']}, expected {str(expected or 'nothing')[:12]}"
            + (f" at {generation}" if generation is not None else ""),
            "plan again",
            current=current,
            generation=state["generation"],
        )
    return state


def _pending(root: str, request: Request) -> State:
    """The state with the very switch the caller made. Raises AgentError `moved`."""
    state = agent_state.load(root)
    generation = request.get("generation")
    if not state["pending"] or state["pending"]["generation"] != generation:
        last = state["last"]
        told = f": {last['what']}, {last['reason']}" if last.get("reason") else ""
        raise AgentError(
            "moved",
            f"no switch of generation {generation} waits for confirmation{told}",
            last=last,
            generation=state["generation"],
        )
    return state


def confirm(agent: Agent, request: Request) -> Answer:
    """Keep what was switched to, and disarm the timer."""
    root = agent.root
    state = _pending(root, request)
    pending = state["pending"]
    link = agent_state.link_of(pending["to"])
    found, _ = agent_state.read_link(root)
    if found != link or pending["phase"] != "switching":
        raise AgentError("moved", f"current is {found}, {link} was to be confirmed")
    _settle_at(state, link, "confirmed", "")
    state["confirmed"] = {**state["confirmed"], pending["to"]: state["generation"]}
    if state["proven"]:
        from fleet import agent_trust

        agent_trust.accepted(state, pending["to"])
    agent_state.save(root, state)
    agent_timer.disarm(root)
    agent_state.record(root, state, "confirm", request, id=pending["to"])
    return {"generation": state["generation"]}


def _settle_at(state: State, link: str | None, what: str, reason: str) -> None:
    """The pending change is over and ``current`` is this link."""
    if link != state["current"]:
        state["previous"], state["current"] = state["current"], link
    pending = state["pending"]
    state["pending"] = None
    state["last"] = {
        "generation": state["generation"],
        "what": what,
        "id": pending["to"],
        "reason": reason,
    }


def extend(agent: Agent, request: Request) -> Answer:
    """Move the revert deadline forward, never back."""
    state = _pending(agent.root, request)
    agent_timer.set_deadline(agent.root, state["generation"], number(request, "seconds"))
    return {}


def revert(agent: Agent, request: Request) -> Answer:
    """Go back from the switch this caller made."""
    _pending(agent.root, request)
    reason = text(request, "reason") or "ordered"
    hooks = go_back(agent.root, request["generation"], reason, request)
    return {"generation": agent_state.load(agent.root)["generation"], "hooks": hooks}


def go_back(root: str, generation: int, reason: str, request: Request) -> list[Any]:
    """Take an unconfirmed switch back, with the lock held. Does nothing when it is over.

    What is not ours in the place of ``current`` stays untouched: AgentError `foreign`.
    """
    state = agent_state.load(root)
    pending = state["pending"]
    if not pending or pending["generation"] != generation:
        return []
    foreign = agent_state.foreign(root, state)
    if foreign:
        raise AgentError("foreign", foreign, "wain fleet adopt accepts what is there")
    back = pending["back"]
    # The hooks ran for the new release only if it was active; a cut way back starts again.
    active = pending["phase"] == "reverting" or agent_state.read_link(root)[0] != back
    pending["phase"], pending["reason"] = "reverting", reason
    try:  # noqa: SIM105 - contextlib costs more than all this
        agent_state.save_in_need(root, state)
    except OSError:
        # A full disk keeps nobody on a release that failed: a link needs no room. The record
        # then says what it said, and whoever finds it sees the link back where it was.
        pass
    agent_state.set_link(root, back)
    results = _hooks(root, pending, agent_state.release_of(back)) if active else []
    state["generation"] += 1
    _settle_at(state, back, "reverted", reason)
    agent_state.save_in_need(root, state)
    agent_timer.disarm(root)
    agent_state.record(
        root, state, "revert", request, id=pending["to"], reason=reason, hooks=results
    )
    return results


def _hooks(root: str, pending: dict[str, Any], image: str | None) -> list[Any]:
    if image is None or not pending["hooks"]:
        return []
    from fleet.agent_run import run_command

    results = []
    for command in pending["hooks"]:
        try:
            result = run_command(
                root, image, command, pending["hook_timeout"], pending["env_file"], -1
            )
            results.append([command, result["status"], result["timed_out"]])
        except (AgentError, OSError) as error:
            # The way back goes on: the release is active again whatever its hooks do.
            results.append([command, -1, str(error)])
    return results


def settle(agent: Agent) -> str:
    """End a pending change nobody looks after any more; what was done, or ""."""
    root = agent.root
    lock = try_lock(f"{root}/lock")
    if lock < 0:
        return ""
    try:
        state = agent_state.load(root)
        pending = state["pending"]
        if not pending:
            return ""
        if pending["kind"] == "rollback":
            return _finish_rollback(root, state)
        if agent_timer.is_armed(root):
            return ""
        agent.progress("Going back from an unconfirmed switch", 0, 0)
        try:
            request = {"by": {"who": "next contact"}}
            go_back(root, pending["generation"], "found unconfirmed", request)
        except (AgentError, OSError) as error:
            return f"cannot go back from {pending['to'][:12]}: {error}"
        return f"went back from {pending['to'][:12]}, found unconfirmed"
    finally:
        os.close(lock)


def rollback(agent: Agent, request: Request) -> Answer:
    """Switch to a release that was once confirmed; without ``to``, to the previous one."""
    root = agent.root
    state = _ready(root, request)
    wanted = request.get("to")
    image = agent_state.release_of(state["previous"]) if wanted is None else image_id(request, "to")
    if image is None:
        raise AgentError("missing", "there is no previous release here")
    if image in state["quarantined"]:
        raise AgentError("quarantined", f"image {image[:12]} is quarantined here: "
                         f"{state['quarantined'][image]}")  # fmt: skip
    if image not in state["confirmed"]:
        raise AgentError("missing", f"image {image[:12]} was never confirmed here", "roll it out")
    link = agent_state.link_of(image)
    if state["current"] == link:
        return {"generation": state["generation"], "id": image, "changed": False}
    _check_target(agent, image, bool(request.get("deep")))
    before = state["current"]
    state["generation"] += 1
    state["pending"] = {
        "kind": "rollback",
        "phase": "switching",
        "to": image,
        "back": before,
        "generation": state["generation"],
    }
    agent_state.save(root, state)
    agent_state.set_link(root, link)
    _finish_rollback(root, state)
    agent_state.record(root, state, "rollback", request, id=image, previous=before)
    return {"generation": state["generation"], "id": image, "changed": True}


def _check_target(agent: Agent, image: str, deep: bool) -> None:
    """Raise AgentError when the release to go back to is gone or damaged."""
    if not os.path.isdir(agent.release(image)):
        raise AgentError("missing", f"release {image[:12]} is not here any more", "roll it out")
    made = agent_state.load(agent.root)["made"].get(image)
    if made and not os.access(made[0], os.X_OK):
        raise AgentError(
            "damaged", f"the interpreter of release {image[:12]} is gone: {made[0]}",
            "wain fleet verify --repair, then again",
        )  # fmt: skip
    if not deep:
        from fleet.agent_seal import is_intact

        if is_intact(agent.root, image):
            return
    from fleet.agent_verify import check_release

    check_release(agent, image, deep)


def _finish_rollback(root: str, state: State) -> str:
    """A rollback's last step, also for one that was cut: the link says which way it went."""
    pending = state["pending"]
    link = agent_state.link_of(pending["to"])
    done = agent_state.read_link(root)[0] == link
    if done:
        state["seen"] = {**state["seen"], pending["to"]: state["generation"]}
    _settle_at(state, link if done else pending["back"], "rolled back" if done else "stayed", "")
    agent_state.save_in_need(root, state)
    return "finished a rollback" if done else ""
