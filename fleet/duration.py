"""Quantities as people write them in fleet.toml: durations, transfer rates, shares. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|KB|KiB|MB|MiB|GB|GiB)/s")
_RATE_UNIT = {
    "B": 1, "kB": 10**3, "KB": 10**3, "KiB": 2**10,
    "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30,
}  # fmt: skip
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%")


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


def parse_rate(value: object) -> int:
    """Bytes in a second from ``"20MB/s"`` (powers of ten; ``MiB/s`` powers of two).

    Raises ValueError with what was expected.
    """
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    rate = int(float(match[1]) * _RATE_UNIT[match[2]]) if match else 0
    if rate < 1000:
        raise ValueError(f"expected a rate such as '20MB/s', of at least 1kB/s, found {value!a}")
    return rate


@dataclass(frozen=True, slots=True)
class Share:
    """A number of hosts, or a share of them: exactly one of the two is set.

    ``percent`` is exact, so that rounding never depends on floating point.
    """

    count: int | None = None
    percent: Fraction | None = None

    @classmethod
    def parse(cls, value: object) -> Share:
        """From ``3``, ``"3"`` or ``"12.5%"``. Raises ValueError with what was expected."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(count=value)
        text = value.strip() if isinstance(value, str) else ""
        if text.isascii() and text.isdecimal():
            return cls(count=int(text))
        match = _PERCENT.fullmatch(text)
        if match and Fraction(match[1]) <= 100:
            return cls(percent=Fraction(match[1]))
        raise ValueError(
            f"expected a number such as 2 or a share from '0%' to '100%', found {value!a}"
        )

    def of(self, total: int) -> int:
        """How many of ``total`` hosts this is; a share is rounded up."""
        if self.count is not None:
            return self.count
        assert self.percent is not None
        return math.ceil(self.percent * total / 100)

    def __str__(self) -> str:
        if self.count is not None:
            return str(self.count)
        assert self.percent is not None
        return f"{float(self.percent):g}%"
