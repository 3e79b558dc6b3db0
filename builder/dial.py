"""Connections that look a host up once.

A burst of equal lookups loses packets in many networks, and each loss costs five seconds. One
lookup a host, whose answer all connections share, is faster and kinder anyway.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
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


class _Plain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self, super()._new_conn)


class _Secure(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self, super()._new_conn)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


def share_lookups(manager: PoolManager) -> PoolManager:
    """Let a pool manager's connections share lookups."""
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return manager
