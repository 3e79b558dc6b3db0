"""Addresses of files and indexes, and keeping their secrets out of every text.

A password belongs to a request and to nothing else: whatever is shown, logged or written goes
through :func:`mask` or :func:`without_credentials`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

# user[:password]@ after a scheme. A password that should have been quoted may hold "@" and "/":
# better too much is hidden than a part of it shown. A port is no password.
_USERINFO = re.compile(r"(?<=://)(?:[^/\s'\"]+|[^/:\s'\"]+:(?!\d+/)[^\s'\"]*)@")
# Values of parameters that carry a secret in addresses and headers.
_TOKEN = re.compile(
    r"(?i)\b((?:access_|auth_|api_)?(?:token|key|password|passwd|secret|signature|sig)=)[^&\s'\"]+"
)


def mask(text: str) -> str:
    """``text`` with the user part of addresses and the values of secret parameters hidden."""
    return _TOKEN.sub(r"\1****", _USERINFO.sub("****@", text))


def without_credentials(url: str) -> str:
    """The same address without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def credentials_in(url: str) -> tuple[str, str] | None:
    """(user, password) of an address, unquoted; None when it has no user."""
    userinfo, found, _ = urlsplit(url).netloc.rpartition("@")
    if not found:
        return None
    user, _, password = userinfo.partition(":")
    return unquote(user), unquote(password)


def filename_of(url: str) -> str:
    """The last part of an address's path, unquoted."""
    return unquote(posixpath.basename(urlsplit(url).path))


def is_file_url(url: str) -> bool:
    """Whether an address names something on this machine."""
    return url[:5].lower() == "file:"


def path_of(url: str) -> Path:
    """The path a ``file:`` address names."""
    return Path(unquote(urlsplit(url).path))


def file_url(path: Path) -> str:
    """The ``file:`` address of an absolute path."""
    return "file://" + quote(str(path))


def with_slash(url: str) -> str:
    """The address with one slash at its end, as folders of an index are asked for."""
    return url.rstrip("/") + "/"
