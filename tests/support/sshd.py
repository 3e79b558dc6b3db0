"""A real OpenSSH server for tests: unprivileged port, own keys, one address a host.

Host k is 127.0.0.k of one server, with a root of its own below the server's folder. HOME on
the hosts is empty, so that a command starts in milliseconds and no shell file interferes;
``host_lines`` adds configuration for one host's address.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleet.transport import SshTransport

PROGRAM = shutil.which("sshd") or "/usr/sbin/sshd"


def require() -> None:
    """Skip in plain words without sshd; fail where nothing may be left out."""
    if not os.path.exists(PROGRAM):
        if os.environ.get("WAIN_TEST_REQUIRE_ALL") == "1":
            pytest.fail("no sshd here, in a run that may leave nothing out")
        pytest.skip("no sshd here (apt-get install openssh-server)")


def free_port() -> int:
    """A port nothing listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def make_key(path: Path) -> str:
    """A new key pair; the public key's line."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path.with_suffix(".pub").read_text().strip()


class Sshd:
    """A running server. ``start`` and ``stop`` may be called again, with other lines."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count
        self.port = free_port()
        self.user = getpass.getuser()
        self.key = folder / "id"
        self.known_hosts = folder / "known_hosts"
        self.log = folder / "sshd.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.chmod(0o755)
        (folder / "home").mkdir()
        (folder / "authorized_keys").write_text(make_key(self.key) + "\n")
        self.host_key = make_key(folder / "host_key")
        self.know(self.host_key)
        for number in range(1, count + 1):
            Path(self.root(number)).parent.mkdir(parents=True)

    def know(self, public: str) -> None:
        """Make known_hosts hold just this key, for every host."""
        key = " ".join(public.split()[:2])
        lines = [f"[{self.address(n)}]:{self.port} {key}\n" for n in range(1, self.count + 1)]
        self.known_hosts.write_text("".join(lines))

    def address(self, number: int) -> str:
        """Host 1 is 127.0.0.1."""
        return f"127.0.{(number - 1) // 250}.{(number - 1) % 250 + 1}"

    def root(self, number: int) -> str:
        """The host's own root; its parent exists."""
        return str(self.folder / "hosts" / f"h{number}" / "app")

    def transport(self, number: int = 1, **options: object) -> SshTransport:
        """A transport to one host."""
        settings: dict[str, object] = {
            "user": self.user,
            "port": self.port,
            "key": str(self.key),
            "known_hosts": str(self.known_hosts),
            "connect_timeout": 10.0,
            "ssh_config": "/dev/null",
        }
        return SshTransport(f"h{number}", self.address(number), **{**settings, **options})  # type: ignore[arg-type]

    def fleet_toml(self, extra: str = "") -> str:
        """A fleet file's text for all hosts."""
        head = [
            f'python = "{sys.executable}"', f'user = "{self.user}"', f"port = {self.port}",
            f'key = "{self.key}"', f'known-hosts = "{self.known_hosts}"', extra,
        ]  # fmt: skip
        hosts = [
            f'[[host]]\nname = "h{n}"\naddress = "{self.address(n)}"\nroot = "{self.root(n)}"\n'
            for n in range(1, self.count + 1)
        ]
        return "\n".join(head + hosts)

    def start(
        self,
        lines: Sequence[str] = (),
        host_lines: Mapping[int, Sequence[str]] | None = None,
        before: Sequence[str] = (),
    ) -> int:
        """Start it; ``lines`` replace the defaults of the same name. The process.

        ``before``: words before the program. With a ListenAddress among the lines it is not
        waited for.
        """
        config = [
            f"Port {self.port}",
            f"HostKey {self.folder}/host_key",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UseDNS no",
            "MaxStartups 500",
            f"SetEnv HOME={self.folder}/home",
        ]
        given = {line.split()[0] for line in lines}
        config = [*lines, *(line for line in config if line.split()[0] not in given)]
        if self.count <= 16 and "ListenAddress" not in given:
            config += [f"ListenAddress {self.address(n)}" for n in range(1, self.count + 1)]
        if _version() >= (9, 8):
            config.append("PerSourcePenalties no")
        for number, own in (host_lines or {}).items():
            config += [f"Match LocalAddress {self.address(number)}", *own]
        path = self.folder / "sshd_config"
        path.write_text("\n".join(config) + "\n")
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        self._process = subprocess.Popen(
            [*before, PROGRAM, "-D", "-f", str(path), "-E", str(self.log)], stdin=subprocess.DEVNULL
        )
        end = time.monotonic() + 10
        while "ListenAddress" not in given:
            try:
                socket.create_connection((self.address(self.count), self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise AssertionError(f"sshd did not start: {self.log.read_text()}") from None
                time.sleep(0.02)
        return self._process.pid

    def stop(self) -> None:
        """Stop the server; sessions it has started live on."""
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
            self._process = None


@contextmanager
def serving(folder: Path, count: int = 3) -> Iterator[Sshd]:
    """A server with ``count`` hosts, started with the defaults."""
    require()
    server = Sshd(folder, count)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _version() -> tuple[int, int]:
    shown = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", shown)
    return (int(found[1]), int(found[2])) if found else (0, 0)
