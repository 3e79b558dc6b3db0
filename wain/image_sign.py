"""`wain image sign A`: a signed statement about an image for one fleet."""

from __future__ import annotations

import argparse

from wain.image_names import image_arguments
from wain.output import Output
from wain.shared import open_catalog, short


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which image, for whom, with which key."""
    image_arguments(parser)
    parser.add_argument("--key", required=True, metavar="FILE", help="OpenSSH key to sign with")
    parser.add_argument("--signer", default="", metavar="NAME", help="as in the trust file")
    parser.add_argument("--fleet", default="", metavar="F", help="default: the trust file's")
    parser.add_argument("--trust", default="", metavar="FILE", help="default: trust.json")
    parser.add_argument("--days", type=float, default=90.0, metavar="N", help="valid for (90)")
    parser.add_argument("--counter", type=int, metavar="N", help="default: the next one")
    parser.add_argument("--again", action="store_true", help="a new statement, not one more signer")


def run(args: argparse.Namespace, out: Output) -> int:
    """Sign; several signers sign the same statement."""
    from images.errors import UsageError
    from images.signature import public_key, sign_image
    from wain.image_trust import find_trust

    catalog = open_catalog(args)
    image_id = catalog.resolve(args.image, args.target)
    name = catalog.document(image_id).name
    trust = find_trust(args, args.fleet or name)
    fleet = args.fleet or (trust.fleet if trust else name)
    signer = args.signer
    if not signer and trust:
        key = public_key(args.key)
        signer = next((one.principal for one in trust.signers if one.key == key), "")
    if not signer:
        hint = "the trust file does not name this key" if trust else "there is no trust file"
        raise UsageError("--signer", "whose key is it?", hint)
    if not 0 < args.days < 36500:
        raise UsageError("--days", f"{args.days} is not a number of days between 0 and 36500")
    with catalog.store.writing():
        statement, count = sign_image(
            catalog.store, image_id, name, fleet, args.key, signer,
            days=args.days, epoch=trust.epoch if trust else 0,
            counter=args.counter, again=args.again,
        )  # fmt: skip
    wanted = trust.threshold if trust else 1
    out.say(
        f"{signer} signed {short(image_id)} as {name} for fleet {fleet}, number "
        f"{statement.counter}, until {statement.expires} ({count} of {wanted} signatures)"
    )
    out.result(
        {
            "image": image_id,
            "name": name,
            "fleet": fleet,
            "counter": statement.counter,
            "epoch": statement.epoch,
            "expires": statement.expires,
            "signatures": count,
            "threshold": wanted,
        }
    )
    return 0
