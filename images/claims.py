"""Whether an image document from elsewhere says what its manifest holds.

A document is not part of an image's identity, and a signature covers the identity: what a
document lists is shown to people, goes into bills of materials and answers "who runs this
release", so it is held against the files before it is believed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING

from images.catalog import NAME

if TYPE_CHECKING:
    from images.catalog import ImageDocument
    from images.manifest import Entry, Manifest

_METADATA = re.compile(r"lib/python[0-9.]+t?/site-packages/[^/]+\.dist-info/METADATA")


def digests(manifest: Manifest) -> dict[str, str]:
    """Owner -> the digest of its lines in the manifest, as documents name it."""
    lines: dict[str, list[str]] = {}
    for entry in manifest.entries:
        lines.setdefault(entry.owner, []).append(f"{entry.line}\n")
    return {owner: sha256("".join(own).encode()).hexdigest() for owner, own in lines.items()}


def shape_problem(document: ImageDocument, manifest: Manifest) -> str:
    """What a document says otherwise than the manifest itself does; empty for nothing."""
    for what, name in (
        ("name", document.name),
        ("target", document.target.name),
        *(("name", alias) for alias in document.aliases),
    ):
        if not NAME.fullmatch(name):
            return f"its {what} {name[:60]!a} cannot be one"
    target = document.target
    found = f"{target.python} {target.abi} {target.platform}"
    wanted = f"{manifest.python} {manifest.abi} {manifest.platform}"
    if found != wanted:
        return f"its target is {found[:80]!a}, the image's is {wanted}"
    own = digests(manifest)
    listed = [package.name for package in document.packages]
    if len(set(listed)) != len(listed):
        return "it lists a package twice"
    unknown = sorted(own.keys() - {"-"} - set(listed))
    if unknown:
        return f"it does not list {unknown[0]}"
    for package in document.packages:
        if package.files != own.get(package.name, sha256().hexdigest()):
            return f"the files of {package.name[:60]!a} are others"
    return ""


def version_problem(
    document: ImageDocument, manifest: Manifest, read: Callable[[Entry], bytes]
) -> str:
    """A package whose own METADATA says another version; empty for none. Reads those files."""
    said = {package.name: package.version for package in document.packages}
    for entry in manifest.entries:
        if entry.owner in said and _METADATA.fullmatch(entry.path):
            found = _version(read(entry))
            if not _same(found, said[entry.owner]):
                version = said[entry.owner]
                return f"{entry.owner} is {found[:40]!a}, not {version[:40]!a}"
    return ""


def _version(metadata: bytes) -> str:
    for line in metadata.split(b"\n\n", 1)[0].split(b"\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"version":
            return value.strip().decode("utf-8", "replace")
    return ""


def _same(one: str, other: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return one == other or Version(one) == Version(other)
    except InvalidVersion:
        return False
