from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from images.tomlfile import Document, Table, TomlError, load_toml, parse_toml, suggest
from images.tomllines import find_lines

FLEET = '''\
# hosts
root = "/opt/shop"
python = """
/usr/bin/python3
"""

[[host]]
name = "web1"
address = "web1.example"
labels = [
  "canary",  # first
  "eu",
]

[[host]]
name = "web2"
adress = 'x # = ['

[rollout]
health = ["true", { http = "http://127.0.0.1/", timeout = "5s" },
          { http = "http://127.0.0.2/" }]
limits.wave."per cent" = 3
[targets.prod]
python = 3
'''


def test_every_key_has_its_line() -> None:
    lines = find_lines(FLEET)
    assert lines["root",] == 2
    assert lines["host", 0, "labels", 1] == 12
    assert lines["host", 1] == 15
    assert lines["host", 1, "adress"] == 17
    assert lines["rollout", "health", 1, "timeout"] == 20
    assert lines["rollout", "health", 2, "http"] == 21
    assert lines["rollout", "limits", "wave", "per cent"] == 22
    assert lines["targets", "prod"] == 23
    assert lines["targets", "prod", "python"] == 24


def test_an_unknown_path_has_the_line_of_its_parent() -> None:
    document = parse_toml(FLEET, "fleet.toml")
    assert document.line(("host", 1, "port")) == 15
    assert document.line(("nothing",)) == 1


scalars = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20),
    st.integers(-(2**60), 2**60),
    st.booleans(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), inner),
    ),
    max_leaves=12,
)


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += _paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _paths(item, (*path, index))
    return found


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), values),
    st.booleans(),
)
def test_the_line_of_each_path_of_any_document(data: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(data, multiline_strings=multiline)
    document = parse_toml(text, "any.toml")
    lines = find_lines(text)
    wanted = _paths(document.data)
    assert set(lines) == set(wanted)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


def _document(text: str) -> Document:
    return parse_toml(text, "fleet.toml")


def test_unknown_key_names_file_line_table_and_the_near_key() -> None:
    table = _document(FLEET).root.tables("host")[1]
    with pytest.raises(TomlError) as caught:
        table.only(["name", "address", "labels"])
    assert str(caught.value) == (
        "fleet.toml:17: [[host]] web2: unknown key 'adress' (did you mean 'address'?)"
    )
    assert caught.value.exit_code == 2
    assert caught.value.line == 17


def test_the_first_unknown_key_in_the_file_is_named() -> None:
    with pytest.raises(TomlError, match=r"^x:1: unknown key 'zz'$"):
        parse_toml("zz = 1\naa = 2\n", "x").root.only(["name"])


@pytest.mark.parametrize(
    ("text", "read", "message"),
    [
        ("a = 1", lambda t: t.string("a"), "fleet.toml:1: 'a' expects a string, found a whole"),
        ("a = ''", lambda t: t.string("a"), "fleet.toml:1: 'a' is empty"),
        ("\n\nb = 1", lambda t: t.string("a"), "fleet.toml:1: missing key 'a'"),
        ("a = true", lambda t: t.integer("a"), "expects a whole number, found true or false"),
        ("a = 1.5", lambda t: t.integer("a"), "expects a whole number, found a number"),
        ("a = 1", lambda t: t.boolean("a"), "expects true or false, found a whole number"),
        ("a = 'b'", lambda t: t.strings("a"), "expects a list of strings, found a string"),
        ("a = [\n'b',\n1]", lambda t: t.strings("a"), "fleet.toml:3: 'a' expects a list of"),
        ("a = ['']", lambda t: t.strings("a"), "found an empty string in it"),
        (
            "a = 'thik'",
            lambda t: t.choice("a", ["thick", "thin"]),
            "'a' is 'thik', expected one of 'thick', 'thin' (did you mean 'thick'?)",
        ),
        ("a = 2026-11-01T00:00:00", lambda t: t.moment("a"), "'a' has no offset"),
        ("a = 2026-11-01", lambda t: t.moment("a"), "found a date or time"),
        ("a = 'x'", lambda t: t.convert("a", int), "'a': invalid literal"),
        ("a = 'x'", lambda t: t.table("a"), "'a' expects a table, found a string"),
        ("a = 'x'", lambda t: t.tables("a"), "expects [[a]] tables, found a string"),
        ("a = [{}, 1]", lambda t: t.tables("a"), "'a' expects tables, found a whole number"),
        ("[a]\nb = 1", lambda t: t.named_tables("a"), "fleet.toml:2: [a]: 'b' expects a table"),
    ],
)
def test_wrong_values(text: str, read: Any, message: str) -> None:
    with pytest.raises(TomlError) as caught:
        read(_document(text).root)
    assert message in str(caught.value)


def test_right_values() -> None:
    table = _document(
        "s = 'x'\ni = 3\nb = false\nl = ['y']\nm = 2026-11-01T00:00:00Z\n[t.one]\nv = 1\n"
    ).root
    assert (table.string("s"), table.integer("i"), table.boolean("b")) == ("x", 3, False)
    assert table.strings("l") == ["y"]
    assert table.moment("m") == datetime(2026, 11, 1, tzinfo=UTC)
    assert table.string("none", None) is None
    assert table.convert("i", lambda value: value + 1) == 4
    assert table.choice("s", ["x"]) == "x"
    tables = table.named_tables("t")
    assert list(tables) == ["one"]
    assert isinstance(tables["one"], Table)
    assert tables["one"].label == "[t.one]"
    assert table.tables("hosts") == []
    assert table.table("missing").data == {}


def test_syntax_errors_name_the_line() -> None:
    with pytest.raises(TomlError, match=r"^fleet\.toml:2: not TOML: "):
        _document("a = 1\nb = \n")
    with pytest.raises(TomlError, match=r"^fleet\.toml:2: not TOML: "):
        _document('a = 1\nb = "open')


def test_a_file_that_cannot_be_read(tmp_path: Any) -> None:
    with pytest.raises(TomlError, match=r"^none\.toml: No such file"):
        load_toml(tmp_path / "none.toml", "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(TomlError, match=r"^wain\.toml:2: bytes that are not UTF-8"):
        load_toml(bad, "wain.toml")


def test_control_characters_in_a_key_are_escaped() -> None:
    with pytest.raises(TomlError) as caught:
        _document('"a\\u001b[31m" = 1').root.only([])
    assert "\x1b" not in str(caught.value)


def test_suggest_keeps_quiet_when_nothing_is_near() -> None:
    assert suggest("zebra", ["address", "name"]) == ""
