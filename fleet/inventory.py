"""``fleet.toml``: the hosts, their labels, and how to roll out to them. Pure but for the reading.

A wrong key, type, name or value is a TomlError (exit 2) that names file, line and place; nothing
is contacted before the whole file is right. Values at the top hold for every host unless its own
``[[host]]`` table says otherwise.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet.selector import Selector
from fleet.settings import Check, Settings, Trust, read_settings, read_trust
from images.errors import UsageError
from images.tomlfile import Document, Table, load_toml

_SHARED_KEYS = (
    "root", "python", "user", "port", "key", "known-hosts", "transport", "become", "env-file",
)  # fmt: skip
_HOST_KEYS = ("name", "address", "labels", *_SHARED_KEYS)
_SSH_ONLY = ("address", "user", "port", "key", "known-hosts")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,99}")
_ADDRESS = re.compile(r"[A-Za-z0-9_\[:][A-Za-z0-9_.:%\[\]-]{0,254}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,99}")

__all__ = ["Check", "Host", "Inventory", "Settings", "Trust", "load_inventory", "root_problem"]

# A root is a folder of its own: never one of these, which belong to the system.
_SYSTEM = frozenset(
    [
        "/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/usr",  # noqa: S108
        "/usr/bin", "/usr/include", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/local",
        "/usr/local/bin", "/usr/local/lib", "/usr/local/sbin", "/usr/local/share", "/usr/sbin",
        "/usr/share", "/usr/src", "/var", "/var/cache", "/var/lib", "/var/log", "/var/tmp",  # noqa: S108
    ]
)  # fmt: skip
# Nothing of ours may stand anywhere below these.
_FORBIDDEN = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys",
              "/usr/bin", "/usr/sbin")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Host:
    """One host. ``root`` is absolute; ``key`` and ``known_hosts`` are files on this machine.

    ``python`` is the interpreter releases run on, ``become`` the words before it (``sudo -n``),
    ``env_file`` a file on the host whose values hooks read.
    """

    name: str
    root: str
    python: str
    transport: str = "ssh"
    address: str = ""
    user: str | None = None
    port: int | None = None
    key: str | None = None
    known_hosts: str | None = None
    become: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    env_file: str | None = None

    @property
    def place(self) -> tuple[str, int, str]:
        """Machine and folder: two hosts may not share it."""
        return (self.address, self.port or 22, self.root)


@dataclass(frozen=True, slots=True)
class Inventory:
    """A whole fleet.toml. ``folder`` is where it stands: the project."""

    folder: Path
    hosts: tuple[Host, ...]
    settings: Settings = field(default_factory=Settings)
    trust: Trust = field(default_factory=Trust)

    def select(self, selector: str | None) -> tuple[Host, ...]:
        """The hosts a selector means, all without one. SelectorError when it means none."""
        if not selector:
            return self.hosts
        chosen = Selector.parse(selector)
        chosen.check(self.hosts)
        hosts = tuple(host for host in self.hosts if chosen.matches(host))
        if not hosts:
            raise UsageError(f"selector {selector!a}", "no host is meant by it")
        return hosts


def load_inventory(folder: Path, store: Path | None = None) -> Inventory:
    """Read ``fleet.toml`` in `folder`. Roots of local hosts must stay out of `store`.

    Raises TomlError (exit 2) for anything wrong, and for a file that is not there.
    """
    path = folder / "fleet.toml"
    if not path.is_file():
        raise UsageError(
            str(path), "there is no such file", "it lists the hosts; see docs/fleet.md"
        )
    return parse_inventory(load_toml(path, "fleet.toml"), folder, store)


def parse_inventory(document: Document, folder: Path, store: Path | None = None) -> Inventory:
    """The fleet that a parsed file describes. Raises TomlError."""
    top = document.root
    top.only((*_SHARED_KEYS, "host", "rollout", "trust"))
    tables = top.tables("host")
    if not tables:
        raise top.error((), "there is no [[host]]", 'add one: [[host]] and name = "web1"')
    hosts = tuple(_host(table, top, folder) for table in tables)
    _check_distinct(hosts, tables, top, store)
    settings = read_settings(top.table("rollout"), hosts)
    return Inventory(folder, hosts, settings, read_trust(top.table("trust"), folder))


def root_problem(root: str) -> str:
    """Why a folder may not be a root on a host; empty when it may. Decided without looking."""
    if not root.startswith("/"):
        return "is not absolute"
    if any(not character.isprintable() for character in root):
        return "has a control character"
    if posixpath.normpath(root) != root or root.startswith("//"):
        return f"is not in its simplest form, {posixpath.normpath(root)!a}"
    if root in _SYSTEM:
        return "belongs to the system, expected a folder of its own such as /opt/wain/shop"
    for folder in _FORBIDDEN:
        if root == folder or root.startswith(folder + "/"):
            return f"is in {folder}, which belongs to the system"
    return ""


def _host(table: Table, top: Table, folder: Path) -> Host:
    table.only(_HOST_KEYS)
    name = _matching(table, "name", _NAME, "letters, digits, '.', '_' and '-'")
    assert name is not None

    def owner(key: str) -> Table:
        return table if key in table else top

    transport = owner("transport").choice("transport", ("ssh", "local"), "ssh")
    if transport == "local":
        for key in _SSH_ONLY:
            if key in table:
                raise table.error(key, f"'{key}' means nothing with transport 'local'")
    root = owner("root").string("root", None)
    if root is None:
        raise table.error((), "has no 'root'", "the folder on the host, here or at the top")
    root = root.rstrip("/") or "/"
    problem = root_problem(root)
    if problem:
        raise owner("root").error("root", f"root {root!a} {problem}")
    labels = table.strings("labels", [])
    for index, label in enumerate(labels):
        if not _LABEL.fullmatch(label):
            raise table.error(("labels", index), f"label {label!a} has a character of no label")
    port = owner("port").integer("port", None)
    if port is not None and not 1 <= port <= 65535:
        raise owner("port").error("port", f"'port' is {port}, expected 1 to 65535")
    return Host(
        name=name,
        root=root,
        python=_command(owner("python"), "python", "python3"),
        transport=transport,
        address=(_matching(table, "address", _ADDRESS, "a host name or an address", name) or ""
                 if transport == "ssh" else ""),
        user=_matching(owner("user"), "user", _USER, "a user's name", None),
        port=port,
        key=_file(owner("key"), "key", folder),
        known_hosts=_file(owner("known-hosts"), "known-hosts", folder),
        become=tuple(owner("become").convert("become", _words, ())),
        labels=frozenset(labels),
        env_file=_absolute(owner("env-file"), "env-file"),
    )  # fmt: skip


def _check_distinct(
    hosts: Sequence[Host], tables: Sequence[Table], top: Table, store: Path | None
) -> None:
    """No name twice, no two hosts in one place, no root inside another root or the store."""
    names: dict[str, Host] = {}
    machines: dict[tuple[str, int], dict[str, str]] = {}
    for host, table in zip(hosts, tables, strict=True):
        if host.name in names:
            raise table.error("name", f"the name '{host.name}' stands for two hosts")
        names[host.name] = host
        roots = machines.setdefault(host.place[:2], {})
        if host.root in roots:
            key = "root" if "root" in table or host.transport == "local" else "address"
            raise table.error(
                key, f"is the same machine and root as '{roots[host.root]}' ({host.root})"
            )
        roots[host.root] = host.name
    for roots in machines.values():
        for root, name in roots.items():
            for parent in _parents(root):
                if parent in roots:
                    raise top.error(
                        "host", f"the root of '{name}' is inside the root of '{roots[parent]}'"
                    )
    if store is not None:
        for host, table in zip(hosts, tables, strict=True):
            if host.transport == "local" and _overlap(host.root, str(store)):
                raise table.error("root", f"root {host.root!a} overlaps the store {str(store)!a}")


def _overlap(first: str, second: str) -> bool:
    return first == second or first in _parents(second) or second in _parents(first)


def _parents(path: str) -> list[str]:
    return [str(parent) for parent in Path(path).parents]


def _matching(
    table: Table, key: str, pattern: re.Pattern[str], what: str, *default: str | None
) -> str | None:
    value = table.string(key, *default)
    if value is not None and not pattern.fullmatch(value):
        raise table.error(key, f"'{key}' is {value!a}, expected {what}")
    return value


def _command(table: Table, key: str, default: str) -> str:
    value = table.string(key, default)
    if value.startswith("-") or not value.isprintable() or ("/" in value and value[0] != "/"):
        raise table.error(key, f"'{key}' is {value!a}, expected an absolute path or a command")
    return value


def _file(table: Table, key: str, folder: Path) -> str | None:
    value = table.string(key, None)
    return None if value is None else str(folder / Path(value).expanduser())


def _absolute(table: Table, key: str) -> str | None:
    value = table.string(key, None)
    if value is not None and (not value.startswith("/") or not value.isprintable()):
        raise table.error(key, f"'{key}' is {value!a}, expected an absolute path on the host")
    return value


def _words(value: object) -> list[str]:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected words such as 'sudo -n -u app', found {value!a}")
    return shlex.split(value)
