from __future__ import annotations

import pytest

from fleet.quantity import Share, parse_rate


@pytest.mark.parametrize(
    ("text", "rate"), [("20MB/s", 20_000_000), ("1MiB/s", 1 << 20), ("1.5kB/s", 1500)]
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("wrong", ["20MB", "20", 20, "0MB/s", "1B/s", "MB/s", "-1MB/s", "20mb/s"])
def test_wrong_rates(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected a rate"):
        parse_rate(wrong)


def test_shares() -> None:
    assert Share.parse(3).of(100) == 3
    assert Share.parse("3").of(100) == 3
    assert Share.parse("10%").of(25) == 3
    assert Share.parse("12.5%").of(8) == 1
    assert Share.parse("0%").of(8) == 0
    assert str(Share.parse("12.5 %")) == "12.5%"
    # 70 % of 10 is 7, whatever floating point thinks.
    assert [Share.parse("70%").of(10), Share.parse("7%").of(100)] == [7, 7]


@pytest.mark.parametrize("wrong", ["", "x", "-1%", "101%", -1, True, None, 0.5, "٣"])
def test_wrong_shares(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected a number"):
        Share.parse(wrong)
