"""How a session reaches a host: a program to start there, and its standard streams.

``Transport`` starts the program, ``Channel`` is its streams. Both ends of every wait have a
deadline. LocalTransport runs on this machine the very program SshTransport runs elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from typing import IO, Protocol

from fleet.errors import HostError

__all__ = ["Channel", "HostError", "LocalTransport", "SshTransport", "Transport"]


class Channel(Protocol):
    """The streams of a program on a host. Times are of ``time.monotonic()``."""

    def read(self, size: int, deadline: float) -> bytes:
        """Up to size bytes, none at the end. Raises TimeoutError, OSError."""

    def write(self, data: bytes, deadline: float) -> None:
        """All of it. Raises TimeoutError, OSError when the other end is gone."""

    def ready(self) -> bool:
        """Whether read would return at once."""

    def close_write(self) -> None:
        """The end of the program's input."""

    def close(self) -> None:
        """End it all: the program, which treats this as the order to stop, and the line."""

    def status(self) -> int | None:
        """The program's exit status, when it is known; negative for a signal."""

    def stderr(self) -> str:
        """What the program wrote to standard error so far, as far as it was kept."""


class Transport(Protocol):
    """One host. Every ``open`` is a new connection."""

    name: str

    def open(self, argv: list[str], deadline: float) -> Channel:
        """Start a program. Raises HostError: unreachable, hostkey, auth, no-python, timeout."""


class LocalTransport:
    """A folder of this machine as a host."""

    def __init__(self, name: str, *, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self._environment = environment

    def open(self, argv: list[str], deadline: float) -> Channel:
        """Start the program as a child, in a session of its own: Ctrl-C is not for it."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - the channel closes it
        ours, theirs = socket.socketpair()
        try:
            process = subprocess.Popen(
                argv,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=errors,
                start_new_session=True,
                env=self._environment,
            )
        except OSError as error:
            ours.close()
            errors.close()
            what = f"{argv[0]} cannot be started: {error.strerror}"
            raise HostError(self.name, "no-python", what) from None
        finally:
            theirs.close()
        return _ChildChannel(process, ours, errors)


class _ChildChannel:
    """A child process at the other end of a socket, which another thread may shut at any time."""

    def __init__(
        self, process: subprocess.Popen[bytes], line: socket.socket, errors: IO[bytes]
    ) -> None:
        self._process = process
        self._line = line
        self._errors = errors
        self._said = ""  # the end of its standard error, once closed
        self._patience = 5.0  # seconds an agent may take to end by itself

    def read(self, size: int, deadline: float) -> bytes:
        self._until(deadline)
        try:
            return self._line.recv(size)
        except TimeoutError:
            self._patience = 0.1
            raise

    def write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            self._until(deadline)
            view = view[self._line.send(view) :]

    def _until(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            self._patience = 0.1
            raise TimeoutError
        self._line.settimeout(left)

    def ready(self) -> bool:
        # poll, for select knows no descriptor over 1,023.
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        return bool(poll.poll(0))

    def close_write(self) -> None:
        self._line.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(timeout=self._patience)
        except subprocess.TimeoutExpired:
            # Frozen. Its session is its own, an armed revert timer has another one.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._line.close()
        self._said = self.stderr()
        self._errors.close()

    def status(self) -> int | None:
        try:
            return self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return None

    def stderr(self) -> str:
        if self._errors.closed:
            return self._said
        size = os.fstat(self._errors.fileno()).st_size
        kept = os.pread(self._errors.fileno(), 4096, max(0, size - 4096))
        return kept.decode("utf-8", "replace")


class SshTransport:
    """A host over SSH: Fabric's configuration, gateways and authentication, strict host keys.

    ``address`` is a host name, an address, or an alias from the SSH configuration. ``user``,
    ``port`` and ``key`` (a private key file) default to the SSH configuration's; without a key
    file, the agent's keys and the user's default keys are offered. ``known_hosts`` replaces the
    user's and the system's files.
    """

    def __init__(
        self,
        name: str,
        address: str = "",
        *,
        user: str | None = None,
        port: int | None = None,
        key: str | None = None,
        known_hosts: str | None = None,
        connect_timeout: float = 15.0,
        ssh_config: str | None = None,
    ) -> None:
        self.name = name
        self.address = address or name
        self.user = user
        self.port = port
        self.key = key
        self.known_hosts = known_hosts
        self.connect_timeout = connect_timeout
        self.ssh_config = ssh_config

    def open(self, argv: list[str], deadline: float) -> Channel:
        """Connect anew and start the program."""
        from fleet.ssh import open_channel

        return open_channel(self, argv, deadline)
