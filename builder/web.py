"""Requests to indexes: one pool of connections, with pip's certificates, proxies and logins.

Redirects are followed here, few of them and never from https to http, and a login is sent only
to the host it belongs to. Every failure is one WainError that names the address, masked.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError
from urllib3.exceptions import SSLError as PoolSSLError

from builder.dial import share_lookups
from builder.pipconfig import PipSettings
from builder.urls import credentials_in, mask, without_credentials
from images.errors import WainError

MAX_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGENT = "wainwright"
_BLOCK = 1 << 16


class WebError(WainError):
    """An address that could not be had. ``status`` is the HTTP status, 0 without an answer.

    ``passing`` says that trying again may help.
    """

    def __init__(
        self, url: str, what: str, hint: str = "", *, status: int = 0, passing: bool = False
    ) -> None:
        self.url = url
        self.status = status
        self.passing = passing
        super().__init__(mask(url), what, hint)


class Answer(NamedTuple):
    """An answer with its body unread, and the address it came from after redirects."""

    response: urllib3.BaseHTTPResponse
    url: str


class Web:
    """Requests with pip's settings. Safe to use from several threads.

    ``indexes``: addresses whose user and password hold for their whole host.
    """

    def __init__(self, settings: PipSettings, indexes: Sequence[str] = ()) -> None:
        self._settings = settings
        self._timeout = urllib3.Timeout(connect=settings.timeout, read=settings.timeout)
        self._pools: dict[tuple[str, bool], urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._logins: dict[str, tuple[str, str] | None] = {}
        for url in indexes:
            login = credentials_in(url)
            if login is not None:
                self._logins[_netloc(url)] = login
        self._configured = frozenset(self._logins)
        self._trusted = frozenset(host.lower() for host in settings.trusted_hosts)

    def prepare(self) -> Web:
        """Read the certificates now, so that the first request need not."""
        self._pool("https://localhost/")
        return self

    @contextmanager
    def open(
        self, url: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> Iterator[Answer]:
        """The answer to a request, its body unread and undecoded, after any redirects.

        ``headers`` get the login added. Only answers with status 2xx come through. Raises
        WebError. The connection goes back to the pool when the body was read.
        """
        response, address = self._follow(url, dict(headers or {}), method)
        try:
            if response.status >= 300:
                raise _status_error(address, response)
            yield Answer(response, address)
        except (HTTPError, OSError) as error:
            raise _broken(address, error) from None
        finally:
            # A body that was not read to its end cannot be followed by another answer.
            response.close()

    def has_login(self, url: str) -> bool:
        """Whether requests to this address carry a user and password of a configured index."""
        return credentials_in(url) is not None or _netloc(url) in self._configured

    def get(self, url: str, accept: str = "*/*", limit: int = 1 << 27) -> tuple[bytes, str, str]:
        """(body, content type, final address) of a page of at most ``limit`` bytes."""
        headers = {"Accept": accept, "Accept-Encoding": "gzip"}
        with self.open(url, headers) as answer:
            body = bytearray()
            end = time.monotonic() + 4 * self._settings.timeout
            while block := answer.response.read1(_BLOCK, decode_content=True):
                body += block
                if len(body) > limit:
                    raise WebError(url, f"is longer than {limit} bytes, no page of an index is")
                if time.monotonic() > end:
                    raise WebError(url, "did not send its page in time", passing=True)
            kind = answer.response.headers.get("content-type", "")
            return bytes(body), kind, without_credentials(answer.url)

    def _follow(
        self, url: str, headers: dict[str, str], method: str
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        address = url
        for _ in range(MAX_REDIRECTS + 1):
            response = self._ask(address, headers, method)
            if response.status not in _REDIRECTS:
                return response, address
            location = response.headers.get("location", "")
            response.close()
            target = urljoin(without_credentials(address), location)
            if not target.startswith(("http://", "https://")) or not location:
                raise WebError(url, f"redirects to {mask(target)!a}, which is no web address")
            if address.startswith("https://") and target.startswith("http://"):
                raise WebError(url, f"redirects from https to {mask(target)!a}, refused")
            address = target
        raise WebError(url, f"redirects more than {MAX_REDIRECTS} times", "a redirect loop?")

    def _ask(self, url: str, headers: dict[str, str], method: str) -> urllib3.BaseHTTPResponse:
        login = self._login(url)
        response = self._send(url, headers, method, login)
        if response.status == 401 and login is None:
            login = self._ask_keyring(url)
            if login is not None:
                response.close()
                response = self._send(url, headers, method, login)
        return response

    def _send(
        self, url: str, headers: dict[str, str], method: str, login: tuple[str, str] | None
    ) -> urllib3.BaseHTTPResponse:
        sent = {"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers}
        if login is not None:
            sent.update(urllib3.make_headers(basic_auth=":".join(login)))
        try:
            return self._pool(url).request(
                method,
                without_credentials(url),
                headers=sent,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=self._timeout,
            )
        except (HTTPError, OSError, ValueError) as error:
            raise _broken(url, error) from None

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        trusted = host in self._trusted or f"{host}:{parts.port}" in self._trusted
        proxy = self._settings.proxy or ""
        if not proxy and not proxy_bypass(host):
            proxies = getproxies()
            proxy = proxies.get(parts.scheme, proxies.get("all", ""))
        with self._lock:
            key = (proxy, trusted)
            if key not in self._pools:
                self._pools[key] = self._new_pool(proxy, trusted)
            return self._pools[key]

    def _new_pool(self, proxy: str, trusted: bool) -> urllib3.PoolManager:
        context = tls_context(self._settings, verify=not trusted)
        if not proxy:
            manager = urllib3.PoolManager(num_pools=16, maxsize=32, ssl_context=context)
            return share_lookups(manager)
        address = proxy if "://" in proxy else f"http://{proxy}"
        login = credentials_in(address)
        return urllib3.ProxyManager(
            without_credentials(address),
            num_pools=16,
            maxsize=32,
            ssl_context=context,
            proxy_headers=(
                urllib3.make_headers(proxy_basic_auth=":".join(login)) if login else None
            ),
        )

    def _login(self, url: str) -> tuple[str, str] | None:
        own = credentials_in(url)
        if own is not None:
            return own
        netloc = _netloc(url)
        with self._lock:
            if netloc not in self._logins:
                self._logins[netloc] = _from_netrc(netloc)
            return self._logins[netloc]

    def _ask_keyring(self, url: str) -> tuple[str, str] | None:
        if self._settings.keyring == "disabled":
            return None
        netloc = _netloc(url)
        login = _from_keyring(without_credentials(url)) or _from_keyring(netloc)
        with self._lock:
            self._logins[netloc] = login
        return login


def tls_context(settings: PipSettings, *, verify: bool = True) -> ssl.SSLContext:
    """A TLS context with pip's certificates. Raises WainError for a file that holds none."""
    bundle = (
        settings.cert
        or os.environ.get("REQUESTS_CA_BUNDLE", "")
        or os.environ.get("CURL_CA_BUNDLE", "")
    )
    try:
        if bundle and Path(bundle).is_dir():
            context = ssl.create_default_context(capath=bundle)
        else:
            context = ssl.create_default_context(cafile=bundle or None)
        if settings.client_cert:
            context.load_cert_chain(settings.client_cert)
    except (OSError, ssl.SSLError) as error:
        raise WainError(
            settings.client_cert or bundle, f"is no usable certificate: {error}"
        ) from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _netloc(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def _from_netrc(netloc: str) -> tuple[str, str] | None:
    import netrc

    name = os.environ.get("NETRC", "")
    candidates = [Path(name)] if name else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for path in candidates:
        try:
            entry = netrc.netrc(str(path)).authenticators(urlsplit(f"//{netloc}").hostname or "")
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
        if entry:
            return entry[0], entry[2] or ""
    return None


def _from_keyring(service: str) -> tuple[str, str] | None:
    """The login the keyring command knows for a service; the command is asked as pip asks it."""
    if service.startswith("-"):
        # No host is called so, and the command would take it for an option.
        return None
    try:
        result = subprocess.run(
            ["keyring", "--mode", "creds", "get", service],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = result.stdout.splitlines()
    return (lines[0], lines[1]) if result.returncode == 0 and len(lines) >= 2 else None


def _status_error(url: str, response: urllib3.BaseHTTPResponse) -> WebError:
    status = response.status
    hints = {
        401: "the index wants a login: netrc, keyring or the address in pip's configuration",
        403: "the login may not read this",
        404: "not there",
    }
    what = f"answered {status} {response.reason or ''}".rstrip()
    return WebError(
        url, what, hints.get(status, ""), status=status, passing=status >= 500 or status == 429
    )


def _broken(url: str, error: Exception) -> WebError:
    reason: BaseException = error
    if isinstance(error, MaxRetryError) and error.reason is not None:
        reason = error.reason
    if isinstance(reason, PoolSSLError | ssl.SSLError):
        return WebError(
            url, f"failed the TLS handshake: {_text(reason)}", "see pip's 'cert' setting"
        )
    if isinstance(reason, ReadTimeoutError | TimeoutError):
        return WebError(url, "did not answer in time", passing=True)
    return WebError(url, f"cannot be reached: {_text(reason)}", passing=True)


def _text(error: BaseException) -> str:
    text = " ".join(str(error).split())
    # urllib3 puts the pool's own representation first.
    return mask(text.rpartition("): ")[2] or text) or type(error).__name__
