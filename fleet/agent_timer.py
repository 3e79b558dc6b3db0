"""The revert timer: goes back by itself when nobody confirms. Travels to hosts.

A process of its own session, forked twice, so that neither the agent's death nor the
connection's can reach it. It holds a flock on ``agent/timer`` while it is armed. It reads the
deadline (seconds of the monotonic clock) from ``agent/deadline``, which verbs move forward and
the end of the switch removes; then the timer goes away. When the deadline passes, it takes the
host's lock and goes back, if the same switch is still unconfirmed.

An agent that hangs while it holds the lock would keep the timer waiting: the one that armed
it is ended after a while.
"""

from __future__ import annotations

import os
import time

from fleet import agent_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleet.agent import Agent

TICK = 0.1  # seconds between looks at the deadline
TRIES = 6000  # to go back where the disk refuses: ten minutes and more
PATIENCE = 5.0  # seconds the timer waits for the lock before it ends the agent that armed it


def set_deadline(root: str, generation: int, seconds: float, shorten: bool = False) -> float:
    """Move the deadline to ``seconds`` from now unless it is later already; what it is now.

    With ``shorten`` it may come nearer too: nobody is left who could confirm.

    Not synced: it means nothing after a reboot, and then no timer lives either.
    """
    found = deadline(root)
    wanted = time.monotonic() + seconds
    if not shorten and found is not None and found[0] == generation:
        wanted = max(wanted, found[1])
    path = f"{root}/agent/deadline"
    new = f"{path}.{os.getpid()}"
    with open(new, "w", encoding="ascii") as file:
        file.write(f"{generation} {wanted:.3f}\n")
    os.rename(new, path)
    return wanted


def deadline(root: str) -> tuple[int, float] | None:
    """The switch's generation and its deadline; None when nothing is armed."""
    try:
        with open(f"{root}/agent/deadline", encoding="ascii") as file:
            generation, at = file.read().split()
        return int(generation), float(at)
    except (OSError, ValueError):
        return None


def disarm(root: str) -> None:
    """Let the timer go away."""
    try:
        os.unlink(f"{root}/agent/deadline")
    except FileNotFoundError:
        return


def is_armed(root: str) -> bool:
    """Whether a timer lives: it, and nobody else, holds the lock on its file for long."""
    descriptor = agent_lock.try_lock(f"{root}/agent/timer")
    if descriptor < 0:
        return True
    os.close(descriptor)
    return False


def arm(agent: Agent, generation: int, seconds: float) -> None:
    """Start the timer and wait until it stands. Raises OSError when it does not."""
    root = agent.root
    os.makedirs(f"{root}/agent", 0o755, exist_ok=True)
    set_deadline(root, generation, seconds)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _detach(root, generation, theirs, os.getppid())
    os.close(theirs)
    os.waitpid(child, 0)
    ready = os.read(ours, 1)
    os.close(ours)
    if ready != b"+":
        disarm(root)
        raise OSError(0, "the revert timer did not start", f"{root}/agent/timer")


def _detach(root: str, generation: int, ready: int, armer: int) -> None:
    """In the first child: never returns."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        import signal

        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.chdir("/")
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        for name in os.listdir("/proc/self/fd"):
            # The lock among them: closing this copy does not free it.
            if int(name) > 2 and int(name) != ready:
                try:
                    os.close(int(name))
                except OSError:
                    continue
        held = -1
        end = time.monotonic() + PATIENCE
        while held < 0 and time.monotonic() < end:
            # The timer of a switch just confirmed may not have looked yet.
            held = agent_lock.try_lock(f"{root}/agent/timer")
            if held < 0:
                time.sleep(TICK / 4)
        if held >= 0:
            started = _started(armer)
            os.write(ready, b"+")
            os.close(ready)
            _wait(root, generation)
            _fire(root, generation, armer, started)
    finally:
        os._exit(0)


def _wait(root: str, generation: int) -> None:
    while True:
        found = deadline(root)
        if found is None or found[0] != generation:
            os._exit(0)
        left = found[1] - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(TICK, left))


def _fire(root: str, generation: int, armer: int, started: str) -> None:
    """Go back, whatever it takes to get the lock."""
    from fleet import agent_switch
    from fleet.agent_errors import AgentError

    request: dict[str, Any] = {"verb": "revert", "by": {"who": "revert timer"}}
    end = time.monotonic() + PATIENCE
    tries = TRIES
    while True:
        try:
            lock = agent_lock.acquire(root, request, 1.0)
        except AgentError:
            if time.monotonic() > end and started and _started(armer) == started:
                os.kill(armer, 9)
            _wait(root, generation)
            continue
        found = deadline(root)
        if found and found[0] == generation and found[1] <= time.monotonic():
            try:
                agent_switch.go_back(root, generation, "not confirmed in time", request)
                os._exit(0)
            except OSError:
                # A disk that is full or fails now may do better later.
                tries -= 1
                if not tries:
                    os._exit(1)
        os.close(lock)  # a step moved the deadline, or ended the switch, while we waited
        time.sleep(TICK)
        _wait(root, generation)


def _started(pid: int) -> str:
    """When a process started, as the kernel counts it: tells a reused pid from the old one."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""
