"""How to roll out, and whom to trust: ``[rollout]`` and ``[trust]`` of fleet.toml. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet.quantity import Share, parse_rate
from fleet.selector import Selectable
from fleet.waves import DEFAULT_WAVES, Limits, WaveRule, check_rules
from images.duration import parse_duration
from images.errors import UsageError
from images.tomlfile import Table

_ROLLOUT_KEYS = (
    "waves", "max-failures", "max-unreachable", "parallel", "soak", "on-halt", "health",
    "after-switch", "connect-timeout", "step-timeout", "confirm-timeout", "bandwidth", "keep",
    "pins",
)  # fmt: skip
ON_HALT = ("revert-wave", "keep", "revert-all")


@dataclass(frozen=True, slots=True)
class Check:
    """One health check: a command on the host, or a URL asked for from the host.

    ``timeout`` in seconds, None means the step's. A URL is asked again until it answers with
    a status of 200 to 299 or the time is over: a service that was just started needs a moment.
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
    """Whose signatures count: ``signers`` is a trust or allowed_signers file on this machine."""

    signers: Path | None = None
    required: bool = False


def read_settings(table: Table, hosts: Sequence[Selectable]) -> Settings:
    """``[rollout]`` as settings for these hosts. Raises TomlError."""
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


def read_trust(table: Table, folder: Path) -> Trust:
    """``[trust]``; its file stands beside fleet.toml. Raises TomlError."""
    table.only(("signers", "required"))
    name = table.string("signers", None)
    if name is not None and not (folder / name).is_file():
        raise table.error("signers", f"'signers': there is no file {name!a} beside fleet.toml")
    required = table.boolean("required", False)
    if required and name is None:
        raise table.error("required", "'required' needs 'signers'")
    return Trust(folder / name if name is not None else None, required)


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
