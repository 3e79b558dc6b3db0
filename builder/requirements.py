"""What was asked for: requirement strings, requirements files and a project's dependencies.

Everything is flattened into one list of lines, each with the place it was written at, so that
both resolvers get the same question and their answers can be told in the user's own places.
Follows pip's requirements file format; what cannot be locked by hash (a folder, a repository, an
editable install) is refused with its line.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from builder.spec import BuildSpec, is_requirement_file
from builder.urls import mask
from images.errors import UsageError
from images.tomlfile import load_toml
from wheelhouse.target import Target

_COMMENT = re.compile(r"(^|\s+)#.*$")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_HASH = re.compile(r"\s--hash[=\s]\s*(\S+)")
_SCHEME = re.compile(r"(git|hg|bzr|svn)\+|https?:|file:", re.IGNORECASE)
_MAX_DEPTH = 20

# Options of a requirements file that take a value and are handed to the resolver as they are.
_FORWARDED = frozenset({"--no-binary", "--only-binary"})
# Options about places: pip's configuration is where those belong, but files have them too.
_PLACES = frozenset({"-i", "--index-url", "--pypi-url", "--extra-index-url", "-f", "--find-links",
                     "--trusted-host"})  # fmt: skip
_FLAGS = frozenset({"--pre", "--prefer-binary", "--no-index", "--require-hashes"})


class Line(NamedTuple):
    """A requirement as written: ``hashes`` are its ``--hash`` values, ``origin`` its place."""

    text: str
    origin: str
    hashes: tuple[str, ...] = ()

    def requirement(self) -> Requirement:
        """The parsed requirement."""
        return Requirement(self.text)

    @property
    def name(self) -> str:
        """The normalised project name."""
        return canonicalize_name(self.requirement().name)


class Inputs(NamedTuple):
    """Everything the user asked for. ``options`` are (option, value) pairs of the files."""

    requirements: tuple[Line, ...]
    constraints: tuple[Line, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    def for_target(self, target: Target) -> tuple[Line, ...]:
        """The requirements whose markers hold. Raises MarkerError for one without an answer."""
        return tuple(
            line
            for line in self.requirements
            if (marker := line.requirement().marker) is None
            or target.evaluate(marker, where=line.origin)
        )

    def places(self, *names: str) -> tuple[str, ...]:
        """The values of these options."""
        return tuple(value for name, value in self.options if name in names)


def read_inputs(spec: BuildSpec) -> Inputs:
    """Read all that a project asks for. Raises UsageError with the place of what is wrong."""
    reader = _Reader(Path(spec.folder))
    for entry in spec.requirements:
        if is_requirement_file(entry):
            reader.file(Path(entry), 0)
        else:
            reader.requirements.append(_line(entry, "wain.toml" if spec.file else "requirements"))
    if spec.project:
        reader.requirements.extend(project_requirements(Path(spec.project)))
    return reader.inputs()


def files_read(spec: BuildSpec) -> list[str]:
    """The requirements files of a project and those they include, sorted."""
    reader = _Reader(Path(spec.folder))
    for entry in spec.requirements:
        if is_requirement_file(entry):
            reader.file(Path(entry), 0)
    given = [spec.given_lock] if spec.given_lock else []
    return sorted({str(path) for path, _ in reader.seen} | set(given))


def inputs_from(requirements: list[str], origin: str) -> Inputs:
    """Requirement strings from one place, such as what builds an sdist."""
    return Inputs(tuple(_line(text, origin) for text in requirements))


class _Reader:
    """Collects the lines of files and of the files they include."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seen: set[tuple[Path, bool]] = set()
        self.requirements: list[Line] = []
        self.constraints: list[Line] = []
        self.options: list[tuple[str, str]] = []

    def inputs(self) -> Inputs:
        return Inputs(tuple(self.requirements), tuple(self.constraints), tuple(self.options))

    def file(self, path: Path, depth: int, *, constraint: bool = False, origin: str = "") -> None:
        shown = _relative(path, self._folder)
        if depth > _MAX_DEPTH:
            raise UsageError(origin or shown, "requirements files include each other endlessly")
        if (path, constraint) in self.seen:
            return
        self.seen.add((path, constraint))
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise UsageError(origin or shown, f"{shown}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UsageError(shown, f"is not UTF-8 at byte {error.start}") from None
        for number, line in _logical_lines(text):
            place = f"{shown}:{number}"
            if line.startswith("-"):
                self._option(line, path, depth, place)
            else:
                found = self.constraints if constraint else self.requirements
                found.append(_line(line, place))

    def _option(self, line: str, path: Path, depth: int, place: str) -> None:
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(place, f"cannot be read: {error}") from None
        option, equals, value = words[0].partition("=")
        if not equals and not option.startswith("--") and len(option) > 2:
            option, value = option[:2], option[2:]
        elif not equals:
            value = " ".join(words[1:])
        if option in ("-r", "--requirement", "-c", "--constraint"):
            included = path.parent / value
            self.file(
                included, depth + 1, constraint=option in ("-c", "--constraint"), origin=place
            )
        elif option in ("-e", "--editable"):
            raise UsageError(
                place,
                f"{mask(line)!a} is a source tree, which has no hash to lock",
                'for this project itself write project = "." in wain.toml',
            )
        elif (option in _FORWARDED or option in _PLACES) and value:
            self.options.append((option, value))
        elif option in _FLAGS:
            self.options.append((option, ""))
        else:
            raise UsageError(place, f"option {option!a} is not known in a requirements file")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(first line number, text) with continuations joined, comments and blanks left out."""
    pending, begun = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        if not pending:
            begun = number
        line = raw
        if line.endswith("\\") and not _COMMENT.match(line):
            pending += line[:-1] + " "
            continue
        whole = _COMMENT.sub("", pending + line).strip()
        pending = ""
        if whole:
            yield begun, _VARIABLE.sub(lambda m: os.environ.get(m[1], m[0]), whole)
    if pending.strip():
        yield begun, pending.strip()


def _line(text: str, origin: str) -> Line:
    hashes = tuple(_HASH.findall(text))
    bare = _HASH.sub("", text).strip()
    try:
        requirement = Requirement(bare)
    except InvalidRequirement as error:
        if _SCHEME.match(bare) or bare.startswith((".", "/")):
            raise _unlockable(bare, origin) from None
        what = str(error).splitlines()[0]
        raise UsageError(origin, f"{mask(bare)!a} is no requirement: {mask(what)}") from None
    if requirement.url:
        raise _unlockable(bare, origin)
    return Line(bare, origin, hashes)


def _unlockable(text: str, origin: str) -> UsageError:
    return UsageError(
        origin,
        f"{mask(text)!a} comes from an address, and a lock names files by hash, not by place",
        "put its wheel or sdist where pip finds it (find-links) and require it by version",
    )


def _relative(path: Path, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return str(path)


def project_requirements(
    folder: Path, prepare: Callable[[Path], list[str]] | None = None
) -> list[Line]:
    """The dependencies of the package in a folder, from its pyproject.toml.

    Where they are dynamic its build backend is asked. Raises UsageError.
    """
    root = load_toml(folder / "pyproject.toml", "pyproject.toml").root
    project = root.table("project")
    if "dependencies" in project.strings("dynamic", []) or not root.data.get("project"):
        strings = (prepare or backend_requirements)(folder)
        return [_line(text, "pyproject.toml (dynamic)") for text in strings]
    lines = []
    for index, text in enumerate(project.strings("dependencies", [])):
        place = root.document.line(("project", "dependencies", index))
        lines.append(_line(text, f"pyproject.toml:{place}"))
    return lines


def project_name(folder: Path) -> str:
    """The normalised name of the package in a folder. Raises UsageError."""
    document = load_toml(folder / "pyproject.toml", "pyproject.toml")
    if "project" not in document.data:
        raise UsageError("pyproject.toml", "has no [project] table, so the package has no name")
    return canonicalize_name(document.root.table("project").string("name"))


def project_python(folder: Path) -> SpecifierSet:
    """The Python versions the package in a folder says it runs on."""
    project = load_toml(folder / "pyproject.toml", "pyproject.toml").root.table("project")
    text = project.string("requires-python", "")
    try:
        return SpecifierSet(text)
    except InvalidSpecifier:
        raise project.error("requires-python", f"{text!a} is no version specifier") from None


def backend_requirements(folder: Path) -> list[str]:
    """What the build backend of a folder says the package depends on."""
    from build import BuildBackendException, BuildException
    from build.util import project_wheel_metadata

    try:
        metadata = project_wheel_metadata(folder, isolated=True)
    except (BuildException, BuildBackendException, OSError) as error:
        line = " ".join(str(error).split())
        raise UsageError(
            "pyproject.toml", f"its backend did not say what it depends on: {mask(line)}"
        ) from None
    return list(metadata.get_all("Requires-Dist") or [])
