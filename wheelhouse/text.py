"""How untrusted text is shown: escaped, on one line, and never endless."""

from __future__ import annotations

LIMIT = 160


def shown(value: object, limit: int = LIMIT) -> str:
    """``value`` in quotes with everything but printable ASCII escaped, cut at ``limit``.

    A file name from an archive may hold terminal sequences or newlines; an error message
    must stay one line that cannot move a cursor.
    """
    text = value if isinstance(value, str) else str(value)
    if len(text) > limit:
        text = text[:limit] + "…"
    return ascii(text).replace("\\u2026", "...")


def bare(value: object, limit: int = LIMIT) -> str:
    """The same escaping without the quotes: for file names at the start of a message."""
    return shown(value, limit)[1:-1]
