"""Connections that look a host up once, and whose answers must begin in time.

A burst of equal lookups loses packets in many networks, and each loss costs five seconds. One
lookup a host, whose answer all connections share, is faster and kinder anyway.

A read time-out alone is no limit: it begins again with every byte. So the status line and headers
of an answer have one deadline together.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError


class Lookup:
    """Addresses of hosts, each looked up once while this lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, list[str]] = {}

    def addresses(self, host: str) -> list[str]:
        """The numeric addresses of a host, best first. Raises socket.gaierror."""
        with self._lock:
            if host not in self._known:
                found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
                self._known[host] = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            return self._known[host]


_LOOKUP = Lookup()


def _connected(connection: Any, connect: Any) -> socket.socket:
    """A socket to the first address of the connection's host that answers."""
    host = connection._dns_host
    try:
        addresses = _LOOKUP.addresses(host)
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    try:
        for address in addresses[:-1]:
            connection._dns_host = address
            try:
                return connect()  # type: ignore[no-any-return]
            except (NewConnectionError, ConnectTimeoutError):
                continue
        connection._dns_host = addresses[-1]
        return connect()  # type: ignore[no-any-return]
    finally:
        # The name is what certificates and the Host header are about.
        connection._dns_host = host


@contextmanager
def _deadline(sock: socket.socket | None) -> Iterator[None]:
    """Shut a socket that has not let the block end within twice its read time-out."""
    seconds = sock.gettimeout() if sock is not None else None
    if sock is None or seconds is None:
        yield
        return
    late = threading.Event()

    def shut() -> None:
        late.set()
        # Through a copy of the descriptor: a TLS socket must not be touched from two threads.
        with socket.socket(fileno=os.dup(sock.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(2 * seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    # Headers that were cut by the shutdown look like headers that ended.
    if late.is_set():
        raise TimeoutError("timed out")


class _Plain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self, super()._new_conn)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _deadline(self.sock):
            return super().getresponse()


class _Secure(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self, super()._new_conn)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _deadline(self.sock):
            return super().getresponse()


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


def share_lookups(manager: PoolManager) -> PoolManager:
    """Let a pool manager's connections share lookups."""
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return manager
