"""JSON without the `json` package, whose import costs an agent's whole start again.

Travels to hosts. The accelerator the package is built on is used where the interpreter has
it; results equal the package's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    from _json import encode_basestring_ascii as _quote
    from _json import make_scanner as _make_scanner
except ImportError:  # another Python than CPython
    _make_scanner = None  # type: ignore[assignment,misc,unused-ignore]


class _Context:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012 - the accelerator's own scratch space

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"{name} is no JSON")


def loads(data: bytes) -> Any:
    """Parse one JSON text. Raises ValueError."""
    text = data.decode("utf-8").strip(" \t\r\n")
    if _make_scanner is None:
        import json

        return json.loads(text)
    try:
        value, end = _make_scanner(_Context())(text, 0)  # type: ignore[arg-type]
    except (StopIteration, SystemError):
        # The accelerator finds no exception to raise while the package is not loaded.
        raise ValueError("this is no JSON") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if end != len(text):
        raise ValueError(f"more than one JSON text: offset {end}")
    return value


def dumps(value: Any) -> bytes:
    """Compact ASCII JSON of dicts with str keys, lists, tuples, str, int, float, bool, None."""
    if _make_scanner is None:
        import json

        return json.dumps(value, separators=(",", ":")).encode()
    parts: list[str] = []
    _write(value, parts.append)
    return "".join(parts).encode("ascii")


def _write(value: Any, out: Any) -> None:
    if value is None:
        out("null")
    elif value is True:
        out("true")
    elif value is False:
        out("false")
    elif isinstance(value, str):
        out(_quote(value))
    elif isinstance(value, (int, float)):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError("no JSON for a number that is none")
        out(repr(value))
    elif isinstance(value, dict):
        separator = "{"
        for name, item in value.items():
            out(separator + _quote(name) + ":")
            _write(item, out)
            separator = ","
        out("}" if value else "{}")
    elif isinstance(value, (list, tuple)):
        separator = "["
        for item in value:
            out(separator)
            _write(item, out)
            separator = ","
        out("]" if value else "[]")
    else:
        raise TypeError(f"no JSON for {type(value).__name__}")
