"""Reaching the hosts of an inventory: a transport for each, and one question to all of them."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from fleet.errors import HostError
from fleet.inventory import Host, Settings
from fleet.pool import Lost, Pool
from fleet.session import Session
from fleet.transport import LocalTransport, SshTransport, Transport
from images.errors import WainError

R = TypeVar("R")

# Starts over SSH are spread over so many seconds for each host that starts at once.
SPREAD = 0.004
# What a whole host may take beyond the deadlines of its steps before it is given up. Seconds.
SLACK = 5.0
# Up to so many hosts leave little behind.
FEW = 8


def transport_of(host: Host, settings: Settings) -> Transport:
    """How to reach a host."""
    if host.transport == "local":
        return LocalTransport(host.name)
    return SshTransport(
        host.name,
        host.address,
        user=host.user,
        port=host.port,
        key=host.key,
        known_hosts=host.known_hosts,
        connect_timeout=settings.connect_timeout,
    )


def open_session(
    host: Host, settings: Settings, *, keep: bool = True, by: Mapping[str, str] | None = None
) -> Session:
    """A new connection to a host. Raises HostError."""
    return Session.open(
        transport_of(host, settings),
        host.root,
        host.python,
        timeout=settings.step_timeout,
        connect_timeout=settings.connect_timeout,
        become=host.become,
        keep=keep,
        by=by,
    )


class Held:
    """Sessions that a survey leaves open for the roll-out which follows it at once.

    At most ``most`` of them; each is taken once. Threads may share it; close() ends what is left.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def put(self, host: Host, session: Session) -> bool:
        """Hold a session, if there is room for it."""
        with self._lock:
            if len(self._sessions) >= self._most:
                return False
            self._sessions[host.name] = session
            return True

    def take(self, host: Host) -> Session | None:
        """The session of a host, which is the caller's from now on."""
        with self._lock:
            return self._sessions.pop(host.name, None)

    def close(self, but: Iterable[str] = ()) -> None:
        """End all sessions, but not those of the hosts named, and take no more."""
        with self._lock:
            self._most = 0
            gone = [self._sessions.pop(name) for name in self._sessions.keys() - set(but)]
        for session in gone:
            session.close()


def spread(hosts: Iterable[Host], parallel: int) -> float:
    """Seconds over which starts are spread: nothing for local hosts."""
    over_ssh = sum(host.transport == "ssh" for host in hosts)
    return SPREAD * min(over_ssh, parallel)


def ask_all(
    hosts: Iterable[Host],
    settings: Settings,
    question: Callable[[Host], R],
    on_answer: Callable[[Host, R | HostError], None],
    *,
    limit: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
    on_tick: Callable[[], None] = lambda: None,
) -> list[Host]:
    """Ask every host a question in threads; answers and HostErrors arrive in this thread.

    ``limit`` (seconds) for a whole host. Returns the hosts that were not asked because of
    ``stopped``. Any other exception than a WainError is a defect and is raised.
    """
    hosts = list(hosts)
    if len(hosts) > FEW:
        # Every host makes cycles: memory must not grow with the fleet.
        gc.set_threshold(2_000, 5, 5)
    defects: list[BaseException] = []

    def deliver(host: Host, answer: R | None, error: BaseException | None) -> None:
        if isinstance(error, Lost):
            error = HostError(host.name, "timeout", str(error))
        elif isinstance(error, WainError) and not isinstance(error, HostError):
            # This machine's own trouble, met in a host's thread: the others' answers still count.
            error = HostError(host.name, "object", str(error))
        if isinstance(error, HostError):
            on_answer(host, error)
        elif error is not None:
            defects.append(error)
        else:
            on_answer(host, answer)  # type: ignore[arg-type]

    pool: Pool[Host, R] = Pool(
        question, settings.parallel, limit=limit, jitter=spread(hosts, settings.parallel)
    )
    left = pool.run(hosts, deliver, stopped=lambda: bool(defects) or stopped(), on_tick=on_tick)
    if defects:
        raise defects[0]
    return left
