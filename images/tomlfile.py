"""TOML files that people write: values with the place they stand at, and errors that name it.

``tomllib`` reads; only when an error is to be shown does a second pass over the text find the
line of a key, so a right file costs nothing more. Every error is a TomlError (exit 2) such as
``fleet.toml:14: [[host]] web1: unknown key 'adress' (did you mean 'address'?)``.
"""

from __future__ import annotations

import re
import tomllib
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from images.errors import UsageError
from images.tomllines import find_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

KeyPath = tuple[str | int, ...]
Default = TypeVar("Default")
Value = TypeVar("Value")

_REQUIRED: Any = object()
_SYNTAX_PLACE = re.compile(r"^(.*) \(at line (\d+), column \d+\)$")


class TomlError(UsageError):
    """A file that is wrong at a line. ``line`` counts from 1; 0 when there is none."""

    def __init__(self, name: str, line: int, what: str, hint: str = "") -> None:
        self.line = line
        super().__init__(f"{name}:{line}" if line else name, what, hint)


class Document:
    """A parsed file: ``name`` as errors show it, ``data``, and the line of any key path."""

    def __init__(self, name: str, text: str, data: dict[str, Any]) -> None:
        self.name = name
        self.data = data
        self._text = text
        self._lines: Mapping[KeyPath, int] | None = None

    def line(self, path: KeyPath) -> int:
        """The line (from 1) where a key path such as ("targets", "prod", "python") stands.

        Array elements are named by their index. Of an unknown path, the nearest known parent.
        """
        if self._lines is None:
            self._lines = find_lines(self._text)
        while path:
            found = self._lines.get(path)
            if found:
                return found
            path = path[:-1]
        return 1

    def error(self, path: KeyPath, what: str, hint: str = "") -> TomlError:
        """The error to raise for what stands at a key path."""
        return TomlError(self.name, self.line(path), what, hint)

    @property
    def root(self) -> Table:
        """The whole file as a table."""
        return Table(self, (), self.data)


class Table:
    """One table of a document, read key by key with checks.

    Readers raise TomlError for a value of another type, and for a missing key unless a
    default is given.
    """

    def __init__(self, document: Document, path: KeyPath, data: dict[str, Any]) -> None:
        self.document = document
        self.path = path
        self.data = data

    @property
    def label(self) -> str:
        """How errors call it: ``[targets.prod]``, ``[[host]] web1``; empty for the top."""
        names = [part for part in self.path if isinstance(part, str)]
        if not names:
            return ""
        dotted = ".".join(names)
        if isinstance(self.path[-1], str):
            return f"[{dotted}]"
        name = self.data.get("name")
        return f"[[{dotted}]] {_shown(name)}" if isinstance(name, str) else f"[[{dotted}]]"

    def error(self, key: str | KeyPath, what: str, hint: str = "") -> TomlError:
        """The error to raise for a key of this table (or for a path below it)."""
        below = (key,) if isinstance(key, str) else key
        text = f"{self.label}: {what}" if self.path else what
        return self.document.error(self.path + below, text, hint)

    def only(self, known: Iterable[str]) -> None:
        """Refuse keys that are not among these, the first one in the file first."""
        names = list(known)
        unknown = [key for key in self.data if key not in names]
        if unknown:
            key = min(unknown, key=lambda key: self.document.line((*self.path, key)))
            raise self.error(key, f"unknown key '{_shown(key)}'", suggest(key, names))

    def __contains__(self, key: str) -> bool:
        return key in self.data

    @overload
    def string(self, key: str) -> str: ...
    @overload
    def string(self, key: str, default: Default) -> str | Default: ...
    def string(self, key: str, default: Any = _REQUIRED) -> Any:
        """A string that is not empty."""
        value = self._get(key, str, "a string", default)
        if value == "" and value is not default:
            raise self.error(key, f"'{key}' is empty")
        return value

    @overload
    def integer(self, key: str) -> int: ...
    @overload
    def integer(self, key: str, default: Default) -> int | Default: ...
    def integer(self, key: str, default: Any = _REQUIRED) -> Any:
        """A whole number."""
        return self._get(key, int, "a whole number", default)

    @overload
    def boolean(self, key: str) -> bool: ...
    @overload
    def boolean(self, key: str, default: Default) -> bool | Default: ...
    def boolean(self, key: str, default: Any = _REQUIRED) -> Any:
        """``true`` or ``false``."""
        return self._get(key, bool, "true or false", default)

    @overload
    def moment(self, key: str) -> datetime: ...
    @overload
    def moment(self, key: str, default: Default) -> datetime | Default: ...
    def moment(self, key: str, default: Any = _REQUIRED) -> Any:
        """A date and time with its offset from UTC."""
        value = self._get(key, datetime, "a date and time", default)
        if isinstance(value, datetime) and value.tzinfo is None:
            raise self.error(key, f"'{key}' has no offset", f"write {value.isoformat()}Z")
        return value

    @overload
    def choice(self, key: str, values: Iterable[str]) -> str: ...
    @overload
    def choice(self, key: str, values: Iterable[str], default: Default) -> str | Default: ...
    def choice(self, key: str, values: Iterable[str], default: Any = _REQUIRED) -> Any:
        """One of these strings."""
        names = list(values)
        value = self._get(key, str, "a string", default)
        if value is not default and value not in names:
            known = ", ".join(f"'{name}'" for name in names)
            what = f"'{key}' is '{_shown(value)}', expected one of {known}"
            raise self.error(key, what, suggest(value, names))
        return value

    @overload
    def strings(self, key: str) -> list[str]: ...
    @overload
    def strings(self, key: str, default: Default) -> list[str] | Default: ...
    def strings(self, key: str, default: Any = _REQUIRED) -> Any:
        """A list of strings that are not empty."""
        value = self._get(key, list, "a list of strings", default)
        if value is not default:
            for index, item in enumerate(value):
                if not isinstance(item, str) or not item:
                    found = "an empty string" if item == "" else _kind(item)
                    raise self.error(
                        (key, index), f"'{key}' expects a list of strings, found {found} in it"
                    )
        return value

    @overload
    def convert(self, key: str, function: Callable[[Any], Value]) -> Value: ...
    @overload
    def convert(
        self, key: str, function: Callable[[Any], Value], default: Default
    ) -> Value | Default: ...
    def convert(self, key: str, function: Callable[[Any], Any], default: Any = _REQUIRED) -> Any:
        """Any value through a function; its ValueError becomes the error of this key."""
        if key not in self.data:
            return self._get(key, object, "", default)
        try:
            return function(self.data[key])
        except ValueError as error:
            raise self.error(key, f"'{key}': {error}") from None

    def table(self, key: str) -> Table:
        """The table below this key; an empty one when the key is missing."""
        value = self._get(key, dict, "a table", {})
        return Table(self.document, (*self.path, key), value)

    def named_tables(self, key: str) -> dict[str, Table]:
        """The tables below this key by name, as ``[targets.prod]`` makes them."""
        parent = self.table(key)
        for name in parent.data:
            parent._get(name, dict, "a table", _REQUIRED)
        return {name: parent.table(name) for name in parent.data}

    def tables(self, key: str) -> list[Table]:
        """The elements of an array of tables, ``[[key]]``; none when the key is missing."""
        found: list[Table] = []
        for index, item in enumerate(self._get(key, list, f"[[{key}]] tables", [])):
            if not isinstance(item, dict):
                raise self.error((key, index), f"'{key}' expects tables, found {_kind(item)}")
            found.append(Table(self.document, (*self.path, key, index), item))
        return found

    def _get(self, key: str, kind: type, name: str, default: Any) -> Any:
        if key not in self.data:
            if default is _REQUIRED:
                raise self.error((), f"missing key '{key}'")
            return default
        value = self.data[key]
        # A bool is an int to Python, not to a reader.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise self.error(key, f"'{key}' expects {name}, found {_kind(value)}")
        return value


def load_toml(path: str | Path, name: str = "") -> Document:
    """Read a file. ``name`` is what errors call it; default: the path as given.

    Raises TomlError for a file that cannot be read, is not UTF-8 or is not TOML.
    """
    shown = name or str(path)
    try:
        # pathlib would cost a command that has nothing to do a tenth of its time.
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise TomlError(shown, 0, error.strerror or str(error)) from None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TomlError(shown, line, "bytes that are not UTF-8") from None
    return parse_toml(text, shown)


def parse_toml(text: str, name: str) -> Document:
    """Read a text. Raises TomlError when it is not TOML."""
    try:
        return Document(name, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        place = _SYNTAX_PLACE.match(str(error))
        if place:
            raise TomlError(name, int(place[2]), f"not TOML: {place[1]}") from None
        line = text.rstrip().count("\n") + 1
        what = str(error).removesuffix(" (at end of document)")
        raise TomlError(name, line, f"not TOML: {what}") from None


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint ``did you mean 'x'?`` when one of the known words is near; else an empty text."""
    import difflib

    near = difflib.get_close_matches(word.lower(), list(known), 1, 0.6)
    return f"did you mean '{near[0]}'?" if near else ""


def _kind(value: object) -> str:
    names = {bool: "true or false", str: "a string", int: "a whole number", float: "a number"}
    return names.get(type(value)) or (
        "a list"
        if isinstance(value, list)
        else "a table" if isinstance(value, dict) else "a date or time"
    )  # fmt: skip


def _shown(text: str) -> str:
    return ascii(text[:100])[1:-1] if not text.isprintable() else text[:100]
