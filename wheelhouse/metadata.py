"""The files of a ``.dist-info`` folder: METADATA, WHEEL, entry_points.txt (W9, W10)."""

from __future__ import annotations

import configparser
import email.parser
import email.policy
import re
from dataclasses import dataclass
from email.message import Message

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, parse_tag
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from wheelhouse.text import shown
from wheelhouse.zipcheck import Refused

SCRIPT_GROUPS = ("console_scripts", "gui_scripts")
_REFERENCE = re.compile(
    r"[^\W\d]\w*(?:\.[^\W\d]\w*)*\s*:\s*[^\W\d]\w*(?:\.[^\W\d]\w*)*\s*(?:\[[^\[\]]*\])?"
)
_INTERPRETER = re.compile(r"pythonw?\d*(?:\.\d+)*t?d?(?:\.exe)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is read of METADATA or PKG-INFO: the parts that decide what is installed where."""

    name: str
    version: Version
    requires_python: str | None
    requires_dist: tuple[str, ...]


def parse_metadata(data: bytes, what: str = "METADATA") -> Metadata:
    """Core metadata as far as an installer needs it. Raises :class:`Refused` (W9)."""
    headers = _headers(data, what)
    _one(headers, "Metadata-Version", what)
    name = _one(headers, "Name", what)
    version_text = _one(headers, "Version", what)
    try:
        canonicalize_name(name, validate=True)
        version = Version(version_text)
    except (ValueError, InvalidVersion):
        raise Refused(
            "W9", f"{what} has name {shown(name)} and version {shown(version_text)}"
        ) from None
    requires_python = _optional(headers, "Requires-Python", what)
    if requires_python is not None:
        try:
            SpecifierSet(requires_python)
        except InvalidSpecifier:
            raise Refused("W9", f"{what} has Requires-Python {shown(requires_python)}") from None
    requires = tuple(str(value) for value in headers.get_all("Requires-Dist", []))
    for line in requires:
        try:
            Requirement(line)
        except InvalidRequirement:
            raise Refused("W9", f"{what} has Requires-Dist {shown(line)}") from None
    return Metadata(name, version, requires_python, requires)


@dataclass(frozen=True, slots=True)
class WheelFile:
    """What WHEEL says: the tags, expanded, and the build tag where it gives one."""

    tags: frozenset[Tag]
    build: str | None
    purelib: bool


def parse_wheel_file(data: bytes) -> WheelFile:
    """The WHEEL file. Raises :class:`Refused` (W9)."""
    headers = _headers(data, "WHEEL")
    version = _one(headers, "Wheel-Version", "WHEEL")
    if re.fullmatch(r"1\.\d{1,4}", version) is None:
        raise Refused("W9", f"WHEEL has Wheel-Version {shown(version)}, expected 1.x")
    purelib = _one(headers, "Root-Is-Purelib", "WHEEL").lower()
    if purelib not in ("true", "false"):
        raise Refused("W9", f"WHEEL has Root-Is-Purelib {shown(purelib)}, expected true or false")
    tags: set[Tag] = set()
    for line in headers.get_all("Tag", []):
        try:
            tags |= parse_tag(str(line).strip())
        except ValueError:
            raise Refused("W9", f"WHEEL has Tag {shown(line)}") from None
    if not tags:
        raise Refused("W9", "WHEEL has no Tag")
    return WheelFile(frozenset(tags), _optional(headers, "Build", "WHEEL"), purelib == "true")


def parse_entry_points(data: bytes) -> tuple[str, ...]:
    """The names of the scripts an installer makes, sorted. Raises :class:`Refused` (W10)."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Refused("W10", f"entry_points.txt is not UTF-8 at byte {error.start}") from None
    parser = configparser.ConfigParser(
        delimiters=("=",), strict=False, interpolation=None, default_section="\n"
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise Refused("W10", f"entry_points.txt: {shown(str(error).splitlines()[0])}") from None
    names: dict[str, str] = {}
    for group in SCRIPT_GROUPS:
        if not parser.has_section(group):
            continue
        for name, value in parser.items(group):
            _check_script(group, name, value)
            if name in names:
                raise Refused(
                    "W10", f"script {shown(name)} is in both {' and '.join(SCRIPT_GROUPS)}"
                )
            names[name] = value
    return tuple(sorted(names))


def _check_script(group: str, name: str, value: str) -> None:
    if script_name_problem(name):
        raise Refused("W10", f"{group} has the name {shown(name)}, which is no script's name")
    if _REFERENCE.fullmatch(value) is None:
        raise Refused(
            "W10", f"{group} {shown(name)} refers to {shown(value)}, expected module:object"
        )


def script_name_problem(name: str) -> bool:
    """Whether a file of this name in ``bin`` would escape it or stand in for Python."""
    return (
        not name
        or name in (".", "..")
        or name != name.strip()
        or len(name.encode()) > 255
        or re.search(r"[/\\\x00-\x1f\x7f]", name) is not None
        or _INTERPRETER.fullmatch(name) is not None
    )


def _headers(data: bytes, what: str) -> Message:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Refused("W9", f"{what} is not UTF-8 at byte {error.start}") from None
    return email.parser.HeaderParser(policy=email.policy.compat32).parsestr(text)


def _one(headers: Message, key: str, what: str) -> str:
    values = headers.get_all(key, [])
    if len(values) != 1:
        raise Refused("W9", f"{what} has {len(values)} fields {key}, expected one")
    return str(values[0]).strip()


def _optional(headers: Message, key: str, what: str) -> str | None:
    values = headers.get_all(key, [])
    if len(values) > 1:
        raise Refused("W9", f"{what} has {len(values)} fields {key}, expected one at most")
    return str(values[0]).strip() if values else None
