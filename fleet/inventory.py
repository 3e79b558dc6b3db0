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

from fleet.duration import Share, parse_duration, parse_rate
from fleet.selector import Selector
from fleet.waves import DEFAULT_WAVES, Limits, WaveRule, check_rules
from images.errors import UsageError
from images.tomlfile import Document, Table, load_toml

_SHARED_KEYS = (
    "root", "python", "user", "port", "key", "known-hosts", "transport", "become", "env-file",
)  # fmt: skip
_HOST_KEYS = ("name", "address", "labels", *_SHARED_KEYS)
_ROLLOUT_KEYS = (
    "waves", "max-failures", "max-unreachable", "parallel", "soak", "on-halt", "health",
    "after-switch", "connect-timeout", "step-timeout", "confirm-timeout", "bandwidth", "keep",
    "pins",
)  # fmt: skip
_SSH_ONLY = ("address", "user", "port", "key", "known-hosts")
ON_HALT = ("revert-wave", "keep", "revert-all")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,99}")
_ADDRESS = re.compile(r"[A-Za-z0-9_\[:][A-Za-z0-9_.:%\[\]-]{0,254}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,99}")

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
class Check:
    """One health check: a command on the host, or a URL asked for from the host.

    ``timeout`` in seconds, None means the step's. A URL is asked again until it answers with
    a status of 200 to 399 or the time is over: a service that was just started needs a moment.
    """

    command: str = ""
    http: str = ""
    timeout: float | None = None

    @property
    def text(self) -> str:
        """How it is shown."""
        return self.command or f"GET {self.http}"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to roll out. Durations in seconds, ``bandwidth`` in bytes a second for each host."""

    waves: tuple[WaveRule, ...] = tuple(WaveRule.parse(text) for text in DEFAULT_WAVES)
    limits: Limits = field(default_factory=Limits)
    parallel: int = 32
    soak: float = 0.0
    on_halt: str = "revert-wave"
    health: tuple[Check, ...] = ()
    after_switch: tuple[str, ...] = ()
    connect_timeout: float = 15.0
    step_timeout: float = 300.0
    confirm_timeout: float = 30.0
    bandwidth: int | None = None
    keep: int = 3
    pins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count. ``signers`` and ``revoked`` are files on this machine."""

    signers: Path | None = None
    revoked: Path | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Inventory:
    """A whole fleet.toml. ``folder`` is where it stands: the project."""

    folder: Path
    hosts: tuple[Host, ...]
    settings: Settings = field(default_factory=Settings)
    trust: Trust = Trust()

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
    settings = _settings(top.table("rollout"), hosts)
    return Inventory(folder, hosts, settings, _trust(top.table("trust"), folder))


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


def _settings(table: Table, hosts: Sequence[Host]) -> Settings:
    table.only(_ROLLOUT_KEYS)
    default = Settings()
    if "waves" in table and (not isinstance(table.data["waves"], list) or not table.data["waves"]):
        raise table.error("waves", '\'waves\' expects a list such as ["label:canary", "100%"]')
    rules = tuple(
        _wave_rule(table, index, item)
        for index, item in enumerate(table.data.get("waves", DEFAULT_WAVES))
    )
    try:
        check_rules(rules, hosts)
    except UsageError as error:
        raise table.error("waves", f"{error.where}: {error.what}", error.hint) from None
    limits = Limits(
        table.convert("max-failures", _at_least_one, default.limits.max_failures),
        table.convert("max-unreachable", Share.parse, default.limits.max_unreachable),
    )
    checks = table.data.get("health", [])
    if not isinstance(checks, list):
        raise table.error("health", "'health' expects a list of commands and { http = \"…\" }")
    return Settings(
        waves=rules,
        limits=limits,
        parallel=_between(table, "parallel", default.parallel, 1, 1024),
        soak=table.convert("soak", parse_duration, default.soak),
        on_halt=table.choice("on-halt", ON_HALT, default.on_halt),
        health=tuple(_check(table, index, item) for index, item in enumerate(checks)),
        after_switch=tuple(table.strings("after-switch", [])),
        connect_timeout=_time(table, "connect-timeout", default.connect_timeout),
        step_timeout=_time(table, "step-timeout", default.step_timeout),
        confirm_timeout=_time(table, "confirm-timeout", default.confirm_timeout),
        bandwidth=table.convert("bandwidth", parse_rate, None),
        keep=_between(table, "keep", default.keep, 1, 1000),
        pins=tuple(table.strings("pins", [])),
    )


def _wave_rule(table: Table, index: int, item: object) -> WaveRule:
    try:
        return WaveRule.parse(item)
    except ValueError as error:
        raise table.error(("waves", index), f"'waves': {error}") from None
    except UsageError as error:
        raise table.error(("waves", index), f"'waves': {error.where}: {error.what}",
                          error.hint) from None  # fmt: skip


def _check(table: Table, index: int, item: object) -> Check:
    where = ("health", index)
    if isinstance(item, str) and item.strip():
        return Check(command=item)
    if not isinstance(item, dict):
        raise table.error(where, "'health' expects a command or { http = \"http://…\" }")
    own = Table(table.document, (*table.path, *where), item)
    own.only(("http", "run", "timeout"))
    if ("http" in own) == ("run" in own):
        raise table.error(where, "'health' expects either 'http' or 'run' in each check")
    url = own.string("http", "")
    if url and not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", url):
        raise table.error(
            where, f"'http' is {url!a}, expected a URL such as http://127.0.0.1:8000/"
        )
    timeout = own.convert("timeout", parse_duration, None)
    if timeout == 0:
        raise own.error("timeout", "'timeout' is 0")
    return Check(own.string("run", ""), url, timeout)


def _trust(table: Table, folder: Path) -> Trust:
    table.only(("signers", "revoked", "required"))
    files = {}
    for key in ("signers", "revoked"):
        name = table.string(key, None)
        files[key] = folder / name if name is not None else None
        if name is not None and not (folder / name).is_file():
            raise table.error(key, f"'{key}': there is no file {name!a} beside fleet.toml")
    required = table.boolean("required", False)
    if required and files["signers"] is None:
        raise table.error("required", "'required' needs 'signers'")
    return Trust(files["signers"], files["revoked"], required)


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


def _at_least_one(value: object) -> Share:
    share = Share.parse(value)
    if share.count == 0 or share.percent == 0:
        raise ValueError("must be at least 1: a roll-out stops when it is reached")
    return share


def _between(table: Table, key: str, default: int, least: int, most: int) -> int:
    value = table.integer(key, default)
    if not least <= value <= most:
        raise table.error(key, f"'{key}' is {value}, expected {least} to {most}")
    return value


def _time(table: Table, key: str, default: float) -> float:
    value = table.convert(key, parse_duration, default)
    if value < 0.1:
        raise table.error(key, f"'{key}' is {value:g} s, expected at least 0.1 s")
    return value
