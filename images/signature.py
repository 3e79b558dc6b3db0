"""Make OpenSSH signatures over images and trust documents, and keep them beside the store.

Signed statements are in ``<store>/signatures/<image id>.<fleet>.json``. Checking them is in
sigcheck.py, which travels; here is what only the controller does.
"""

from __future__ import annotations

import os
import subprocess
import time

from images import durable
from images.errors import UsageError, WainError
from images.sigcheck import read_armour
from images.store import Store
from images.trust import (
    IMAGE_NAMESPACE,
    TRUST_NAMESPACE,
    Signed,
    Signer,
    Statement,
    Trust,
    dump_signed,
    load_signed,
    parse_statement,
)

_SECONDS = 120.0  # somebody may have to touch a hardware key


def sign_bytes(payload: bytes, namespace: str, key: str) -> str:
    """The armoured signature of *key* (a private key file, or a public one of the SSH agent).

    A passphrase is asked for by ssh-keygen itself. Raises WainError with its reason.
    """
    argv = ["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", namespace]
    try:
        done = subprocess.run(
            argv, input=payload, capture_output=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        hint = "install OpenSSH's client, 8.1 or newer"
        raise WainError("ssh-keygen", "is not there", hint) from None
    except subprocess.TimeoutExpired:
        raise WainError(key, f"no signature within {_SECONDS:.0f} s") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise WainError(key, f"cannot sign: {ascii(lines[-1][:200])[1:-1]}")
    return read_armour(done.stdout.decode("ascii", "replace"))[2]


def public_key(key: str) -> str:
    """The public key (``type base64``) of a key file. Raises UsageError."""
    from images.trust import SignatureError, check_key

    for path in (key, f"{key}.pub"):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                return check_key(stream.readline())
        except (OSError, SignatureError):
            continue
    try:
        done = subprocess.run(
            ["ssh-keygen", "-y", "-f", key],
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        return check_key(done.stdout.decode("ascii", "replace"))
    except (OSError, subprocess.TimeoutExpired, SignatureError):
        raise UsageError(key, "is no OpenSSH key", "ssh-keygen -t ed25519 makes one") from None


def _path(store: Store, image_id: str, fleet: str) -> str:
    return f"{store.root}/signatures/{image_id}.{fleet}.json"


def read_signature(store: Store, image_id: str, fleet: str) -> bytes:
    """The signed statement about an image for a fleet; empty when there is none."""
    try:
        with open(_path(store, image_id, fleet), "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise WainError(_path(store, image_id, fleet), error.strerror or str(error)) from None


def read_signatures(store: Store, image_id: str) -> dict[str, bytes]:
    """Every signed statement about an image, by fleet."""
    try:
        names = sorted(os.listdir(f"{store.root}/signatures"))
    except FileNotFoundError:
        return {}
    start = len(image_id) + 1
    fleets = [one[start:-5] for one in names if one.startswith(f"{image_id}.")]
    return {fleet: read_signature(store, image_id, fleet) for fleet in fleets}


def stored_statement(data: bytes, image_id: str) -> Statement:
    """The statement of a signed document about an image, checked against no trust."""
    documents = load_signed(data)
    if len(documents) != 1:
        raise WainError("signature", f"{len(documents)} statements, expected one")
    statement = parse_statement(documents[0].payload)
    if statement.image != image_id:
        raise WainError("signature", f"is for image {statement.image[:12]}, not {image_id[:12]}")
    return statement


def put_signature(store: Store, data: bytes, image_id: str) -> Statement:
    """Keep a signed statement (see ``trust.dump_signed``); it is not checked against a trust."""
    statement = stored_statement(data, image_id)
    path = _path(store, image_id, statement.fleet)
    try:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        durable.write_file(path, data, f"{path}.{os.urandom(6).hex()}")
    except OSError as error:
        raise WainError(path, error.strerror or str(error)) from None
    return statement


def last_counter(store: Store, name: str, fleet: str, epoch: int) -> int:
    """The highest counter this store has signed or seen for a name, fleet and epoch."""
    highest = 0
    try:
        names = os.listdir(f"{store.root}/signatures")
    except FileNotFoundError:
        return 0
    for one in names:
        if not one.endswith(f".{fleet}.json"):
            continue
        with open(f"{store.root}/signatures/{one}", "rb") as stream:
            statement = parse_statement(load_signed(stream.read())[0].payload)
        if (statement.name, statement.fleet, statement.epoch) == (name, fleet, epoch):
            highest = max(highest, statement.counter)
    return highest


def utc(seconds: float) -> str:
    """Seconds since 1970 as ``2026-11-21T03:00:00Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def sign_image(
    store: Store,
    image_id: str,
    name: str,
    fleet: str,
    key: str,
    principal: str,
    *,
    days: float = 90.0,
    epoch: int = 0,
    counter: int | None = None,
    again: bool = False,
    now: float | None = None,
) -> tuple[Statement, int]:
    """Sign an image for a fleet; returns the statement and how many signatures it has.

    A statement that is there and has not expired gets this signature added, so that several
    signers sign the same one; *again* or a *counter* makes a new one. Raises WainError.
    """
    moment = time.time() if now is None else now
    known = read_signature(store, image_id, fleet)
    signed: Signed | None = None
    if known and not again and counter is None:
        signed = load_signed(known)[0]
        old = parse_statement(signed.payload)
        if old.expires <= utc(moment) or old.epoch != epoch or old.name != name:
            signed = None
    if signed is None:
        last = last_counter(store, name, fleet, epoch)
        if counter is not None and counter <= last:
            raise UsageError("--counter", f"{counter} was used already, the last one is {last}")
        statement = Statement(
            image_id,
            name,
            fleet,
            epoch,
            last + 1 if counter is None else counter,
            utc(moment),
            utc(moment + days * 86400),
        )
        signed = Signed(statement.to_bytes(), ())
    statement = parse_statement(signed.payload)
    added = add_signature(signed, IMAGE_NAMESPACE, key, principal)
    put_signature(store, dump_signed([added]), image_id)
    return statement, len(added.signatures)


def add_signature(signed: Signed, namespace: str, key: str, principal: str) -> Signed:
    """The same document with one more signature; one of the same signer is replaced."""
    armour = sign_bytes(signed.payload, namespace, key)
    others = [pair for pair in signed.signatures if pair[0] != principal]
    return Signed(signed.payload, sorted([*others, (principal, armour)]))


def sign_trust(chain: list[Signed], key: str, principal: str) -> list[Signed]:
    """The chain with the newest trust document signed by one more signer."""
    return [*chain[:-1], add_signature(chain[-1], TRUST_NAMESPACE, key, principal)]


def next_trust(
    trust: Trust,
    *,
    add: list[Signer],
    remove: list[str],
    revoke: list[str],
    threshold: int | None,
    new_epoch: bool,
) -> Trust:
    """The version after *trust*: signers added, removed by name, keys revoked. Pure."""
    known = {signer.principal for signer in trust.signers}
    for name in remove:
        if name not in known:
            raise UsageError("--remove", f"no signer is named {name!a}", ", ".join(sorted(known)))
    gone = {signer.principal for signer in add} | set(remove)
    signers = [one for one in trust.signers if one.principal not in gone and one.key not in revoke]
    return Trust(
        trust.fleet,
        trust.version + 1,
        trust.epoch + (1 if new_epoch else 0),
        trust.threshold if threshold is None else threshold,
        trust.names,
        sorted([*signers, *add], key=lambda one: one.principal),
        sorted({*trust.revoked, *revoke}),
    )
