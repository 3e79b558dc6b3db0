from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.selector import Selector, SelectorError


@dataclass(frozen=True)
class Named:
    name: str
    labels: frozenset[str] = frozenset()


FLEET = [
    Named("web1", frozenset({"eu", "canary"})),
    Named("web2", frozenset({"eu"})),
    Named("web3", frozenset({"us"})),
    Named("db1", frozenset({"eu"})),
]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all", "web1 web2 web3 db1"),
        ("web1", "web1"),
        ("web*", "web1 web2 web3"),
        ("web[12]", "web1 web2"),
        ("label:eu", "web1 web2 db1"),
        ("label:eu & !web2", "web1 db1"),
        ("label:eu&!label:canary", "web2 db1"),
        ("web3, db1", "web3 db1"),
        ("web3 | db1", "web3 db1"),
        ("label:eu & web*, web3", "web1 web2 web3"),
        ("label:eu & (web1 | db1)", "web1 db1"),
        ("!!web1", "web1"),
        ("!(label:eu)", "web3"),
        ("label:[eu]*", "web1 web2 web3 db1"),
    ],
)
def test_selectors(text: str, names: str) -> None:
    selector = Selector.parse(text)
    selector.check(FLEET)
    assert selector.select(FLEET) == names.split()


@pytest.mark.parametrize(
    "text",
    ["", "  ", "&", "web1 &", "& web1", "web1 web2", "(web1", "web1)", "!", "label:", "group:eu",
     "web1,,web2", "()"],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SelectorError) as error:
        Selector.parse(text)
    assert error.value.exit_code == 2
    assert error.value.text == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wbe1", "no host is named 'wbe1' (did you mean 'web1'?)"),
        ("label:uk", "no host has the label 'uk'"),
        ("all & !wed*", "no host is named 'wed*'"),
    ],
)
def test_names_that_no_host_has_are_refused(text: str, message: str) -> None:
    with pytest.raises(SelectorError) as error:
        Selector.parse(text).check(FLEET)
    assert message in str(error.value)


def test_control_characters_are_escaped_in_the_message() -> None:
    with pytest.raises(SelectorError) as error:
        Selector.parse("\x1b]0;x").check(FLEET)
    assert "\x1b" not in str(error.value)


@given(st.text(alphabet="ab&|!(),: *label", max_size=30))
def test_any_text_parses_or_is_a_selector_error(text: str) -> None:
    try:
        chosen = Selector.parse(text)
    except SelectorError:
        return
    names = chosen.select(FLEET)
    assert names == [host.name for host in FLEET if chosen.matches(host)]
    inverse = Selector.parse(f"!({text})")
    assert set(names) | set(inverse.select(FLEET)) == {host.name for host in FLEET}
    assert not set(names) & set(inverse.select(FLEET))
