"""Signatures, checked by the host itself with real keys."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.session import HostError, Proof, Session
from images.manifest import Manifest
from images.signature import next_trust, public_key, read_signature, sign_image, sign_trust
from images.store import Store
from images.trust import Signed, Signer, Trust, dump_signed
from tests.support.hosts import Host
from tests.support.sshd import make_key

DAY = 86400.0
Sign = Callable[..., str]


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    for name in ("ann", "ben", "eve"):
        make_key(tmp_path / name)
    return {name: tmp_path / name for name in ("ann", "ben", "eve")}


@pytest.fixture
def trust(keys: dict[str, Path]) -> Trust:
    signers = [Signer(name, public_key(str(keys[name]))) for name in ("ann", "ben")]
    return Trust("shop-fleet", 1, 0, 1, ["shop"], signers)


@pytest.fixture
def sign(store: Store, keys: dict[str, Path]) -> Sign:
    def signature(image: Manifest, who: str = "ann", **more: object) -> str:
        options: dict[str, object] = {"name": "shop", "fleet": "shop-fleet", **more}
        name, fleet = str(options.pop("name")), str(options.pop("fleet"))
        principal = str(options.pop("principal", who))
        sign_image(
            store, image.image_id, name, fleet, str(keys[who]), principal, again=True,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
        return read_signature(store, image.image_id, fleet).decode()

    return signature


def chain(keys: dict[str, Path], *versions: Trust) -> str:
    """Trust documents, each signed by ann and ben as far as they may."""
    documents: list[Signed] = []
    for version in versions:
        documents.append(Signed(version.to_bytes(), []))
        for who in ("ann", "ben"):
            documents = sign_trust(documents, str(keys[who]), who)
    return dump_signed(documents).decode()


def proof(signers: str, signature: str, required: bool = True, name: str = "shop") -> Proof:
    return Proof(name, "shop-fleet", signers, signature, required)


def refused(session: Session, image: Manifest, what: Proof | None, word: str) -> None:
    with pytest.raises(HostError, match=word) as caught:
        session.begin(image, proof=what)
    assert caught.value.kind == "signature", caught.value
    assert "\n" not in str(caught.value)


def deploy(host: Host, image: Manifest, what: Proof | None) -> None:
    with host.open() as session:
        missing = session.begin(image, proof=what)
        if missing:
            session.send_pack(host.packs.get(image, missing).pieces())
        session.checkout(image.image_id)
        generation = host.switch(session, image)
    with host.open() as session:
        session.confirm(generation)


@pytest.mark.row("G1", "Z2")
def test_every_bad_signature_is_refused_by_the_host(
    host: Host, old: Manifest, new: Manifest, keys: dict[str, Path], trust: Trust, sign: Sign
) -> None:
    signers = chain(keys, trust)
    deploy(host, old, proof(signers, sign(old)))
    good = sign(new)
    now = time.time()
    with host.open() as session:
        refused(session, new, proof(signers, ""), "unsigned")
        refused(session, new, None, "unsigned")
        refused(
            session, new, proof(signers, good.replace("counter 2", "counter 3")), "tampered|bad"
        )
        refused(session, new, proof(signers, sign(new, "eve", principal="ann")), "key")
        refused(session, new, proof(signers, sign(new, "eve")), "wrong key")
        refused(session, new, proof(signers, sign(new, "ann", principal="ben")), "ben|key")
        refused(session, new, proof(signers, sign(new, now=now - 99 * DAY, days=1)), "expired")
        refused(session, new, proof(signers, sign(old)), "mix-and-match")
        refused(session, new, proof(signers, sign(new, name="other")), "wrong software")
        refused(session, new, proof("{}", good), "signature")
    assert host.current == old.image_id
    assert not Path(host.root, "manifests", new.image_id).exists()
    deploy(host, new, proof(signers, sign(new)))
    assert host.current == new.image_id


@pytest.mark.row("G2")
def test_a_signature_for_another_fleet(
    host: Host, old: Manifest, keys: dict[str, Path], trust: Trust, sign: Sign
) -> None:
    with host.open() as session:
        what = proof(chain(keys, trust), sign(old, fleet="other-fleet"))
        refused(session, old, what, "other-fleet")


@pytest.mark.row("G3")
def test_an_older_signed_image_needs_an_ordered_rollback(
    host: Host, old: Manifest, new: Manifest, keys: dict[str, Path], trust: Trust, sign: Sign
) -> None:
    signers = chain(keys, trust)
    first, second = sign(old), sign(new)
    deploy(host, old, proof(signers, first))
    with host.open() as session:  # staged ahead, before the newer one came
        session.begin(old, proof=proof(signers, first))
    deploy(host, new, proof(signers, second))
    with host.open() as session:
        refused(session, old, proof(signers, first), "rollback")
        with pytest.raises(HostError, match="rollback") as caught:
            host.switch(session, old)
        assert caught.value.kind == "signature"
        assert session.rollback(None, new.image_id)[0] == old.image_id
        assert session.rollback(None, old.image_id)[0] == new.image_id
    deploy(host, old, proof(signers, sign(old, counter=9)))


@pytest.mark.row("G6")
def test_a_trust_goes_on_from_the_one_that_is_held(
    host: Host, old: Manifest, new: Manifest, keys: dict[str, Path], trust: Trust, sign: Sign
) -> None:
    deploy(host, old, proof(chain(keys, trust), sign(old)))
    rotated = next_trust(
        trust, add=[], remove=["ann"], revoke=[public_key(str(keys["ann"]))], threshold=None,
        new_epoch=False,
    )  # fmt: skip
    both = chain(keys, trust, rotated)
    forged = Trust("shop-fleet", 1, 0, 1, ["shop"], [Signer("eve", public_key(str(keys["eve"])))])
    with host.open() as session:
        other = dump_signed(
            sign_trust([Signed(forged.to_bytes(), [])], str(keys["eve"]), "eve")
        ).decode()
        refused(session, new, proof(other, sign(new, "eve")), "replaced")
        plain = f"eve {public_key(str(keys['eve']))}\n"
        refused(session, new, proof(plain, sign(new, "eve")), "does not follow")
        refused(session, new, proof(both, sign(new, "ann")), "ann|revoked")
        session.begin(new, proof=proof(both, sign(new, "ben")))
        # The host holds the newer version now, also for a controller that shows the older.
        refused(session, new, proof(chain(keys, trust), sign(new, "ben")), "rollback")


def test_a_plain_list_of_signers(
    host: Host, old: Manifest, new: Manifest, keys: dict[str, Path], sign: Sign
) -> None:
    plain = f"# who may\nann {public_key(str(keys['ann']))}\n"
    with host.open() as session:
        refused(session, old, proof(plain, sign(old, "ben")), "wrong key")
    deploy(host, old, proof(plain, sign(old), required=False))
    with host.open() as session:
        # Not required: an unsigned one passes, a bad signature does not.
        session.begin(new, proof=proof(plain, "", required=False))
        refused(session, new, proof(plain, sign(new, "eve"), required=False), "wrong key")
        # And the list may be another one.
        other = f"eve {public_key(str(keys['eve']))}\n"
        session.begin(new, proof=proof(other, sign(new, "eve"), required=False))


@pytest.mark.row("G1", "G6")
def test_no_controller_can_take_back_that_signatures_are_required(
    host: Host, old: Manifest, new: Manifest, keys: dict[str, Path], trust: Trust, sign: Sign
) -> None:
    plain = f"ann {public_key(str(keys['ann']))}\n"
    deploy(host, old, proof(plain, sign(old)))
    forged = Trust("shop-fleet", 1, 0, 1, ["shop"], [Signer("eve", public_key(str(keys["eve"])))])
    chained = dump_signed(
        sign_trust([Signed(forged.to_bytes(), [])], str(keys["eve"]), "eve")
    ).decode()
    evil = sign(new, "eve")
    with host.open() as session:
        refused(session, new, proof(plain, "", required=False), "requires a signature")
        refused(session, new, proof("", "", required=False), "requires a signature")
        refused(session, new, None, "requires a signature")
        eve = f"eve {public_key(str(keys['eve']))}\n"
        for signers in (eve, plain + eve):
            for required in (True, False):
                refused(session, new, proof(signers, evil, required), "nothing proves the new one")
        refused(session, new, proof(chained, evil, False), "wrong key")
        # Removing everything from the host is no way around it either.
        assert session.forget(force=True) == ["state.json"]
    with host.open() as session:
        assert session.facts.state.current is None
        refused(session, new, proof(plain, "", required=False), "requires a signature")
        # A document that one of the list has signed follows it.
        session.begin(new, proof=proof(chain(keys, trust), sign(new, counter=9), required=False))
        refused(session, old, proof(chain(keys, trust), "", required=False), "requires")


@pytest.mark.row("G6")
def test_somebody_on_the_host_can(
    host: Host, old: Manifest, new: Manifest, keys: dict[str, Path], trust: Trust, sign: Sign
) -> None:
    deploy(host, old, proof(chain(keys, trust), sign(old)))
    with host.open() as session:
        refused(session, new, None, "unsigned")
    agent = next(Path(host.root, "agent").glob("*.pyz"))
    for said in ("no signatures are asked for any more", "no signatures were asked for"):
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(agent), "untrust", host.root],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == f"wain: {host.root}: {said}\n"
    with host.open() as session:
        session.begin(new)
        assert session.history()[-1]["what"] == "untrust"


def test_without_trust_nothing_is_asked(host: Host, old: Manifest) -> None:
    deploy(host, old, None)
    assert host.current == old.image_id


@pytest.mark.row("G6")
def test_what_a_revoked_key_proved_counts_no_longer(
    host: Host, old: Manifest, new: Manifest, keys: dict[str, Path], trust: Trust, sign: Sign
) -> None:
    signers = chain(keys, trust)
    deploy(host, old, proof(signers, sign(old)))
    with host.open() as session:
        missing = session.begin(new, proof=proof(signers, sign(new)))
        session.send_pack(host.packs.get(new, missing).pieces())
        session.checkout(new.image_id)
    rotated = next_trust(
        trust, add=[], remove=["ann"], revoke=[public_key(str(keys["ann"]))], threshold=None,
        new_epoch=False,
    )  # fmt: skip
    both = chain(keys, trust, rotated)
    with host.open() as session:
        session.begin(old, proof=proof(both, sign(old, "ben", counter=9)))
        refused(session, new, None, "unsigned")
        with pytest.raises(HostError, match="unsigned"):
            host.switch(session, new)
    assert host.current == old.image_id
