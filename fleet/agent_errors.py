"""A refusal by the agent, as data. Travels to hosts."""

from __future__ import annotations

from images.errors import WainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEX = frozenset("0123456789abcdef")
_KINDS = {
    "ManifestError": "manifest",
    "ObjectError": "object",
    "SuspectError": "object",
    "LockedError": "locked",
    "SignatureError": "signature",
}


class AgentError(WainError):
    """``kind`` as in fleet/errors.py, ``what`` for a person, ``data`` for the controller."""

    def __init__(self, kind: str, what: str, hint: str = "", **data: Any) -> None:
        self.kind = kind
        self.data = data
        super().__init__("", what, hint)

    def as_answer(self) -> dict[str, Any]:
        """The error as it crosses the line."""
        return {"kind": self.kind, "what": self.what, "hint": self.hint, "data": self.data}


def answer_of(error: WainError) -> dict[str, Any]:
    """Any error of ours as it crosses the line."""
    if isinstance(error, AgentError):
        return error.as_answer()
    what, cause = str(error), error.__context__
    if isinstance(cause, OSError) and cause.errno in (1, 13):  # not permitted, denied
        import os

        what += f" (as uid {os.geteuid()})"
    return {"kind": _KINDS.get(type(error).__name__, "io"), "what": what, "hint": ""}


def image_id(request: dict[str, Any], name: str = "id") -> str:
    """An image id out of a request: it becomes part of a path. Raises AgentError."""
    value = request.get(name)
    if not is_image_id(value):
        raise AgentError("usage", f"{name}: expected an image id, found {str(value)[:70]!a}")
    return str(value)


def is_image_id(value: Any) -> bool:
    """Whether it is 64 lower-case hex digits."""
    return isinstance(value, str) and len(value) == 64 and _HEX.issuperset(value)


def running() -> tuple[str, str]:
    """This interpreter's minor version and ABI: 3.11, cp311."""
    import sys

    major, minor = sys.version_info[:2]
    return f"{major}.{minor}", f"cp{major}{minor}{getattr(sys, 'abiflags', '')}"


def number(request: dict[str, Any], name: str, default: float | None = None) -> float:
    """A finite number that is not negative. Raises AgentError."""
    value = request.get(name, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e12:
        raise AgentError("usage", f"{name}: expected a number, found {str(value)[:40]!a}")
    return value


def text(request: dict[str, Any], name: str, default: str = "") -> str:
    """A string. Raises AgentError."""
    value = request.get(name, default)
    if not isinstance(value, str):
        raise AgentError("usage", f"{name}: expected text, found {str(value)[:40]!a}")
    return value


def texts(request: dict[str, Any], name: str) -> list[str]:
    """A list of strings. Raises AgentError."""
    value = request.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise AgentError("usage", f"{name}: expected a list of texts")
    return value
