"""SSH: Fabric for configuration, gateways and authentication, a bare channel for the frames.

Rules:

1. A host's key must be known. Unknown, changed or revoked: nothing is sent. Gateways too.
2. One connection, few keys, no second try after a refusal. Only what a busy server does (no
   banner, an end before it) is tried again, after a growing, random pause.
3. Every wait ends at the deadline; what has no time-out of its own is ended by closing the
   connection from a timer.
4. No pseudo-terminal, no agent forwarding, no SFTP.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import random
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import paramiko
from fabric import Config, Connection
from paramiko.client import MissingHostKeyPolicy
from paramiko.ssh_exception import (
    AuthenticationException,
    ConfigParseError,
    NoValidConnectionsError,
    SSHException,
)

from fleet import known_hosts
from fleet.errors import HostError, printable
from fleet.ssh_keys import Offer

if TYPE_CHECKING:
    from fleet.transport import SshTransport

# What paramiko's threads would log is raised as an error here.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

KEEPALIVE = 15  # seconds
# Bytes: servers take 32 KiB at once, of which paramiko keeps 64 for itself; what is beyond would
# be copied in vain.
PACKET = (32 << 10) - 64
# Cheapest first; the default order of the library tries CBC before GCM.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")
_BUSY = ("Error reading SSH protocol banner", "Connection reset", "Connection lost")


class _Busy(Exception):
    """A server that may take the connection a moment later; ``args[0]`` says what it did."""


class _Policy(MissingHostKeyPolicy):
    """Asks our own list of known hosts, for every host: the client itself is given none."""

    def __init__(self, known: known_hosts.KnownHosts, alias: str) -> None:
        self._known = known
        self._alias = alias

    def names(self, hostname: str) -> list[str]:
        """What known_hosts may call it: its alias, or ``[name]:port`` and then the name alone."""
        if self._alias:
            return [self._alias]
        plain = hostname[1:].rpartition("]")[0] if hostname.startswith("[") else hostname
        return [hostname, plain] if plain != hostname else [hostname]

    def missing_host_key(self, client: object, hostname: str, key: paramiko.PKey) -> None:
        """Raise HostKeyError unless the key is known."""
        self._known.check(self.names(hostname), key)


class SshChannel:
    """The streams of a program on a host, over a connection of its own."""

    def __init__(self, line: _Line, channel: paramiko.Channel) -> None:
        self._line = line
        self._channel = channel
        self._errors = b""

    def read(self, size: int, deadline: float) -> bytes:
        """Up to size bytes, none at the end of the program or of the connection."""
        self._channel.settimeout(_left(deadline))
        with _broken():
            self._take_errors()
            return self._channel.recv(size)

    def write(self, data: bytes, deadline: float) -> None:
        """All of it. Raises TimeoutError, OSError."""
        view = memoryview(data)
        while view:
            self._channel.settimeout(_left(deadline))
            with _broken():
                view = view[self._channel.send(bytes(view[:PACKET])) :]

    def ready(self) -> bool:
        """Whether there is something to read."""
        return self._channel.recv_ready()

    def close_write(self) -> None:
        """The end of the program's input."""
        with _broken():
            self._channel.shutdown_write()

    def close(self) -> None:
        """The end of the connection."""
        self._line.close()

    def status(self) -> int | None:
        """The exit status, when the program ended by itself; None when the line was lost."""
        if self._channel.status_event.wait(1.0) and self._channel.exit_status >= 0:
            return self._channel.exit_status
        return None

    def stderr(self) -> str:
        """The last of what the program wrote to standard error."""
        with contextlib.suppress(EOFError, SSHException, OSError):
            self._take_errors()
        return self._errors.decode("utf-8", "replace")

    def _take_errors(self) -> None:
        # Left alone it would fill the window and stop the program.
        while self._channel.recv_stderr_ready():
            self._errors = (self._errors + self._channel.recv_stderr(65536))[-4096:]


class _Prompt:
    """A socket whose every byte is acknowledged as it is read, until a program runs.

    Till then the server holds its second small packet back until the first is acknowledged,
    and the kernel would put that off for 40 ms.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recv(self, size: int) -> bytes:
        """As that of the socket."""
        data = self._sock.recv(size)
        # Asked for again each time: the kernel forgets it.
        with contextlib.suppress(OSError, AttributeError):
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data

    def runs(self) -> None:
        """From now on it is a socket as any other."""
        self.__dict__["recv"] = self._sock.recv

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Line:
    """A Connection, its gateways, and the sockets below, to be closed at once."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.sockets: list[Any] = []
        self.prompts: list[_Prompt] = []

    def chain(self) -> Iterator[Any]:
        """The connection and its gateways, outermost last."""
        at = self.connection
        while isinstance(at, Connection):
            yield at
            at = at.gateway

    def close(self) -> None:
        """End everything, also while another thread waits on it."""
        for sock in self.sockets:
            # Paramiko's thread looks up only now and then; this wakes it.
            with contextlib.suppress(OSError, AttributeError, EOFError):
                sock.shutdown(socket.SHUT_RDWR)
        for link in self.chain():
            with contextlib.suppress(SSHException, OSError, EOFError):
                link.close()
            link.client.close()


@contextlib.contextmanager
def _broken() -> Iterator[None]:
    """What paramiko raises when the line breaks under it, as the error of a line."""
    try:
        yield
    except (EOFError, SSHException) as error:
        raise ConnectionResetError(errno.ECONNRESET, str(error) or "the line broke") from None


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@functools.lru_cache(maxsize=16)
def _config(path: str | None) -> Config:
    """Fabric's configuration with the user's SSH configuration, read once."""
    config = Config(lazy=True, runtime_ssh_path=path)
    config.load_ssh_config()
    return config


def open_channel(target: SshTransport, argv: list[str], deadline: float) -> SshChannel:
    """Connect and start a program. Raises HostError."""
    command = shlex.join(argv)
    deadline = min(deadline, time.monotonic() + target.connect_timeout)
    pause = 0.2
    while True:
        try:
            return _attempt(target, command, deadline)
        except TimeoutError:  # the pause before this attempt took the last of the time
            raise HostError(target.name, "unreachable", _late(target)) from None
        except _Busy as busy:
            pause *= 1.5 + random.random()
            if time.monotonic() + pause > deadline:
                raise HostError(
                    target.name,
                    "unreachable",
                    f"{target.address} takes no SSH session: {busy.args[0]}",
                    "too many at once (MaxStartups, PerSourcePenalties), or it is not SSH",
                ) from None
            time.sleep(pause)


def _attempt(target: SshTransport, command: str, deadline: float) -> SshChannel:
    line = _line(target, deadline)
    ended = threading.Event()

    def end() -> None:
        ended.set()
        line.close()

    guard = threading.Timer(max(0.0, deadline - time.monotonic()), end)
    guard.daemon = True
    guard.start()
    try:
        line.connection.open()
        transport = line.connection.client.get_transport()
        transport.set_keepalive(KEEPALIVE)
        channel = transport.open_session(timeout=_left(deadline))
        channel.exec_command(command)
        for prompt in line.prompts:
            prompt.runs()
        return SshChannel(line, channel)
    except BaseException as error:
        line.close()
        if ended.is_set():
            raise HostError(target.name, "unreachable", _late(target)) from None
        if isinstance(error, Exception):
            raise _translated(target, line, error) from None
        raise
    finally:
        guard.cancel()


def _line(target: SshTransport, deadline: float) -> _Line:
    """The connection, not yet open, with our own keys, host keys and algorithms."""
    try:
        # A connection of its own config: each one changes it as it is made, and empties it for a
        # moment while another thread may be reading.
        config = _config(target.ssh_config).clone()
        connection = Connection(target.address, user=target.user, port=target.port, config=config)
    except (ConfigParseError, ValueError, OSError) as error:
        what = f"SSH configuration: {printable(str(error))}"
        raise HostError(target.name, "usage", what) from None
    line = _Line(connection)
    for at, link in enumerate(line.chain()):
        left = _left(deadline)
        settings = link.ssh_config
        own = target.known_hosts if at == 0 else None
        named = str(settings.get("userknownhostsfile", "")).split()
        known = known_hosts.load([own] if own else [*(named or known_hosts.DEFAULT)])
        policy = _Policy(known, str(settings.get("hostkeyalias", "")))
        link.client.set_missing_host_key_policy(policy)
        link.forward_agent = False
        link.connect_timeout = left
        name = link.host if link.port == 22 else f"[{link.host}]:{link.port}"
        link.connect_kwargs = {
            "banner_timeout": left,
            "auth_timeout": left,
            "channel_timeout": left,
            "auth_strategy": Offer(link.user, target.key if at == 0 else None, settings),
            "transport_factory": functools.partial(_transport, line, known, policy.names(name)),
        }
    return line


def _transport(
    line: _Line, known: known_hosts.KnownHosts, names: list[str], sock: Any, **options: Any
) -> paramiko.Transport:
    """A transport that asks for a host key we know, and waits for nothing before it sends."""
    line.sockets.append(sock)
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if isinstance(sock, socket.socket):  # and no channel of a gateway
        sock = _Prompt(sock)
        line.prompts.append(sock)
    transport = paramiko.Transport(sock, **options)
    security = transport.get_security_options()
    security.ciphers = [name for name in _CIPHERS if name in security.ciphers]
    wanted = {key.get_name() for key in known.keys(names)}
    if "ssh-rsa" in wanted:
        wanted |= {"rsa-sha2-512", "rsa-sha2-256"}
    if wanted:
        security.key_types = sorted(security.key_types, key=lambda name: name not in wanted)
    return transport


def _late(target: SshTransport) -> str:
    return f"{target.address} did not answer within {target.connect_timeout:g} s"


def _translated(target: SshTransport, line: _Line, error: Exception) -> Exception:
    """What a library raised, as what happened."""
    name, address = target.name, target.address
    if isinstance(error, known_hosts.HostKeyError):
        return HostError(name, "hostkey", f"{address}: {error.args[0]}; nothing was sent")
    if isinstance(error, AuthenticationException):
        return _auth_error(target, line, error)
    if isinstance(error, NoValidConnectionsError):
        reasons = {_reason(one) for one in error.errors.values() if isinstance(one, OSError)}
        what = f"{address} port {line.connection.port}: {', '.join(sorted(reasons))}"
        return HostError(name, "unreachable", what)
    if isinstance(error, socket.gaierror):
        return HostError(name, "unreachable", f"{address}: its name has no address")
    text = printable(str(error)) or type(error).__name__
    if isinstance(error, TimeoutError) or "Timeout" in text or "timed out" in text:
        return HostError(name, "unreachable", _late(target))
    if isinstance(error, ConnectionResetError | EOFError | BrokenPipeError):
        return _Busy("it closed the connection")
    if isinstance(error, SSHException) and text.startswith(_BUSY):
        return _Busy("no banner came")
    if isinstance(error, SSHException) and "No existing session" in text:
        return HostError(name, "unreachable", _late(target))
    if isinstance(error, OSError):
        return HostError(name, "unreachable", f"{address}: {_reason(error)}")
    return HostError(name, "unreachable", f"{address}: {text}")


def _reason(error: OSError) -> str:
    number = error.errno or 0
    plain = {
        errno.ECONNREFUSED: "the port is closed",
        errno.EHOSTUNREACH: "no route to it",
        errno.ENETUNREACH: "no route to its network",
    }
    return plain.get(number) or (os.strerror(number) if number else printable(str(error)))


def _auth_error(target: SshTransport, line: _Line, error: Exception) -> HostError:
    offers = [link.connect_kwargs["auth_strategy"] for link in line.chain()]
    tried = [printable(label, 200) for offer in offers for label in offer.tried]
    said = printable(str(error), 160).rstrip(".")
    what = f"{line.connection.user}@{target.address}: {said}"
    if tried:
        what += f" (offered: {', '.join(tried)})"
    hint = "" if target.key else "name one key file: key = … in fleet.toml"
    return HostError(target.name, "auth", what, hint)
