"""The digest of what decides a lock, by which a lock is known to be up to date."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.requirements import Inputs
from builder.spec import BuildSpec
from builder.urls import mask
from wheelhouse.target import Target


def inputs_digest(spec: BuildSpec, inputs: Inputs, target: Target) -> str:
    """sha256 over all that decides a lock: what was asked, for what, from where.

    Comments, order and the places of lines are not in it.
    """
    if spec.given_lock:
        return hashlib.sha256(Path(spec.given_lock).read_bytes()).hexdigest()
    return digest_of(
        {
            "requirements": sorted({_canonical(line.text) for line in inputs.requirements}),
            "constraints": sorted({_canonical(line.text) for line in inputs.constraints}),
            "options": sorted(
                [name, mask(value)] for name, value in inputs.options if "index" not in name
            ),
            "target": [target.python, target.platform],
            "from-source": sorted(spec.from_source),
            "exclude-newer": spec.exclude_newer.isoformat() if spec.exclude_newer else "",
            "pins": sorted([index.name, sorted(index.projects)] for index in spec.indexes),
        }
    )


def _canonical(text: str) -> str:
    requirement = Requirement(text)
    requirement.name = canonicalize_name(requirement.name)
    return str(requirement)


def digest_of(document: object) -> str:
    """sha256 of a document's one form in JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
