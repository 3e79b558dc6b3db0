"""Run inside an environment: how many distributions it has, and how many of them import.

Prints a JSON document. A distribution imports when every module and package at its top does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re

_MODULE = re.compile(r"([A-Za-z][A-Za-z0-9_]*)(?:/__init__\.py|\.py|(?:\.[^/]*)?\.so)")


def modules(distribution: importlib.metadata.Distribution) -> list[str]:
    """The names at the top of a distribution that can be imported."""
    found = (_MODULE.fullmatch(str(path)) for path in distribution.files or [])
    return sorted({match[1] for match in found if match})


def main() -> None:
    """Import everything."""
    failed, count = {}, 0
    for distribution in importlib.metadata.distributions():
        count += 1
        for name in modules(distribution):
            try:
                importlib.import_module(name)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
    print(json.dumps({"distributions": count, "failed": failed}))


if __name__ == "__main__":
    main()
