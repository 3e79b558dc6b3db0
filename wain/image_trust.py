"""`wain image trust`: say whose signatures count, and hand that on from keys to keys."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from wain.output import Output

if TYPE_CHECKING:
    from images.trust import Signed, Signer, Trust

_FILE = "trust.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Without an option the trust is shown."""
    parser.add_argument("--file", default=_FILE, metavar="FILE", help="the trust file (trust.json)")
    parser.add_argument("--init", metavar="FLEET", help="begin a trust file for a fleet")
    parser.add_argument("--name", action="append", default=[], help="image names it accepts (any)")
    parser.add_argument(
        "--add", action="append", default=[], metavar="NAME=KEY", help="a signer and the public key"
    )
    parser.add_argument("--remove", action="append", default=[], metavar="NAME")
    parser.add_argument("--revoke", action="append", default=[], metavar="KEY", help="a public key")
    parser.add_argument("--threshold", type=int, metavar="N", help="signatures that are needed")
    parser.add_argument("--new-epoch", action="store_true", help="let counters begin again")
    parser.add_argument("--sign", metavar="KEY", help="sign the newest version with this key")
    parser.add_argument("--signer", default="", metavar="NAME", help="whose key --sign is")


def run(args: argparse.Namespace, out: Output) -> int:
    """Show, begin, change or sign the trust file; each change is a new version."""
    from images.signature import next_trust, public_key, sign_trust
    from images.trust import Signed, Trust, check_key, check_name, check_trust, parse_trust

    path = os.path.join(args.directory, args.file)
    changing = bool(args.add or args.remove or args.revoke or args.threshold or args.new_epoch)
    added = [_signer(text) for text in args.add]
    if args.init:
        chain = _begin(path)
        trust = Trust(
            check_name(args.init, "fleet"), 1, 0, args.threshold or 1,
            [check_name(name) for name in args.name], added,
        )  # fmt: skip
        chain.append(Signed(check_trust(trust).to_bytes(), ()))
    else:
        chain = read_chain(path)
        if changing:
            trust = next_trust(
                parse_trust(chain[-1].payload),
                add=added, remove=args.remove,
                revoke=[check_key(public_key(key)) for key in args.revoke],
                threshold=args.threshold, new_epoch=args.new_epoch,
            )  # fmt: skip
            chain.append(Signed(check_trust(trust).to_bytes(), ()))
    if args.sign:
        chain = sign_trust(chain, args.sign, args.signer or _whose(chain, args.sign))
    if args.init or changing or args.sign:
        _write(path, chain)
    _show(chain, out)
    return 0


def _signer(text: str) -> Signer:
    from images.errors import UsageError
    from images.signature import public_key
    from images.trust import Signer, check_principal

    name, sign, key = text.partition("=")
    if not sign:
        raise UsageError("--add", f"{text!a} is not NAME=KEY")
    return Signer(check_principal(name), public_key(key))


def _begin(path: str) -> list[Signed]:
    from images.errors import UsageError

    if os.path.lexists(path):
        raise UsageError(path, "is there already", "--add, --remove or --revoke change it")
    return []


def _whose(chain: list[Signed], key: str) -> str:
    """The name under which this key may sign the newest version."""
    from images.errors import UsageError
    from images.signature import public_key
    from images.trust import parse_trust

    public = public_key(key)
    for signed in chain[-2:]:
        for signer in parse_trust(signed.payload).signers:
            if signer.key == public:
                return signer.principal
    raise UsageError("--sign", f"{key} is not a key of any signer", "say --signer")


def read_chain(path: str) -> list[Signed]:
    """The documents of a trust file. Raises WainError."""
    from images.errors import WainError
    from images.trust import load_signed

    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        hint = "wain image trust --init FLEET --add NAME=KEY begins one"
        raise WainError(path, error.strerror or str(error), hint) from None
    return load_signed(data)


def find_trust(args: argparse.Namespace, fleet: str) -> Trust | None:
    """The newest trust of ``--trust`` or of ``trust.json`` if that is there."""
    from images.allowed import allowed_signers
    from images.trust import parse_trust

    path = os.path.join(args.directory, args.trust or _FILE)
    if not args.trust and not os.path.exists(path):
        return None
    with open(path, "rb") as stream:
        head = stream.read(1)
    if head == b"{":
        return parse_trust(read_chain(path)[-1].payload)
    with open(path, "rb") as stream:
        return allowed_signers(stream.read(), fleet)


def _write(path: str, chain: list[Signed]) -> None:
    from images import durable
    from images.errors import WainError
    from images.trust import dump_signed

    try:
        durable.write_file(path, dump_signed(chain), f"{path}.{os.getpid()}")
    except OSError as error:
        raise WainError(path, error.strerror or str(error)) from None


def _show(chain: list[Signed], out: Output) -> None:
    from images.errors import WainError
    from images.sigcheck import verify_chain
    from images.trust import parse_trust

    trust = parse_trust(chain[-1].payload)
    try:
        verify_chain(chain)
        problem = ""
    except WainError as error:
        problem = error.what
    names = ", ".join(trust.names) or "any"
    out.say(f"fleet {trust.fleet}, version {trust.version}, epoch {trust.epoch}, images: {names}")
    out.say(f"{trust.threshold} of {len(trust.signers)} signers must agree")
    signed = {who for who, _ in chain[-1].signatures}
    rows = []
    for one in trust.signers:
        done = "yes" if one.principal in signed else ""
        rows.append([one.principal, one.key[:44], one.valid_before, done])
    out.table(["signer", "key", "until", "signed this version"], rows)
    if problem:
        out.say(f"not valid yet: {problem}; each signer: wain image trust --sign KEY")
    out.result(
        {
            "fleet": trust.fleet,
            "version": trust.version,
            "epoch": trust.epoch,
            "threshold": trust.threshold,
            "names": list(trust.names),
            "signers": [
                {"name": one.principal, "key": one.key, "signed": one.principal in signed}
                for one in trust.signers
            ],
            "revoked": list(trust.revoked),
            "valid": not problem,
            "problem": problem or None,
        }
    )
