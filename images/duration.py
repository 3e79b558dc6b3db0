"""Durations as people write them in wain.toml and fleet.toml. Pure."""

from __future__ import annotations

import re

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> float:
    """Seconds from ``"30s"``, ``"1m30s"``, ``"250ms"``, ``"2h"`` or a plain number of seconds.

    Raises ValueError with what was expected.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = value.strip() if isinstance(value, str) else ""
        parts = _DURATION_PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError(f"expected a duration such as '30s' or '5m', found {value!a}")
        seconds = sum(float(number) * _DURATION_UNIT[unit] for number, unit in parts)
    if not 0 <= seconds <= 30 * 86400:
        raise ValueError(f"expected a duration between 0 and 30 days, found {value!a}")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration for people: ``0.4s``, ``30s``, ``5m``, ``1h30m``."""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds != int(seconds) else f"{int(seconds)}s"
    text, rest = "", round(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text
