from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1m30s", 90), ("250ms", 0.25), ("2h", 7200), ("1d", 86400),
     ("1.5s", 1.5), (0, 0), (12, 12), (0.5, 0.5), ("0s", 0)],
)  # fmt: skip
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "wrong", ["", "30", "s", "30 s x", "-1s", -1, True, None, [], "31d", "1s2"]
)
def test_wrong_durations(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(wrong)


@given(st.integers(0, 30 * 86400))
def test_whole_seconds_survive_the_way_to_text_and_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds) or "0s") == seconds
