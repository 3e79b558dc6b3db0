"""Whether an image carries the signatures that fleet.toml's ``[trust]`` asks for.

Asked on the controller before any host is contacted; the verdict is ssh-keygen's (see
`images.sigcheck`). A trust file made by ``wain image trust`` is checked version by version, a
plain allowed_signers file counts as it stands.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fleet.inventory import Trust as TrustSettings
from fleet.session import Proof
from fleet.wanted import Wanted
from images.allowed import allowed_signers
from images.sigcheck import read_private, verify_chain, verify_image
from images.signature import read_signature
from images.store import Store
from images.trust import SignatureError, Trust, load_signed


def check_signed(settings: TrustSettings, store: Store, wanted: list[Wanted]) -> list[str]:
    """Raise SignatureError for an image that is not signed as it must be.

    Returns a line for each image that was checked. Without ``signers`` nothing is checked;
    without ``required`` an image without any signature passes, one with a bad one does not.
    """
    if settings.signers is None:
        return []
    lines = []
    for one in wanted:
        trust = _trust(settings.signers, one.document.name)
        data = read_signature(store, one.id, trust.fleet)
        if not data:
            if settings.required:
                raise SignatureError(
                    "unsigned", one.label, f"image {one.id[:12]} is not signed for fleet "
                    f"{trust.fleet}", f"wain image sign {one.label} --key …",
                )  # fmt: skip
            lines.append(f"image {one.id[:12]} is not signed")
            continue
        statement = verify_image(data, trust, one.id, one.document.name)
        lines.append(f"image {one.id[:12]} is signed, until {statement.expires}")
    return lines


def with_proofs(settings: TrustSettings, store: Store, wanted: list[Wanted]) -> list[Wanted]:
    """The images with what hosts need to check them by themselves, where ``[trust]`` is set."""
    if settings.signers is None:
        return wanted
    signers = read_private(str(settings.signers)).decode("utf-8", "replace")
    proven = []
    for one in wanted:
        name = one.document.name
        fleet = _trust(settings.signers, name).fleet
        signature = read_signature(store, one.id, fleet).decode()
        proof = Proof(name, fleet, signers, signature, settings.required)
        proven.append(replace(one, proof=proof))
    return proven


def _trust(path: Path, fleet: str) -> Trust:
    data = read_private(str(path))
    if data[:1] == b"{":
        return verify_chain(load_signed(data))
    return allowed_signers(data, fleet)
