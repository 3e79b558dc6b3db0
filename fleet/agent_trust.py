"""Whose signatures this host asks for, and whether an image has them. Travels to hosts.

The host keeps the trust it has accepted (``trust`` in state.json) and goes on from exactly that:
a newer version must be proven by it, an older or another one is refused. Once a controller has
said that signatures are ``required``, none can take that back: not by saying otherwise, not by
another list of signers, not by ``forget``. ``… untrust ROOT``, on the host (`agent_boot`), does.
The host keeps, for each name, the newest number it has confirmed (``accepted``), so an older image
with a good signature needs an ordered rollback. The bytes that were checked are the ones the
manifest was parsed from.
"""

from __future__ import annotations

import os

from fleet.agent_errors import AgentError, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from images.trust import Trust

    State = dict[str, Any]


def check(state: State, image: str, proof: Any) -> bool:
    """Check what a controller sends with an image; True when the state has to be saved.

    Raises AgentError or SignatureError.
    """
    if not isinstance(proof, dict):
        proof = {}
    before = dict(state)
    _accept(state, proof)
    if not state["trust"]:
        return False
    signature = text(proof, "signature").encode()
    if signature:
        _prove(state, image, text(proof, "name"), signature)
    elif state["trust"]["required"] and image not in state["proven"]:
        raise _unsigned(image)
    return state != before


def check_switch(state: State, image: str) -> None:
    """Raise AgentError unless the image was proven here, where that is required."""
    trust = state["trust"]
    if not trust or not trust["required"]:
        return
    if image not in state["proven"]:
        raise _unsigned(image)
    name, epoch, counter = state["proven"][image]
    last = state["accepted"].get(name)
    if last and last[0] == epoch and counter < last[1]:
        raise AgentError(
            "signature",
            f"image {image[:12]} is number {counter} of {name}, {last[1]} was accepted (rollback)",
            "order a rollback, or sign it again",
        )


def accepted(state: State, image: str) -> None:
    """A confirmed image is the newest of its name, if it is."""
    if image in state["proven"]:
        name, epoch, counter = state["proven"][image]
        last = state["accepted"].get(name, [-1, -1, ""])
        if [epoch, counter] > last[:2]:
            state["accepted"] = {**state["accepted"], name: [epoch, counter, image]}


def _unsigned(image: str) -> AgentError:
    return AgentError(
        "signature", f"image {image[:12]} is unsigned, this host requires a signature",
        "wain image sign",
    )  # fmt: skip


def _accept(state: State, proof: dict[str, Any]) -> None:
    """Take the trust that is offered, when it follows the one that is held."""
    offered = text(proof, "signers")
    if not offered:
        return
    from images.trust import SignatureError, parse_trust

    held: Trust | None = None
    if state["trust"]:
        held = parse_trust(state["trust"]["text"].encode())
    required = bool(state["trust"] and state["trust"]["required"])
    if offered.startswith("{"):
        from images.keygen import Keygen
        from images.sigcheck import check_signatures, verify_chain
        from images.trust import TRUST_NAMESPACE, load_signed

        chain = load_signed(offered.encode())
        # A plain list of signers was never proven by anything: a chain may follow it.
        proven = held if held and held.version else None
        trust = verify_chain(chain, proven)
        if required and held and not held.version:
            # One of that list has to have signed where it leads.
            with Keygen() as keygen:
                check_signatures(keygen, chain[0], held, TRUST_NAMESPACE)
    else:
        from images.allowed import allowed_signers

        if held and held.version:
            raise SignatureError(
                "trust", "trust", f"this host holds version {held.version} of a trust document, "
                "a plain list of signers does not follow it (rollback)",
            )  # fmt: skip
        trust = allowed_signers(offered.encode(), text(proof, "fleet"))
        if required and held and trust.to_bytes() != held.to_bytes():
            raise SignatureError(
                "trust", "trust", "this host requires signatures by another list of signers, "
                "which nothing proves the new one to follow",
                "make it a trust document one of them signs (wain image trust), or untrust the "
                "root on the host",
            )  # fmt: skip
    accepted_text = trust.to_bytes().decode()
    if state["trust"] and state["trust"]["text"] != accepted_text:
        # Proven by keys that may be revoked now, or in an epoch that is over. Only a switch
        # under way keeps its number, which counts when it is confirmed.
        under_way = (state["pending"] or {}).get("to")
        state["proven"] = {k: v for k, v in state["proven"].items() if k == under_way}
    state["trust"] = {"required": required or bool(proof.get("required")), "text": accepted_text}


def distrust(root: str) -> str:
    """Ask for no signatures any more; only for somebody on the host. What was done."""
    from fleet import agent_state

    state = agent_state.load(root)
    if not state["trust"]:
        return "no signatures were asked for"
    state["trust"], state["proven"], state["accepted"] = {}, {}, {}
    agent_state.save(root, state)
    agent_state.record(root, state, "untrust", {"by": {"who": f"uid {os.getuid()}, on the host"}})
    return "no signatures are asked for any more"


def _prove(state: State, image: str, name: str, signature: bytes) -> None:
    from images.sigcheck import check_statement, verify_image
    from images.trust import parse_trust

    trust = parse_trust(state["trust"]["text"].encode())
    statement = verify_image(signature, trust, image, name)
    last = state["accepted"].get(statement.name)
    check_statement(statement, trust, image, name, tuple(last) if last else None)
    entry = [statement.name, statement.epoch, statement.counter]
    state["proven"] = {**state["proven"], image: entry}
