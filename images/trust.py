"""What is signed, and whose signatures count: pure documents, no files, no processes.

Three texts, all canonical (a text parses only when writing it again gives the same
bytes) and all made of ``key value`` lines:

- a **statement** says "image I, called N, for fleet F, is number C until E";
- a **trust** document says which keys speak for a fleet, and how many must agree;
- a **chain** is every trust document of a fleet, oldest first: each one is signed by the
  signers of the one before it, so that a rotated-out key cannot name its successor.

Travels to hosts: standard library only.
"""

from __future__ import annotations

import base64
import binascii
import re

from images.errors import WainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

IMAGE_NAMESPACE = "wain-image@wainwright"
TRUST_NAMESPACE = "wain-trust@wainwright"
COUNTER_LIMIT = 2**53
MAX_DOCUMENT = 1 << 20
"""No signed document is larger than this many bytes (endless data)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.@_+-]{0,99}\Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
SSH_TIME = re.compile(r"(\d{8}|\d{12}|\d{14})Z?\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
KEY_TYPES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)


class SignatureError(WainError):
    """A signature or trust document was refused; ``rule`` names the attack it stops.

    One of: unsigned, tampered, wrong-key, revoked, expired, wrong-namespace,
    wrong-principal, wrong-software, rollback, fast-forward, threshold, tool, trust.
    """

    def __init__(self, rule: str, where: str, what: str, hint: str = "") -> None:
        self.rule = rule
        super().__init__(where, what, hint)


class Statement:
    """What a signer says about one image. Times are UTC, ``2026-11-21T03:00:00Z``."""

    __slots__ = ("counter", "epoch", "expires", "fleet", "image", "issued", "name")

    def __init__(
        self,
        image: str,
        name: str,
        fleet: str,
        epoch: int,
        counter: int,
        issued: str,
        expires: str,
    ) -> None:
        self.image = image
        self.name = name
        self.fleet = fleet
        self.epoch = epoch
        self.counter = counter
        self.issued = issued
        self.expires = expires

    def to_bytes(self) -> bytes:
        """The bytes that are signed."""
        return (
            f"wain-statement 1\nimage {self.image}\nname {self.name}\nfleet {self.fleet}\n"
            f"epoch {self.epoch}\ncounter {self.counter}\nissued {self.issued}\n"
            f"expires {self.expires}\n"
        ).encode()


class Signer:
    """One key that may sign. ``valid_after``/``valid_before`` as OpenSSH writes them, or empty."""

    __slots__ = ("key", "principal", "valid_after", "valid_before")

    def __init__(
        self, principal: str, key: str, valid_after: str = "", valid_before: str = ""
    ) -> None:
        self.principal = principal
        self.key = key
        self.valid_after = valid_after
        self.valid_before = valid_before

    def line(self) -> str:
        """The value of a ``signer`` line."""
        text = f"{self.principal} {self.key}"
        if self.valid_after:
            text += f" after={self.valid_after}"
        if self.valid_before:
            text += f" before={self.valid_before}"
        return text


class Trust:
    """Which keys speak for one fleet.

    ``version`` only grows; ``epoch`` is raised to start the images' counters again;
    ``threshold`` keys must agree; ``names`` are the image names accepted (empty: any).
    Version 0 is a plain allowed_signers file, which cannot be rotated.
    """

    __slots__ = ("epoch", "fleet", "names", "revoked", "signers", "threshold", "version")

    def __init__(
        self,
        fleet: str,
        version: int,
        epoch: int,
        threshold: int,
        names: Iterable[str],
        signers: Iterable[Signer],
        revoked: Iterable[str] = (),
    ) -> None:
        self.fleet = fleet
        self.version = version
        self.epoch = epoch
        self.threshold = threshold
        self.names = tuple(names)
        self.signers = tuple(signers)
        self.revoked = tuple(revoked)

    def to_bytes(self) -> bytes:
        """The bytes that are signed."""
        lines = [
            "wain-trust 1",
            f"fleet {self.fleet}",
            f"version {self.version}",
            f"epoch {self.epoch}",
            f"threshold {self.threshold}",
        ]
        lines += [f"name {name}" for name in self.names]
        lines += [f"signer {signer.line()}" for signer in self.signers]
        lines += [f"revoked {key}" for key in self.revoked]
        return ("\n".join(lines) + "\n").encode()


class Signed:
    """Signed bytes and the signatures over them: ``(principal, armoured signature)``."""

    __slots__ = ("payload", "signatures")

    def __init__(self, payload: bytes, signatures: Iterable[tuple[str, str]]) -> None:
        self.payload = payload
        self.signatures = tuple(signatures)


def refusal(what: str, where: str = "signature", rule: str = "tampered") -> SignatureError:
    """A SignatureError with the usual place and rule."""
    return SignatureError(rule, where, what)


def _lines(data: bytes, kind: str) -> list[tuple[str, str]]:
    if len(data) > MAX_DOCUMENT:
        raise refusal(f"{kind} of {len(data)} bytes (endless data), at most {MAX_DOCUMENT}")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise refusal(f"{kind} is not ASCII text") from None
    if not text.endswith("\n"):
        raise refusal(f"{kind} is cut short")
    pairs = [tuple(line.partition(" ")[::2]) for line in text[:-1].split("\n")]
    if pairs[0][0] != kind:
        raise refusal(f"not a {kind}: begins with {pairs[0][0][:40]!a}")
    if pairs[0][1] != "1":
        raise refusal(f"{kind} has format {pairs[0][1][:20]!a}, this wain knows 1")
    return pairs[1:]  # type: ignore[return-value]


def _number(text: str, what: str) -> int:
    if not re.match(r"(0|[1-9][0-9]{0,15})\Z", text) or int(text) >= COUNTER_LIMIT:
        raise refusal(f"{what} {text[:30]!a} is not a number below 2^53")
    return int(text)


def check_name(text: str, what: str = "name") -> str:
    """*text* when it may name an image or a fleet, else SignatureError."""
    if not _NAME.match(text):
        raise refusal(f"{what} {text[:60]!a} is not a name (letters, digits, . _ -)")
    return text


def check_principal(text: str) -> str:
    """*text* when it may name a signer (no pattern: ``*`` would accept anybody)."""
    if not _PRINCIPAL.match(text):
        raise refusal(f"signer {text[:60]!a} is not a plain name", "trust", "trust")
    return text


def check_key(text: str) -> str:
    """A public key as ``type base64`` (comment dropped), else SignatureError."""
    parts = text.split()
    if len(parts) < 2 or parts[0] not in KEY_TYPES:
        raise refusal(f"{text[:60]!a} is not an OpenSSH public key", "trust", "trust")
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    kind = parts[0].encode()
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind) or len(blob) < 40:
        raise refusal(f"{text[:60]!a} is not an OpenSSH public key", "trust", "trust")
    return f"{parts[0]} {base64.b64encode(blob).decode()}"


def parse_statement(data: bytes) -> Statement:
    """The statement in *data*; SignatureError (tampered) unless canonical."""
    fields = dict(_lines(data, "wain-statement"))
    try:
        statement = Statement(
            fields["image"],
            check_name(fields["name"]),
            check_name(fields["fleet"], "fleet"),
            _number(fields["epoch"], "epoch"),
            _number(fields["counter"], "counter"),
            fields["issued"],
            fields["expires"],
        )
    except KeyError as error:
        raise refusal(f"statement has no line {error.args[0]!a}") from None
    if not _HEX.match(statement.image):
        raise refusal(f"image {statement.image[:80]!a} is not an image id")
    for moment in (statement.issued, statement.expires):
        if not _TIME.match(moment):
            raise refusal(f"{moment[:40]!a} is not a time like 2026-11-21T03:00:00Z")
    if statement.to_bytes() != data:
        raise refusal("statement is not in canonical form")
    return statement


def parse_trust(data: bytes) -> Trust:
    """The trust document in *data*; SignatureError unless canonical and usable."""
    single: dict[str, str] = {}
    names: list[str] = []
    signers: list[Signer] = []
    revoked: list[str] = []
    for key, value in _lines(data, "wain-trust"):
        if key == "name":
            names.append(check_name(value))
        elif key == "signer":
            signers.append(_signer(value))
        elif key == "revoked":
            revoked.append(check_key(value))
        elif key in single:
            raise refusal(f"line {key!a} stands twice", "trust", "trust")
        else:
            single[key] = value
    try:
        trust = Trust(
            check_name(single["fleet"], "fleet"),
            _number(single["version"], "version"),
            _number(single["epoch"], "epoch"),
            _number(single["threshold"], "threshold"),
            names,
            signers,
            revoked,
        )
    except KeyError as error:
        raise refusal(f"no line {error.args[0]!a}", "trust", "trust") from None
    if trust.to_bytes() != data:
        raise refusal("trust document is not in canonical form", "trust", "trust")
    return check_trust(trust)


def check_trust(trust: Trust) -> Trust:
    """*trust* when its threshold can be reached by keys that are not revoked."""
    keys = [signer.key for signer in trust.signers]
    if len(set(keys)) != len(keys):
        raise refusal("one key stands twice among the signers", "trust", "trust")
    live = [key for key in keys if key not in trust.revoked]
    if not 1 <= trust.threshold <= len(live):
        what = f"threshold {trust.threshold} with {len(live)} keys that are not revoked"
        raise refusal(what, "trust", "trust")
    return trust


def _signer(value: str) -> Signer:
    parts = value.split(" ")
    if len(parts) < 3:
        raise refusal(f"signer line {value[:60]!a} is not complete", "trust", "trust")
    limits = {"after": "", "before": ""}
    for part in parts[3:]:
        name, _, moment = part.partition("=")
        if name not in limits or not SSH_TIME.match(moment):
            raise refusal(f"signer option {part[:60]!a}", "trust", "trust")
        limits[name] = moment
    key = check_key(f"{parts[1]} {parts[2]}")
    return Signer(check_principal(parts[0]), key, limits["after"], limits["before"])


def dump_signed(documents: Iterable[Signed]) -> bytes:
    """Signed documents as the JSON file that is stored and sent."""
    import json

    return (
        json.dumps(
            {
                "format": 1,
                "documents": [
                    {
                        "payload": signed.payload.decode("ascii"),
                        "signatures": [
                            {"signer": who, "signature": armour}
                            for who, armour in signed.signatures
                        ],
                    }
                    for signed in documents
                ],
            },
            indent=1,
        )
        + "\n"
    ).encode()


def load_signed(data: bytes) -> list[Signed]:
    """The documents of :func:`dump_signed`; SignatureError for anything else."""
    import json

    if not data:
        raise SignatureError("unsigned", "signature", "the image is unsigned")
    if len(data) > MAX_DOCUMENT:
        raise refusal(f"{len(data)} bytes (endless data), at most {MAX_DOCUMENT}")
    try:
        document = json.loads(data.decode("ascii"))
        if document["format"] != 1:
            raise refusal(f"format {str(document['format'])[:20]!a}, this wain knows 1")
        return [
            Signed(
                item["payload"].encode("ascii"),
                [
                    (check_principal(pair["signer"]), str(pair["signature"]))
                    for pair in item["signatures"]
                ],
            )
            for item in document["documents"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise refusal(f"cannot be read ({type(error).__name__})") from None
