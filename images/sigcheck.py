"""Check OpenSSH signatures over statements and trust documents with ``ssh-keygen -Y``.

The verdict is always ssh-keygen's; what is read here from a signature only words the
message. Rules (rows G1-G8): the tool must first refuse a signature that is known to be
bad; the allowed_signers given to it is written here, from checked parts, into a private
folder; the bytes that are verified are the very bytes that are parsed; a file that others
may write is not read.

Travels to hosts: standard library only, and nothing heavy is imported before it is used.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import time

from images.keygen import Keygen
from images.private import open_to
from images.trust import (
    IMAGE_NAMESPACE,
    MAX_DOCUMENT,
    TRUST_NAMESPACE,
    SignatureError,
    Signed,
    Signer,
    Statement,
    Trust,
    load_signed,
    parse_statement,
    parse_trust,
)

MAX_JUMP = 10_000
"""A counter may run ahead of the last one by no more (a stolen key could use them up)."""

_BEGIN = "-----BEGIN SSH SIGNATURE-----"
_END = "-----END SSH SIGNATURE-----"


def read_armour(text: str) -> tuple[str, str, str]:
    """``(key, namespace, canonical armour)`` of an SSHSIG text; SignatureError (tampered).

    Text before or after the armour, which ssh-keygen would let pass, is refused.
    """
    lines = text.strip().split("\n")
    body = "".join(lines[1:-1])
    bad = SignatureError("tampered", "signature", "is not an OpenSSH signature")
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END or len(text) > 16_384:
        raise bad
    try:
        blob = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise bad from None
    if blob[:10] != b"SSHSIG\0\0\0\1":
        raise bad
    fields = []
    position = 10
    for _ in range(5):  # key, namespace, reserved, hash, signature
        size = int.from_bytes(blob[position : position + 4], "big")
        position += 4
        if position + size > len(blob):
            raise bad
        fields.append(blob[position : position + size])
        position += size
    if position != len(blob):
        raise bad
    kind_size = int.from_bytes(fields[0][:4], "big")
    kind = fields[0][4 : 4 + kind_size].decode("ascii", "replace")
    encoded = base64.b64encode(blob).decode()
    pieces = [encoded[start : start + 70] for start in range(0, len(encoded), 70)]
    armour = "\n".join([_BEGIN, *pieces, _END, ""])
    key = f"{kind} {base64.b64encode(fields[0]).decode()}"
    return key, fields[1].decode("utf-8", "replace"), armour


def _check_one(
    keygen: Keygen,
    trust: Trust,
    namespace: str,
    payload: bytes,
    who: str,
    armour: str,
    now: float | None,
) -> str:
    """The key that signed; SignatureError naming the rule that refused it."""
    key, signed_for, clean = read_armour(armour)
    signer = next((item for item in trust.signers if item.key == key), None)
    if key in trust.revoked:
        raise SignatureError("revoked", "signature", f"the key of {who} is revoked")
    if signer is None:
        what = f"made with a key that fleet {trust.fleet} does not trust (wrong key)"
        raise SignatureError("wrong-key", "signature", what)
    if signer.principal != who:
        what = f"wrong principal: says {who}, the key belongs to {signer.principal}"
        raise SignatureError("wrong-principal", "signature", what)
    if signed_for != namespace:
        what = f"wrong namespace: made for {signed_for[:60]!a}, expected {namespace}"
        raise SignatureError("wrong-namespace", "signature", what)
    problem = keygen.verify(signer, namespace, clean, payload, trust.revoked, now)
    if problem is None:
        return key
    if signer.valid_before or signer.valid_after:
        moment = time.time() if now is None else now
        if not _within(signer, moment):
            shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
            limits = f"{signer.valid_after or 'ever'} to {signer.valid_before or 'ever'}"
            what = (
                f"the key of {who} has expired: valid {limits}, this machine's clock says {shown}"
            )
            raise SignatureError("expired", "signature", what)
    what = f"by {who} does not verify, the statement or manifest was tampered with: {problem}"
    raise SignatureError("tampered", "signature", what)


def _within(signer: Signer, moment: float) -> bool:
    now = time.strftime("%Y%m%d%H%M%S", time.gmtime(moment))

    def full(text: str) -> str:
        return text.rstrip("Z").ljust(14, "0")

    if signer.valid_after and now < full(signer.valid_after):
        return False
    return not signer.valid_before or now < full(signer.valid_before)


def check_signatures(
    keygen: Keygen, signed: Signed, trust: Trust, namespace: str, now: float | None = None
) -> tuple[str, ...]:
    """The principals whose good signatures reach the threshold; SignatureError otherwise."""
    if not signed.signatures:
        raise SignatureError("unsigned", "signature", "there is no signature (unsigned)")
    keys: dict[str, str] = {}
    refused: SignatureError | None = None
    for who, armour in signed.signatures[:64]:
        try:
            keys[_check_one(keygen, trust, namespace, signed.payload, who, armour, now)] = who
        except SignatureError as error:
            refused = refused or error
    if len(keys) >= trust.threshold:
        return tuple(sorted(keys.values()))
    if refused is not None and not keys:
        raise refused
    what = f"{len(keys)} of the {trust.threshold} signatures that fleet {trust.fleet} wants"
    reason = f"; refused: {refused.what}" if refused else ""
    raise SignatureError("threshold", "signature", f"below the threshold: {what}{reason}")


def verify_image(
    data: bytes,
    trust: Trust,
    image_id: str,
    name: str = "",
    last: tuple[int, int, str] | None = None,
    ordered_rollback: bool = False,
    now: float | None = None,
    program: str = "",
) -> Statement:
    """The statement that *data* (see ``trust.dump_signed``) proves about *image_id*.

    *last* is ``(epoch, counter, image id)`` of the newest image accepted before, kept on
    the host; an older counter passes only as an ordered rollback. *now* is seconds since
    1970, default this machine's clock. Raises SignatureError with the rule that failed.
    """
    documents = load_signed(data)
    if len(documents) != 1:
        raise SignatureError("tampered", "signature", f"{len(documents)} statements, expected one")
    with Keygen(program) as keygen:
        check_signatures(keygen, documents[0], trust, IMAGE_NAMESPACE, now)
    statement = parse_statement(documents[0].payload)
    check_statement(statement, trust, image_id, name, last, ordered_rollback, now)
    return statement


def check_statement(
    statement: Statement,
    trust: Trust,
    image_id: str,
    name: str = "",
    last: tuple[int, int, str] | None = None,
    ordered_rollback: bool = False,
    now: float | None = None,
) -> None:
    """Compare a proven statement with what is wanted here (rows G2, G3, Z2); pure."""

    def refuse(rule: str, what: str, hint: str = "") -> SignatureError:
        return SignatureError(rule, "signature", what, hint)

    if statement.image != image_id:
        what = f"is for image {statement.image[:12]}, not {image_id[:12]} (mix-and-match)"
        raise refuse("wrong-software", what)
    if statement.fleet != trust.fleet:
        what = f"is for fleet {statement.fleet}, this is {trust.fleet} (wrong software)"
        raise refuse("wrong-software", what)
    if (name and statement.name != name) or (trust.names and statement.name not in trust.names):
        wanted = name or " or ".join(trust.names)
        what = f"is for {statement.name}, expected {wanted} (wrong software)"
        raise refuse("wrong-software", what)
    moment = time.time() if now is None else now
    clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    if clock >= statement.expires:
        what = f"expired at {statement.expires}, this machine's clock says {clock} (freeze)"
        raise refuse("expired", what, "sign it again, or set the clock")
    if statement.epoch != trust.epoch:
        what = f"is of epoch {statement.epoch}, the trust document says {trust.epoch} (rollback)"
        raise refuse("rollback", what, "sign it again")
    if last is None or last[0] != statement.epoch:
        return
    if statement.counter > last[1] + MAX_JUMP:
        what = f"counter {statement.counter} is far beyond the last one, {last[1]} (fast-forward)"
        raise refuse("fast-forward", what, "rotate the trust with a new epoch")
    older = statement.counter < last[1]
    if (older or (statement.counter == last[1] and image_id != last[2])) and not ordered_rollback:
        what = f"counter {statement.counter} is not newer than the last one, {last[1]} (rollback)"
        raise refuse("rollback", what, "order a rollback, or sign it again")


def verify_chain(
    chain: list[Signed], current: Trust | None = None, now: float | None = None, program: str = ""
) -> Trust:
    """The newest trust of *chain*, each version proven by the one before it (row G6).

    With *current* (what this host holds) the chain must contain exactly it, and goes on
    from there; without, the first version must be signed by its own signers.
    """
    versions = [parse_trust(signed.payload) for signed in chain]
    if not versions:
        raise SignatureError("trust", "trust", "the chain is empty")
    with Keygen(program) as keygen:
        start = 0
        if current is None:
            check_signatures(keygen, chain[0], versions[0], TRUST_NAMESPACE, now)
        else:
            start = next((i for i, v in enumerate(versions) if v.version == current.version), -1)
            if start < 0:
                what = f"holds version {current.version}, which the chain offered does not have"
                raise SignatureError("rollback", "trust", f"{what} (rollback)")
            if versions[start].to_bytes() != current.to_bytes():
                what = f"version {current.version} offered is not the one held here (replaced)"
                raise SignatureError("trust", "trust", what)
        for before, after, signed in zip(
            versions[start:], versions[start + 1 :], chain[start + 1 :]
        ):
            if after.version != before.version + 1 or after.fleet != before.fleet:
                what = f"version {after.version} of {after.fleet} does not follow {before.version}"
                raise SignatureError("trust", "trust", what)
            if after.epoch < before.epoch:
                raise SignatureError("rollback", "trust", "the epoch goes back (rollback)")
            check_signatures(keygen, signed, before, TRUST_NAMESPACE, now)
            check_signatures(keygen, signed, after, TRUST_NAMESPACE, now)
    return versions[-1]


def read_private(path: str) -> bytes:
    """The bytes of a file that only its owner (this user or root) may write (row G8).

    Checked on the open file, so that it cannot be exchanged in between. A folder above it
    that others may write, unless sticky, would let them replace it: refused too.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SignatureError("trust", path, f"cannot be read: {error.strerror}") from None
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise SignatureError("trust", path, "is not a regular file")
        _owned(path, facts)
        with open(handle, "rb", closefd=False) as stream:
            data = stream.read(MAX_DOCUMENT + 1)
    finally:
        os.close(handle)
    if len(data) > MAX_DOCUMENT:
        raise SignatureError("trust", path, f"is larger than {MAX_DOCUMENT} bytes (endless data)")
    folder = os.path.dirname(os.path.realpath(path))
    while True:
        facts = os.stat(folder)
        if not facts.st_mode & stat.S_ISVTX:
            _owned(folder, facts)
        if folder == os.path.dirname(folder):
            return data
        folder = os.path.dirname(folder)


def _owned(path: str, facts: os.stat_result) -> None:
    mode = stat.S_IMODE(facts.st_mode)
    if facts.st_uid not in (0, os.geteuid()):
        what = f"belongs to uid {facts.st_uid}, expected {os.geteuid()} or root"
        raise SignatureError("trust", path, what)
    others = open_to(facts)
    if others:
        what = f"others may write it ({others}, mode {mode:04o})"
        raise SignatureError("trust", path, what, f"chmod go-w {path}")
