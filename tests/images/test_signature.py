"""Signatures: rows G1 to G8, each by a real key and a real ssh-keygen."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.allowed import allowed_signers
from images.keygen import Keygen
from images.sigcheck import (
    MAX_JUMP,
    check_statement,
    read_armour,
    read_private,
    verify_chain,
    verify_image,
)
from images.signature import (
    add_signature,
    last_counter,
    next_trust,
    public_key,
    read_signature,
    sign_bytes,
    sign_image,
    sign_trust,
)
from images.store import Store
from images.trust import (
    IMAGE_NAMESPACE,
    TRUST_NAMESPACE,
    SignatureError,
    Signed,
    Signer,
    Statement,
    Trust,
    dump_signed,
    load_signed,
    parse_statement,
    parse_trust,
)

IMAGE, OTHER = "a" * 64, "b" * 64
NOW = 1_795_000_000.0  # 2026-11-18
Keys = Callable[[str], str]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")

    def key(name: str) -> str:
        path = folder / name
        if not path.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
            subprocess.run(command, check=True)
        return str(path)

    return key


@pytest.fixture
def trust(keys: Keys) -> Trust:
    signers = [Signer(name, public_key(keys(name))) for name in ("ann", "bob")]
    return Trust("shop-fleet", 1, 0, 1, ["shop"], signers)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def signed(
    store: Store, keys: Keys, *, key: str = "ann", who: str = "ann", image: str = IMAGE,
    name: str = "shop", fleet: str = "shop-fleet", counter: int | None = None, days: float = 30,
) -> bytes:  # fmt: skip
    sign_image(
        store, image, name, fleet, keys(key), who, days=days, counter=counter, again=True, now=NOW
    )
    return read_signature(store, image, fleet)


def refused(rule: str, data: bytes, trust: Trust, **more: object) -> SignatureError:
    """The refusal, after checking its rule and that its message names the attack."""
    options: dict[str, object] = {"name": "shop", "now": NOW, **more}
    with pytest.raises(SignatureError) as caught:
        verify_image(data, trust, str(options.pop("image", IMAGE)), **options)  # type: ignore[arg-type]
    assert caught.value.rule == rule, caught.value
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_good_signature(store: Store, keys: Keys, trust: Trust) -> None:
    statement = verify_image(signed(store, keys), trust, IMAGE, "shop", now=NOW)
    assert (statement.counter, statement.fleet) == (1, "shop-fleet")
    assert last_counter(store, "shop", "shop-fleet", 0) == 1


# G1


@pytest.mark.row("G1")
def test_unsigned(trust: Trust) -> None:
    assert "unsigned" in refused("unsigned", b"", trust).what
    payload = Statement(IMAGE, "shop", "shop-fleet", 0, 1, "2026-01-01T00:00:00Z",
                        "2027-01-01T00:00:00Z").to_bytes()  # fmt: skip
    assert "unsigned" in refused("unsigned", dump_signed([Signed(payload, ())]), trust).what


@pytest.mark.row("G1")
def test_tampered(store: Store, keys: Keys, trust: Trust) -> None:
    data = signed(store, keys)
    altered = data.replace(b"counter 1", b"counter 7")
    assert altered != data
    assert "tampered" in refused("tampered", altered, trust).what


@pytest.mark.row("G1")
def test_wrong_key(store: Store, keys: Keys, trust: Trust) -> None:
    data = signed(store, keys, key="mallory")
    assert "wrong key" in refused("wrong-key", data, trust).what


@pytest.mark.row("G1")
def test_wrong_principal(store: Store, keys: Keys, trust: Trust) -> None:
    data = signed(store, keys, who="bob")
    assert "wrong principal" in refused("wrong-principal", data, trust).what


@pytest.mark.row("G1")
def test_revoked(store: Store, keys: Keys, trust: Trust) -> None:
    data = signed(store, keys)
    after = next_trust(
        trust, add=[], remove=[], revoke=[public_key(keys("ann"))], threshold=None, new_epoch=False
    )
    assert "revoked" in refused("revoked", data, after).what
    # ssh-keygen itself refuses it as well, were the signer still listed.
    both = Trust(trust.fleet, 1, 0, 1, trust.names, trust.signers, after.revoked)
    assert "revoked" in refused("revoked", data, both).what


@pytest.mark.row("G1", "Z2")
def test_expired(store: Store, keys: Keys, trust: Trust) -> None:
    data = signed(store, keys, days=1)
    error = refused("expired", data, trust, now=NOW + 86401)
    assert "freeze" in error.what
    assert "2026-11-19" in error.what


@pytest.mark.row("G1")
def test_a_key_outside_its_time(store: Store, keys: Keys, trust: Trust) -> None:
    limited = [Signer("ann", trust.signers[0].key, "20260101Z", "20261101Z")]
    data = signed(store, keys)
    late = Trust(trust.fleet, 1, 0, 1, trust.names, limited)
    assert "expired" in refused("expired", data, late).what
    inside = Trust(
        trust.fleet, 1, 0, 1, trust.names, [Signer("ann", trust.signers[0].key, "", "20270101Z")]
    )
    verify_image(data, inside, IMAGE, now=NOW)


@pytest.mark.row("G1")
def test_wrong_namespace(keys: Keys, store: Store, trust: Trust) -> None:
    payload = load_signed(signed(store, keys))[0].payload
    armour = sign_bytes(payload, "git", keys("ann"))
    data = dump_signed([Signed(payload, [("ann", armour)])])
    assert "wrong namespace" in refused("wrong-namespace", data, trust).what


@pytest.mark.parametrize(
    "alter",
    [
        lambda text: text + "extra\n",
        lambda text: "before\n" + text,
        lambda text: text.replace("U1NIU0lH", "AAAAAAAA"),
        lambda text: text[:80],
        lambda text: "",
        lambda text: text * 2,
    ],
)
def test_what_stands_around_the_armour_is_refused(keys: Keys, alter: Callable[[str], str]) -> None:
    armour = sign_bytes(b"x", IMAGE_NAMESPACE, keys("ann"))
    assert read_armour(armour)[1] == IMAGE_NAMESPACE
    with pytest.raises(SignatureError):
        read_armour(alter(armour))


# G2 to G5


@pytest.mark.row("G2")
def test_another_fleet_image_or_name(store: Store, keys: Keys, trust: Trust) -> None:
    """Arbitrary and wrong software, mix-and-match: what is meant is inside the signed bytes."""
    error = refused("wrong-software", signed(store, keys, fleet="other"), trust)
    assert "wrong software" in error.what
    error = refused("wrong-software", signed(store, keys, name="billing"), trust)
    assert "wrong software" in error.what
    error = refused("wrong-software", signed(store, keys, image=OTHER), trust)
    assert "mix-and-match" in error.what


@pytest.mark.row("G3")
def test_rollback_and_fast_forward(store: Store, keys: Keys, trust: Trust) -> None:
    data = signed(store, keys, counter=5)
    verify_image(data, trust, IMAGE, last=(0, 4, OTHER), now=NOW)
    verify_image(data, trust, IMAGE, last=(0, 5, IMAGE), now=NOW)
    assert "rollback" in refused("rollback", data, trust, last=(0, 6, OTHER)).what
    assert "rollback" in refused("rollback", data, trust, last=(0, 5, OTHER)).what
    verify_image(data, trust, IMAGE, last=(0, 6, OTHER), ordered_rollback=True, now=NOW)
    far = signed(store, keys, counter=6 + MAX_JUMP)
    assert "fast-forward" in refused("fast-forward", far, trust, last=(0, 5, IMAGE)).what


@pytest.mark.row("G3")
def test_a_new_epoch_starts_the_counters_again(store: Store, keys: Keys, trust: Trust) -> None:
    old = signed(store, keys, counter=9000)
    after = next_trust(trust, add=[], remove=[], revoke=[], threshold=None, new_epoch=True)
    assert "rollback" in refused("rollback", old, after).what
    statement, _ = sign_image(
        store, OTHER, "shop", "shop-fleet", keys("ann"), "ann", epoch=after.epoch, now=NOW
    )
    assert statement.counter == 1
    check_statement(statement, after, OTHER, "shop", last=(0, 9000, IMAGE), now=NOW)


def test_counters_only_grow(store: Store, keys: Keys) -> None:
    signed(store, keys, counter=7)
    statement, _ = sign_image(store, OTHER, "shop", "shop-fleet", keys("ann"), "ann", now=NOW)
    assert statement.counter == 8
    from images.errors import UsageError

    with pytest.raises(UsageError, match="last one is 8"):
        signed(store, keys, image="c" * 64, counter=8)


@pytest.mark.row("G5")
def test_the_bytes_that_are_verified_are_the_bytes_that_are_parsed(
    store: Store, keys: Keys, trust: Trust
) -> None:
    """Two texts of one meaning would let one be signed and the other be read."""
    payload = load_signed(signed(store, keys))[0].payload
    for altered in (
        payload.replace(b"counter 1", b"counter 01"),
        payload + b"counter 9\n",
        payload.replace(b"\n", b"\r\n"),
        payload[:-1],
        payload.replace(b"name shop\n", b"name shop\nname shop\n"),
    ):
        armour = sign_bytes(altered, IMAGE_NAMESPACE, keys("ann"))
        refused("tampered", dump_signed([Signed(altered, [("ann", armour)])]), trust)


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b"{}", b"\xff", b'{"format": 2, "documents": []}', b"[" * 100_000,
     b'{"format": 1, "documents": [{"payload": 1, "signatures": []}]}', b"x" * (2 << 20)],
)  # fmt: skip
def test_what_is_no_signed_document(data: bytes, trust: Trust) -> None:
    refused("tampered", data, trust)


# G6


@pytest.mark.row("G6")
def test_threshold(store: Store, keys: Keys, trust: Trust) -> None:
    two = next_trust(trust, add=[], remove=[], revoke=[], threshold=2, new_epoch=False)
    alone = signed(store, keys)
    assert "threshold" in refused("threshold", alone, two).what
    _, count = sign_image(store, IMAGE, "shop", "shop-fleet", keys("bob"), "bob", now=NOW)
    assert count == 2
    verify_image(read_signature(store, IMAGE, "shop-fleet"), two, IMAGE, now=NOW)
    # The same key twice, under two names, is one.
    payload = load_signed(alone)[0].payload
    armour = sign_bytes(payload, IMAGE_NAMESPACE, keys("ann"))
    twice = dump_signed([Signed(payload, [("ann", armour), ("bob", armour)])])
    assert "threshold" in refused("threshold", twice, two).what


def chain_of(keys: Keys, *steps: tuple[Trust, tuple[str, ...]]) -> list[Signed]:
    chain: list[Signed] = []
    for trust, signers in steps:
        chain.append(Signed(trust.to_bytes(), ()))
        for name in signers:
            chain = sign_trust(chain, keys(name), name)
    return chain


@pytest.mark.row("G6")
def test_the_old_signers_name_the_new(keys: Keys, trust: Trust) -> None:
    carol = Signer("carol", public_key(keys("carol")))
    after = next_trust(trust, add=[carol], remove=["ann", "bob"], revoke=[], threshold=None,
                       new_epoch=False)  # fmt: skip
    first = (trust, ("ann",))
    good = chain_of(keys, first, (after, ("ann", "carol")))
    assert verify_chain(good).version == 2
    assert verify_chain(good, trust).signers[0].principal == "carol"
    assert verify_chain(good, after).version == 2
    for who in (("carol",), ("ann",), ("mallory",), ()):
        with pytest.raises(SignatureError):
            verify_chain(chain_of(keys, first, (after, who)), trust)
    # A rotated-out key signs nothing more.
    last = next_trust(after, add=[], remove=[], revoke=[], threshold=None, new_epoch=True)
    with pytest.raises(SignatureError, match="does not trust"):
        verify_chain(chain_of(keys, first, (after, ("ann", "carol")), (last, ("ann",))))


@pytest.mark.row("G6")
def test_a_trust_goes_neither_back_nor_aside(keys: Keys, trust: Trust) -> None:
    after = next_trust(trust, add=[], remove=["bob"], revoke=[], threshold=None, new_epoch=False)
    old = chain_of(keys, (trust, ("ann",)))
    with pytest.raises(SignatureError, match="rollback"):
        verify_chain(old, after)
    other = Trust(trust.fleet, 1, 0, 1, [], trust.signers)
    with pytest.raises(SignatureError, match="replaced"):
        verify_chain(chain_of(keys, (other, ("ann",))), trust)
    skipped = Trust(trust.fleet, 3, 0, 1, trust.names, trust.signers)
    with pytest.raises(SignatureError, match="does not follow"):
        verify_chain(chain_of(keys, (trust, ("ann",)), (skipped, ("ann",))))


# G7


def fake(folder: Path, body: str) -> str:
    path = folder / "ssh-keygen"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.row("G7")
@pytest.mark.parametrize(
    ("body", "says"),
    [("exit 0", "known to be bad"), ("exit 1", "cannot verify"), ("kill -9 $$", "signal 9"),
     ("echo Good; exit 255", "cannot verify")],
)  # fmt: skip
def test_a_broken_or_agreeing_program_decides_nothing(
    store: Store, keys: Keys, trust: Trust, tmp_path: Path, body: str, says: str
) -> None:
    data = signed(store, keys)
    error = refused("tool", data, trust, program=fake(tmp_path, body))
    assert says in str(error)


@pytest.mark.row("G7")
def test_an_absent_program(
    store: Store, keys: Keys, trust: Trust, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = signed(store, keys)
    # What PATH finds first is not asked.
    fake(tmp_path, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    verify_image(data, trust, IMAGE, now=NOW)
    monkeypatch.setattr("images.keygen.PLACES", ("/no/such",))
    assert "ssh-keygen is in none of /no/such" in refused("tool", data, trust).what


def test_nothing_is_left_in_the_temporary_folder(
    store: Store, keys: Keys, trust: Trust, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = signed(store, keys)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    verify_image(data, trust, IMAGE, now=NOW)
    refused("tool", data, trust, program=fake(tmp_path, "exit 0"))
    assert list(scratch.iterdir()) == []


# G8


@pytest.mark.row("G8")
def test_a_file_others_may_write_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    path = folder / "trust.json"
    path.write_bytes(b"x")
    path.chmod(0o644)
    assert read_private(str(path)) == b"x"
    path.chmod(0o666)
    with pytest.raises(SignatureError, match="others may write"):
        read_private(str(path))
    path.chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(SignatureError, match="others may write"):
        read_private(str(path))
    folder.chmod(0o755)
    (folder / "link").symlink_to(path)
    with pytest.raises(SignatureError, match="cannot be read"):
        read_private(str(folder / "link"))
    with pytest.raises(SignatureError, match="cannot be read"):
        read_private(str(folder / "absent"))
    with pytest.raises(SignatureError, match="regular"):
        read_private(str(folder))


@pytest.mark.row("G8")
@pytest.mark.root
def test_a_file_of_another_user_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    path.write_bytes(b"x")
    os.chown(path, 12345, -1)
    with pytest.raises(SignatureError, match="uid 12345"):
        read_private(str(path))


# Plain allowed_signers


def test_allowed_signers(store: Store, keys: Keys) -> None:
    key = public_key(keys("ann"))
    text = f"# ours\n\nann {key} comment\n"
    plain = allowed_signers(text.encode(), "shop-fleet")
    verify_image(signed(store, keys), plain, IMAGE, now=NOW)
    line = f'ann namespaces="{IMAGE_NAMESPACE}",valid-before="20300101Z" {key}\n'
    assert allowed_signers(line.encode(), "f").signers[0].valid_before == "20300101Z"


@pytest.mark.parametrize(
    "line",
    ["* KEY", "ann@* KEY", "ann cert-authority KEY", "ann", "ann garbage", "ann ssh-ed25519 AAAA",
     'ann namespaces="git" KEY', 'ann valid-before="tomorrow" KEY', "ann,bob KEY", "", "# only"],
)  # fmt: skip
def test_what_ssh_keygen_would_let_pass_is_an_error(line: str, keys: Keys) -> None:
    text = line.replace("KEY", public_key(keys("ann")))
    with pytest.raises(SignatureError) as caught:
        allowed_signers(text.encode(), "f")
    assert caught.value.rule == "trust"


# Canonical texts

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(NAMES, NAMES, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1))
def test_statements_round_trip(name: str, fleet: str, epoch: int, counter: int) -> None:
    times = ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")
    data = Statement(IMAGE, name, fleet, epoch, counter, *times).to_bytes()
    assert parse_statement(data).to_bytes() == data


@given(st.binary(max_size=400))
def test_garbage_is_refused(data: bytes) -> None:
    for parse in (parse_statement, parse_trust):
        with pytest.raises(SignatureError):
            parse(b"wain-statement 1\n" + data)
        with pytest.raises(SignatureError):
            parse(b"wain-trust 1\n" + data)


def test_trusts_that_cannot_be_met(keys: Keys, trust: Trust) -> None:
    assert parse_trust(trust.to_bytes()).to_bytes() == trust.to_bytes()
    for threshold in (0, 3):
        altered = trust.to_bytes().replace(b"threshold 1", b"threshold %d" % threshold)
        with pytest.raises(SignatureError, match="threshold"):
            parse_trust(altered)
    twice = Trust("f", 1, 0, 1, [], [trust.signers[0], trust.signers[0]])
    with pytest.raises(SignatureError, match="twice"):
        parse_trust(twice.to_bytes())


def test_a_signature_is_for_one_namespace_only(keys: Keys, trust: Trust) -> None:
    made = add_signature(Signed(b"x", ()), TRUST_NAMESPACE, keys("ann"), "ann")
    with Keygen() as keygen:
        armour = made.signatures[0][1]
        assert keygen.verify(trust.signers[0], TRUST_NAMESPACE, armour, b"x") is None
        assert keygen.verify(trust.signers[0], IMAGE_NAMESPACE, armour, b"x")
        assert keygen.verify(trust.signers[1], TRUST_NAMESPACE, armour, b"x")
