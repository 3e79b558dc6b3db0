"""Quantities as people write them in fleet.toml: transfer rates and shares. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|KB|KiB|MB|MiB|GB|GiB)/s")
_RATE_UNIT = {
    "B": 1, "kB": 10**3, "KB": 10**3, "KiB": 2**10,
    "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30,
}  # fmt: skip
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%")


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
