"""Patterns of what is left out of an image (`[image] prune`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path matches one of these: ``*`` and ``?`` within a name, ``**`` any folders."""
    if not patterns:
        return lambda path: False
    compiled = re.compile("|".join(f"(?:{_translate(pattern)})" for pattern in patterns))
    return lambda path: compiled.fullmatch(path) is not None


def _translate(pattern: str) -> str:
    out = []
    for part in re.findall(r"\*\*/|/\*\*$|\*\*|\*|\?|\[!?[^]/]+\]|.", pattern.strip("/")):
        if part == "**/":
            out.append("(?:[^/]+/)*")
        elif part == "/**":
            out.append("/.+")
        elif part == "**":
            out.append(".*")
        elif part == "*":
            out.append("[^/]*")
        elif part == "?":
            out.append("[^/]")
        elif len(part) > 2 and part[0] == "[":
            out.append(part.replace("[!", "[^", 1).replace("\\", "\\\\"))
        else:
            out.append(re.escape(part))
    return "".join(out)
