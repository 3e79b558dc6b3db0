"""An image's bill of materials as CycloneDX JSON 1.6.

The same image gives the same bytes: the serial number is derived from the image id and there
is no time in it. SBOMs that wheels carry (PEP 770, ``.dist-info/sboms/``) are named with their
hash, and the components of those in CycloneDX form stand below their package.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from email.parser import BytesHeaderParser

from cyclonedx.exception import CycloneDxException
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.bom_ref import BomRef
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from images.catalog import ImageDocument, PackageRecord
from images.manifest import Entry, Manifest
from images.store import Store

_NAMESPACE = uuid.UUID("5f6f0b9e-4b0c-5a53-9c4e-6e3a2d7d9f10")
_SBOM = re.compile(r"lib/python[^/]+/site-packages/[^/]+\.dist-info/sboms/.+")
_METADATA = re.compile(r"lib/python[^/]+/site-packages/[^/]+\.dist-info/METADATA")
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_MAX_CARRIED = 16 << 20


def make_sbom(store: Store, manifest: Manifest, document: ImageDocument) -> bytes:
    """The bill of materials of an image. Raises ObjectError for a damaged object."""
    carried: dict[str, list[Entry]] = {}
    metadata: dict[str, Entry] = {}
    for entry in manifest.entries:
        if entry.kind != "file":
            continue
        if _SBOM.fullmatch(entry.path):
            carried.setdefault(entry.owner, []).append(entry)
        elif _METADATA.fullmatch(entry.path):
            metadata[entry.owner] = entry
    requirements: dict[str, list[str]] = {}
    components: dict[str, Component] = {}
    for package in document.packages:
        headers = _headers(store, metadata.get(package.name))
        requirements[package.name] = list(_requirements(headers))
        components[package.name] = _component(
            store, package, headers, carried.get(package.name, [])
        )
    root = Component(
        name=document.name,
        version=manifest.image_id[:12],
        type=ComponentType.APPLICATION,
        bom_ref=f"image:{manifest.image_id}",
        hashes=[_sha256(manifest.image_id)],
        properties=[
            Property(name="wain:python", value=manifest.python),
            Property(name="wain:abi", value=manifest.abi),
            Property(name="wain:platform", value=manifest.platform),
            Property(name="wain:lock", value=document.lock),
        ],
    )
    bom = Bom(
        components=components.values(),
        serial_number=uuid.uuid5(_NAMESPACE, manifest.image_id),
        metadata=BomMetaData(component=root),
        dependencies=_dependencies(root, components, requirements),
    )
    result = json.loads(JsonV1Dot6(bom).output_as_string())
    del result["metadata"]["timestamp"]
    return (json.dumps(result, indent=2, sort_keys=True) + "\n").encode()


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _headers(store: Store, entry: Entry | None) -> list[tuple[str, str]]:
    if entry is None:
        return []
    message = BytesHeaderParser().parsebytes(store.read(*entry.key))
    return [(name.lower(), str(value)) for name, value in message.items()]


def _requirements(headers: list[tuple[str, str]]) -> Iterator[str]:
    """Names that are required without an extra, normalised; markers are not evaluated."""
    for name, value in headers:
        match = _REQUIREMENT.match(value) if name == "requires-dist" else None
        if match and "extra" not in value.partition(";")[2]:
            yield re.sub(r"[-_.]+", "-", match[1]).lower()


def _component(
    store: Store, package: PackageRecord, headers: list[tuple[str, str]], carried: list[Entry]
) -> Component:
    licenses: list[LicenseExpression | DisjunctiveLicense] = []
    description = None
    for name, value in headers:
        if name == "license-expression":
            licenses = [LicenseExpression(value)]
        elif name == "license" and not licenses and 0 < len(value) <= 80 and "\n" not in value:
            licenses = [DisjunctiveLicense(name=value)]
        elif name == "summary" and value not in ("", "UNKNOWN"):
            description = value
    references, below = [], []
    for entry in carried:
        references.append(
            ExternalReference(
                type=ExternalReferenceType.BOM,
                url=XsUri(entry.path),
                hashes=[_sha256(entry.sha256)],
            )
        )
        below += _carried(store, package.name, entry)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"pkg:{package.name}@{package.version}",
        purl=PackageURL("pypi", None, package.name, package.version),
        hashes=[_sha256(package.sha256)],
        licenses=licenses,
        description=description,
        external_references=references,
        components=below,
        properties=[Property(name="wain:wheel", value=package.wheel)],
    )


def _carried(store: Store, owner: str, entry: Entry) -> list[Component]:
    """The components of a carried CycloneDX document; none of any other form."""
    if entry.size > _MAX_CARRIED:
        return []
    try:
        data = json.loads(store.read(*entry.key))
        if data.get("bomFormat") != "CycloneDX":
            return []
        bom = Bom.from_json(data)  # type: ignore[attr-defined]
    except (ValueError, AttributeError, TypeError, KeyError, CycloneDxException):
        return []
    found: list[Component] = list(bom.components) if bom else []
    inner = bom.metadata.component if bom else None
    if inner is not None and inner.components:
        found += list(inner.components)
    for number, component in enumerate(found):
        # References are unique in a document; each carried one numbered its own.
        own = component.bom_ref.value or str(number)
        component.bom_ref.value = f"{owner}/{entry.path.rpartition('/')[2]}#{own}"
        for at, nested in enumerate(_nested(component)):
            nested.bom_ref.value = f"{component.bom_ref.value}/{nested.bom_ref.value or at}"
    return found


def _nested(component: Component) -> Iterator[Component]:
    for one in component.components:
        yield one
        yield from _nested(one)


def _dependencies(
    root: Component, components: dict[str, Component], requirements: dict[str, list[str]]
) -> list[Dependency]:
    def on(names: Iterator[str]) -> list[Dependency]:
        return [Dependency(BomRef(components[name].bom_ref.value)) for name in names]

    wanted = {name for names in requirements.values() for name in names}
    tops = (name for name in components if name not in wanted)
    found = [Dependency(root.bom_ref, on(tops))]
    for name, component in components.items():
        needed = (one for one in sorted(set(requirements[name])) if one in components)
        found.append(Dependency(component.bom_ref, on(needed)))
    return found
