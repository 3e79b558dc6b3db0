"""What pip is configured with: the same files, sections and variables pip itself reads.

Indexes, find-links, certificates, proxies and time-outs are set up once, for pip. wain reads
them where pip reads them (``pip config debug`` lists the places) and hands them to uv and to
its own fetcher. Reading takes milliseconds where asking ``pip config list`` takes a third of a
second; a test holds the two equal.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.urls import file_url, mask
from images.errors import UsageError

_BASENAME = "pip.ini" if os.name == "nt" else "pip.conf"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_DEFAULT_TIMEOUT = 15.0
_DEFAULT_RETRIES = 5
# Later wins, and PIP_* variables win over both. wain's pip runs `pip install --dry-run`, so
# that section counts.
_SECTIONS = ("global", "install")
_TRUE = {"1", "true", "yes", "on", "y", "t"}


@dataclass(frozen=True, slots=True)
class PipSettings:
    """pip's settings that say where files come from. Addresses may hold credentials.

    ``index_url`` is empty when pip's built-in default holds (see `default_index`); ``timeout``
    is in seconds.
    """

    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    cert: str = ""
    client_cert: str = ""
    proxy: str = ""
    trusted_hosts: tuple[str, ...] = ()
    timeout: float = _DEFAULT_TIMEOUT
    retries: int = _DEFAULT_RETRIES
    keyring: str = "auto"

    def secrets(self) -> tuple[str, ...]:
        """Every address that may hold a password."""
        return (self.index_url, *self.extra_index_urls, *self.find_links, self.proxy)


class _Parser(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return _option(optionstr)


def read_settings(environ: Mapping[str, str] | None = None) -> PipSettings:
    """pip's settings now. Raises UsageError for a file pip could not read either."""
    return _settings(read_values(environ))


def read_values(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Every option pip's files and variables set, by its long name. Raises UsageError."""
    environment = os.environ if environ is None else environ
    layers: dict[str, dict[str, str]] = {section: {} for section in (*_SECTIONS, "env")}
    for path in config_files(environment):
        _read(layers, path)
    layers["env"] = {
        _option(name[4:]): value
        for name, value in environment.items()
        if name.startswith("PIP_") and value
    }
    merged: dict[str, str] = {}
    for layer in layers.values():
        # An empty value takes back what an earlier file said in the same section, no more.
        merged.update({name: value for name, value in layer.items() if value})
    return merged


def config_files(environ: Mapping[str, str]) -> list[Path]:
    """The files pip reads, those that win last. They need not exist.

    With ``PIP_CONFIG_FILE`` the user's own are left out; with the null device, all are.
    """
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    home = Path(environ.get("HOME") or Path.home())
    if sys.platform == "darwin":
        shared = [Path("/Library/Application Support/pip")]
        personal = [home / ".pip", _mac_user(home)]
    else:
        folders = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
        shared = [*(Path(folder) / "pip" for folder in folders if folder), Path("/etc")]
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        personal = [home / ".pip", config / "pip"]
    if named and Path(named).exists():
        personal = []
    files = [folder / _BASENAME for folder in (*shared, *personal, Path(sys.prefix))]
    return [*files, Path(named)] if named else files


def _mac_user(home: Path) -> Path:
    support = home / "Library" / "Application Support" / "pip"
    return support if support.is_dir() else home / ".config" / "pip"


def _option(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("--")


def _read(layers: dict[str, dict[str, str]], path: Path) -> None:
    parser = _Parser()
    try:
        text = path.read_text()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(str(path), f"pip's configuration cannot be read: {error}") from None
    try:
        parser.read_string(text, str(path))
    except configparser.Error as error:
        line = " ".join(mask(str(error)).split())
        raise UsageError(str(path), f"is no pip configuration: {line}") from None
    for section in _SECTIONS:
        if parser.has_section(section):
            layers[section].update(parser.items(section))


def _settings(merged: Mapping[str, str]) -> PipSettings:
    return PipSettings(
        index_url=merged.get("index-url", merged.get("pypi-url", "")).strip(),
        extra_index_urls=tuple(merged.get("extra-index-url", "").split()),
        find_links=tuple(_address(entry) for entry in merged.get("find-links", "").split()),
        no_index=merged.get("no-index", "").strip().lower() in _TRUE,
        cert=merged.get("cert", "").strip(),
        client_cert=merged.get("client-cert", "").strip(),
        proxy=merged.get("proxy", "").strip(),
        trusted_hosts=tuple(merged.get("trusted-host", "").split()),
        timeout=_number(merged, "timeout", _number(merged, "default-timeout", _DEFAULT_TIMEOUT)),
        retries=int(_number(merged, "retries", _DEFAULT_RETRIES)),
        keyring=merged.get("keyring-provider", "auto").strip(),
    )


def _number(values: Mapping[str, str], name: str, default: float) -> float:
    text = values.get(name, "").strip()
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1
    if number < 0:
        raise UsageError("pip's configuration", f"{name} is {text!a}, expected a number")
    return number


def _address(entry: str) -> str:
    """A find-links entry as an address: pip takes paths too."""
    if _SCHEME.match(entry):
        return entry
    return file_url(Path(os.path.expanduser(entry)).absolute())  # noqa: PTH111


def default_index() -> str:
    """The index pip asks when nothing is configured, in pip's own words.

    Raises UsageError when there is no pip beside this interpreter.
    """
    result = subprocess.run(
        [sys.executable, "-P", "-m", "pip", "--isolated", "download", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        check=False,
    )
    found = re.search(r"\(\s*default:?\s+(https?://\S+?)\s*\)", result.stdout)
    if found is None:
        raise UsageError("pip", "did not say which index it uses", "configure index-url for pip")
    return found[1]
