"""What a project wants built: wain.toml, or what a folder without one implies.

Reading is pure but for opening the files; nothing is resolved or contacted. Every wrong key,
type, name or value is one error with its line (exit 2). Commands with nothing to do read this
too, so it imports neither packaging nor pathlib.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from images.duration import parse_duration
from images.errors import UsageError
from images.tomlfile import Table, load_toml

if TYPE_CHECKING:
    from datetime import datetime

    from wheelhouse.target import Target

FILE = "wain.toml"
LOCKS = "locks"
WHEELHOUSE = ".wain/wheelhouse"
# How long everything that builds one sdist may take. Seconds.
BUILD_TIMEOUT = 3600.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# A target's name is part of a lock's file name, where PEP 751 allows no dot.
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PYTHON = re.compile(r"3\.[0-9]{1,2}t?")
_PATTERN = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9._*?-]*")
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_PYLOCK = re.compile(r"pylock(\.[^.]+)?\.toml")
_REQUIREMENTS_FILE = re.compile(r".*\.(txt|in|pip)")


class TargetSpec(NamedTuple):
    """A target as written; an empty field means the running interpreter's or machine's."""

    name: str
    python: str = ""
    platform: str = ""
    where: str = ""

    def target(self) -> Target:
        """The full target. Raises UsageError for a platform that is none."""
        from wheelhouse.errors import UsageError as TargetError
        from wheelhouse.target import Target

        try:
            running = Target.running(self.name)
            python = self.python or running.python
            same = python == running.python
            return Target(
                self.name,
                python,
                self.platform or running.platform,
                running.python_full_version if same else "",
            )
        except TargetError as error:
            where = f"{self.where}: {error.where}" if self.where else error.where
            raise UsageError(where, error.what, error.hint) from None


class IndexSpec(NamedTuple):
    """A package index. ``projects``: glob patterns of the names it alone serves; empty: any."""

    name: str
    url: str
    projects: tuple[str, ...] = ()
    where: str = ""


class BuildSpec(NamedTuple):
    """One project's wishes. Paths are absolute; ``file`` is empty without a wain.toml.

    ``requirements`` are files (absolute paths) and requirement strings, as `requirement_file`
    tells apart; ``given_lock`` is a pylock.toml of another tool that decides instead of a
    resolver. ``project`` is the folder of the package that goes into the image itself.
    ``build_timeout`` is in seconds, for everything that builds one sdist.
    """

    folder: str
    file: str
    name: str
    targets: tuple[TargetSpec, ...]
    requirements: tuple[str, ...] = ()
    given_lock: str = ""
    project: str = ""
    resolver: str = "pip"
    exclude_newer: datetime | None = None
    wheelhouse: str = ""
    indexes: tuple[IndexSpec, ...] = ()
    from_source: tuple[str, ...] = ()
    build_timeout: float = BUILD_TIMEOUT
    bytecode: bool = True
    prune: tuple[str, ...] = ()
    env_path: str = ""
    env_mode: str = "thick"
    editable: bool = True

    @property
    def locks(self) -> str:
        """The folder of the locks."""
        return os.path.join(self.folder, LOCKS)

    def lock_path(self, target: str) -> str:
        """Where the lock of a target lives."""
        return os.path.join(self.locks, f"pylock.{target}.toml")

    def build_lock_path(self, package: str) -> str:
        """Where the build lock of a package lives (its normalised name)."""
        return os.path.join(self.locks, f"pylock.build-{package}.toml")

    def chosen_targets(self, names: list[str] | None) -> tuple[TargetSpec, ...]:
        """The targets of these names, all without. Raises UsageError for an unknown one."""
        if not names:
            return self.targets
        known = {target.name: target for target in self.targets}
        for name in names:
            if name not in known:
                from images.tomlfile import suggest

                hint = suggest(name, known) or f"there are: {', '.join(known)}"
                raise UsageError("--target", f"no target is named {name!a}", hint)
        return tuple(known[name] for name in dict.fromkeys(names))


def is_requirement_file(entry: str) -> bool:
    """Whether an entry of ``requirements`` names a file rather than a package."""
    if _REQUIREMENTS_FILE.fullmatch(entry) or _PYLOCK.fullmatch(os.path.basename(entry)):
        return "@" not in entry and ";" not in entry
    return entry.startswith(("./", "../", "/"))


def load_spec(folder: str | os.PathLike[str] = ".") -> BuildSpec:
    """Read a folder's wain.toml, or work from its requirements.txt, pylock.toml or pyproject.toml.

    Raises UsageError (exit 2) for anything wrong, and when the folder has none of them.
    """
    base = os.path.abspath(os.fspath(folder))
    path = os.path.join(base, FILE)
    if os.path.lexists(path):
        return _read(base, path)
    return implied_spec(base)


def implied_spec(base: str) -> BuildSpec:
    """What an absolute folder without a wain.toml asks for: one target, ``default``."""
    has = {
        name: os.path.isfile(os.path.join(base, name))
        for name in ("requirements.txt", "pylock.toml", "pyproject.toml")
    }
    requirements: tuple[str, ...] = ()
    given_lock = ""
    if has["requirements.txt"]:
        requirements = (os.path.join(base, "requirements.txt"),)
    elif has["pylock.toml"]:
        given_lock = os.path.join(base, "pylock.toml")
    project = base if has["pyproject.toml"] and _is_package(base) else ""
    if not (requirements or given_lock or project):
        raise UsageError(
            base,
            "there is no wain.toml here, and no requirements.txt, pylock.toml or pyproject.toml "
            "with a [project] to work from",
            "start with a requirements.txt, or name the folder with -C",
        )
    return BuildSpec(
        folder=base,
        file="",
        name=_folder_name(base),
        targets=(TargetSpec("default"),),
        requirements=requirements,
        given_lock=given_lock,
        project=project,
        wheelhouse=os.path.join(base, WHEELHOUSE),
        env_path=os.path.join(base, ".venv"),
    )


def _is_package(base: str) -> bool:
    document = load_toml(os.path.join(base, "pyproject.toml"), "pyproject.toml")
    return isinstance(document.data.get("project"), dict)


def _folder_name(base: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(base)).strip("-._")
    return name or "image"


def _read(base: str, path: str) -> BuildSpec:
    root = load_toml(path, FILE).root
    root.only(
        (
            "name", "requirements", "project", "resolver", "exclude-newer", "wheelhouse",
            "targets", "index", "build", "image", "env",
        )
    )  # fmt: skip
    build, image, env = root.table("build"), root.table("image"), root.table("env")
    build.only(("from-source", "timeout"))
    image.only(("bytecode", "prune"))
    env.only(("path", "mode", "editable"))
    requirements, given_lock = _requirements(root, base)
    project = _project(root, base)
    spec = BuildSpec(
        folder=base,
        file=path,
        name=_matched(root, "name", _NAME, "letters, digits, '.', '_' and '-'")
        or _folder_name(base),
        targets=_targets(root),
        requirements=requirements,
        given_lock=given_lock,
        project=project,
        resolver=root.choice("resolver", ("pip", "uv"), "pip"),
        exclude_newer=root.moment("exclude-newer", None),
        wheelhouse=_path(base, root.string("wheelhouse", WHEELHOUSE)),
        indexes=_indexes(root, base),
        from_source=_packages(build, "from-source"),
        build_timeout=_timeout(build),
        bytecode=image.boolean("bytecode", True),
        prune=_prune(image),
        env_path=_path(base, env.string("path", ".venv")),
        env_mode=env.choice("mode", ("thick", "thin"), "thick"),
        editable=env.boolean("editable", True),
    )
    # Last, so that a wrong key is what one hears of first.
    if not (requirements or given_lock or project):
        raise root.error(
            "requirements", "nothing to lock: neither 'requirements' nor 'project' is given"
        )
    return spec


def _path(base: str, value: str) -> str:
    return os.path.normpath(os.path.join(base, value))


def _matched(table: Table, key: str, pattern: re.Pattern[str], expected: str) -> str:
    value = table.string(key, "")
    if value and not pattern.fullmatch(value):
        raise table.error(key, f"'{key}' is {value!a}, expected {expected}")
    return value


def _requirements(root: Table, base: str) -> tuple[tuple[str, ...], str]:
    """The entries with files made absolute, and the lock of another tool if one is named."""
    entries, given_lock = [], ""
    for index, entry in enumerate(root.strings("requirements", [])):
        if not is_requirement_file(entry):
            entries.append(entry)
            continue
        path = _path(base, entry)
        if not os.path.isfile(path):
            raise root.error(("requirements", index), f"there is no file {entry!a}")
        if _PYLOCK.fullmatch(os.path.basename(path)):
            given_lock = path
        else:
            entries.append(path)
    if given_lock and entries:
        raise root.error("requirements", "a pylock.toml stands alone: it decides everything")
    return tuple(entries), given_lock


def _project(root: Table, base: str) -> str:
    value = root.string("project", "")
    if not value:
        return ""
    folder = _path(base, value)
    if not os.path.isfile(os.path.join(folder, "pyproject.toml")):
        raise root.error("project", f"there is no pyproject.toml in {value!a}")
    return folder


def _targets(root: Table) -> tuple[TargetSpec, ...]:
    found = []
    for name, table in root.named_tables("targets").items():
        table.only(("python", "platform"))
        if not _TARGET.fullmatch(name):
            raise table.error((), "a target's name is letters, digits, '_' and '-'")
        if name.startswith("build-"):
            raise table.error((), "a target's name cannot begin with 'build-': build locks do")
        python = _matched(table, "python", _PYTHON, "a minor version such as '3.12'")
        where = f"{FILE}:{table.document.line(table.path)}"
        found.append(TargetSpec(name, python, table.string("platform", ""), where))
    return tuple(found) or (TargetSpec("default"),)


def _indexes(root: Table, base: str) -> tuple[IndexSpec, ...]:
    found: list[IndexSpec] = []
    for table in root.tables("index"):
        table.only(("name", "url", "projects"))
        name = table.string("name")
        if any(index.name == name for index in found):
            raise table.error("name", f"two indexes are named {name!a}")
        url = table.string("url")
        if not _SCHEME.match(url):
            url = "file://" + _path(base, url)
        elif not url.lower().startswith(("https://", "http://", "file:/")):
            raise table.error("url", "'url' is no http, https or file address, and no folder")
        for position, pattern in enumerate(table.strings("projects", [])):
            if not _PATTERN.fullmatch(pattern):
                raise table.error(
                    ("projects", position),
                    f"{pattern!a} is no project name or pattern such as 'shop-*'",
                )
        where = f"{FILE}:{table.document.line(table.path)}"
        found.append(IndexSpec(name, url, tuple(table.strings("projects", [])), where))
    return tuple(found)


def _packages(table: Table, key: str) -> tuple[str, ...]:
    names = table.strings(key, [])
    for position, name in enumerate(names):
        if not _PACKAGE.fullmatch(name):
            raise table.error((key, position), f"{name!a} is no package name")
    return tuple(re.sub(r"[-_.]+", "-", name).lower() for name in names)


def _timeout(build: Table) -> float:
    seconds = build.convert("timeout", parse_duration, BUILD_TIMEOUT)
    if seconds < 1:
        raise build.error("timeout", f"'timeout' is {seconds:g} s, expected at least 1 s")
    return seconds


def _prune(image: Table) -> tuple[str, ...]:
    patterns = image.strings("prune", [])
    for position, pattern in enumerate(patterns):
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise image.error(
                ("prune", position), f"{pattern!a} leaves the image, expected a path inside"
            )
    return tuple(patterns)
