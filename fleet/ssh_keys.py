"""Which private keys are offered to a host, in which order, and no more than a few.

A server counts every offer, and newer ones hold a source back that fails: one connection, at
most ``MOST`` offers, no second try. A key named in fleet.toml is the only one offered.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paramiko import Agent, PKey, SSHException, Transport
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import AuthenticationException, PasswordRequiredException

MOST = 5
_DEFAULTS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


class UnusableKey(AuthenticationException):
    """A private key that cannot be used; ``args[0]`` says why."""


class Offer:
    """The keys offered on one connection, in the shape SSHClient.connect(auth_strategy=) takes.

    ``tried`` describes the keys that were offered, for the error.
    """

    def __init__(self, user: str, key: str | None, ssh_config: Mapping[str, Any]) -> None:
        self._user = user
        self._key = key
        self._config = ssh_config
        self.tried: list[str] = []

    def _keys(self) -> Iterator[tuple[str, PKey]]:
        """The key file of fleet.toml; else those of the configuration, the agent, the defaults."""
        if self._key:
            yield self._key, _from_file(self._key)
            return
        named = [str(path) for path in self._config.get("identityfile", [])]
        yield from _from_files(named)
        if str(self._config.get("identitiesonly", "no")).lower() != "yes":
            yield from _from_agent()
        if not named:
            yield from _from_files(list(_DEFAULTS))

    def authenticate(self, transport: Transport) -> None:
        """Offer each key until one is taken. Raises AuthenticationException."""
        refused = AuthenticationException("no private key was found")
        for label, key in self._keys():
            if len(self.tried) == MOST:
                break
            self.tried.append(label)
            try:
                left = transport.auth_publickey(self._user, key)
            except AuthenticationException as error:
                refused = error
                continue
            if left:
                raise AuthenticationException(f"the host also wants {', '.join(left)}")
            return
        raise refused


def _from_files(paths: list[str]) -> Iterator[tuple[str, PKey]]:
    for path in paths:
        if Path(os.path.expanduser(path)).is_file():  # noqa: PTH111
            try:
                yield path, _from_file(path)
            except UnusableKey:
                continue  # most likely it is in the agent as well


def _from_agent() -> Iterator[tuple[str, PKey]]:
    if not os.environ.get("SSH_AUTH_SOCK"):
        return
    agent = Agent()
    try:
        for key in agent.get_keys():
            yield f"agent: {key.comment or key.get_name()}", key
    except SSHException:
        return
    finally:
        agent.close()


def _from_file(path: str) -> PKey:
    full = os.path.expanduser(path)  # noqa: PTH111
    try:
        certificate = Path(full + "-cert.pub")
        renewed = certificate.stat().st_mtime_ns if certificate.exists() else 0
        return _read(full, Path(full).stat().st_mtime_ns, renewed)
    except (PasswordRequiredException, TypeError):
        return _unlocked_by_agent(path, full)
    except OSError as error:
        raise UnusableKey(f"key {path}: {error.strerror}") from None
    except (SSHException, UnknownKeyType, ValueError):
        raise UnusableKey(f"key {path}: no private key that can be used") from None


@functools.lru_cache(maxsize=256)
def _read(path: str, _changed: int, _renewed: int) -> PKey:
    return PKey.from_path(path)


def _unlocked_by_agent(path: str, full: str) -> PKey:
    """A key with a passphrase: the agent has it, if it is to be used."""
    try:
        wanted = Path(full + ".pub").read_text(encoding="utf-8").split()[1]
    except (OSError, IndexError, UnicodeDecodeError):
        wanted = ""
    if wanted and os.environ.get("SSH_AUTH_SOCK"):
        for key in Agent().get_keys():
            if key.get_base64() == wanted:
                return key
    raise UnusableKey(f"key {path} has a passphrase and is not in the SSH agent")
