"""A plain OpenSSH allowed_signers file as a trust. Travels to hosts. Pure."""

from __future__ import annotations

import re

from images.trust import (
    IMAGE_NAMESPACE,
    KEY_TYPES,
    SSH_TIME,
    SignatureError,
    Signer,
    Trust,
    check_key,
    check_name,
    check_principal,
    check_trust,
    refusal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_OPTIONS = re.compile(r'([a-z-]+)(?:="([^"]*)")?(,|\s+)')


def allowed_signers(data: bytes, fleet: str, names: Iterable[str] = ()) -> Trust:
    """A plain OpenSSH allowed_signers file as version 0 of a trust: any one key signs.

    Stricter than ssh-keygen, which skips lines it cannot read: patterns, certificate
    authorities and unknown options are errors, naming the line.
    """
    signers = []
    for number, raw in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            signers.append(_allowed_line(line))
        except SignatureError as error:
            raise refusal(f"line {number}: {error.what}", "allowed_signers", "trust") from None
    if not signers:
        raise refusal("no signer in it", "allowed_signers", "trust")
    return check_trust(Trust(check_name(fleet, "fleet"), 0, 0, 1, names, signers))


def _allowed_line(line: str) -> Signer:
    principal, _, rest = line.partition(" ")
    rest = rest.strip()
    limits = {"valid-after": "", "valid-before": ""}
    while not rest.startswith(KEY_TYPES):
        match = _OPTIONS.match(rest)
        if match is None:
            raise refusal(f"cannot read {line[:60]!a}", "trust", "trust")
        name, value, _ = match.groups()
        value = value or ""
        if name == "namespaces":
            if IMAGE_NAMESPACE not in value.split(","):
                what = f"namespaces {value[:60]!a} leave out {IMAGE_NAMESPACE}"
                raise refusal(what, "trust", "trust")
        elif name in limits and SSH_TIME.match(value):
            limits[name] = value
        else:
            raise refusal(f"option {name[:40]!a} is not accepted here", "trust", "trust")
        rest = rest[match.end() :]
    return Signer(
        check_principal(principal), check_key(rest), limits["valid-after"], limits["valid-before"]
    )
