"""Hello: what this host is, and where it stands. Travels to hosts.

Before it answers, an unconfirmed switch whose guard is gone (no session holds the lock, no
timer is armed: a reboot, a killed timer) is settled: back to the previous release.
"""

from __future__ import annotations

import os
import sys
import time

from fleet import agent_state
from fleet.agent_errors import AgentError, running
from fleet.frames import PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleet.agent import Agent

STORE_FORMAT = b"wain-store 1\n"


def hello(agent: Agent, settle: bool) -> dict[str, Any]:
    """The first answer of every session. Raises AgentError for formats that are not ours."""
    root = agent.root
    _check_store(root)
    state = agent_state.load(root)
    settled = ""
    if state["pending"] and settle:
        from fleet import agent_switch

        settled = agent_switch.settle(agent)
        state = agent_state.load(root)
    return {
        "protocol": PROTOCOL,
        "agent": agent.digest,
        "python": _python(),
        "machine": os.uname().machine,
        "libc": _libc(),
        "free": _free(root),
        "uid": os.geteuid(),
        "user": _user(),
        "root": {"path": root, "exists": os.path.isdir(f"{root}/objects")},
        "clock": time.time(),
        "kill_user_processes": _kills_user_processes(),
        "zstd": _seems_to_have_zstd(),
        "state": observe(root, state),
        "settled": settled,
    }


def _seems_to_have_zstd() -> bool:
    """A guess for the plan: loading the library to be sure would double a hello's time."""
    folders = (f"/usr/lib/{os.uname().machine}-linux-gnu", "/usr/lib64", "/usr/lib", "/lib64")
    return any(os.path.exists(f"{folder}/libzstd.so.1") for folder in folders)


def observe(root: str, state: dict[str, Any]) -> dict[str, Any]:
    """The state as the controller sees it: what was left, and what really stands there."""
    link, _ = agent_state.read_link(root)
    foreign = agent_state.foreign(root, state)
    pending = state["pending"]
    if pending:
        names = ("to", "back", "generation", "by", "phase")
        pending = {name: pending.get(name) for name in names}
        pending["armed"] = _is_armed(root)
    return {
        "generation": state["generation"],
        "current": None if foreign else agent_state.release_of(link),
        "previous": agent_state.release_of(state["previous"]),
        "pending": pending,
        "releases": agent_state.releases(root),
        "confirmed": sorted(state["confirmed"], key=lambda image: state["confirmed"][image]),
        "quarantined": state["quarantined"],
        "foreign": foreign,
        "name": state["name"],
        "last": state["last"],
    }


def _is_armed(root: str) -> bool:
    from fleet.agent_timer import is_armed

    return is_armed(root)


def _check_store(root: str) -> None:
    try:
        with open(f"{root}/format", "rb") as file:
            found = file.read(100)
    except OSError:
        return
    if found != STORE_FORMAT:
        raise AgentError(
            "format",
            f"{root}/format: {found.decode('latin-1').strip()!a} found, "
            f"expected {STORE_FORMAT.decode().strip()}",
            "use the release of wain that wrote it",
        )


def _python() -> dict[str, Any]:
    from _frozen_importlib_external import MAGIC_NUMBER

    return {
        "version": ".".join(map(str, sys.version_info[:3])),
        "executable": os.path.realpath(sys.executable),
        "base_prefix": sys.base_prefix,
        "implementation": sys.implementation.name,
        "abi": running()[1],
        "magic": MAGIC_NUMBER.hex(),
    }


def _libc() -> list[str]:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        if version:
            return [name, version]
    except (ValueError, OSError):
        pass
    # musl has no such name; its loader says its release when it is run without arguments.
    for folder in ("/lib", "/lib64"):
        try:
            found = [name for name in os.listdir(folder) if name.startswith("ld-musl-")]
        except OSError:
            continue
        for name in found:
            import subprocess

            shown = subprocess.run([f"{folder}/{name}"], capture_output=True, check=False)
            for line in shown.stderr.decode("latin-1").splitlines():
                if line.startswith("Version "):
                    return ["musl", line.split()[1]]
    return ["", ""]


def _free(root: str) -> list[int]:
    """Free bytes and inodes for this user where the root is, or will be; -1: no limit known."""
    at = root
    while True:
        try:
            status = os.statvfs(at)
        except FileNotFoundError:
            at = os.path.dirname(at)
            continue
        inodes = status.f_favail if status.f_files else -1
        return [status.f_bavail * status.f_frsize, inodes]


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _kills_user_processes() -> bool:
    """Whether this host's logind ends a user's detached processes, a revert timer included."""
    if os.geteuid() == 0:
        return False  # KillExcludeUsers has root unless somebody took it out
    kills = False
    files = ["/etc/systemd/logind.conf"]
    for folder in ("/usr/lib/systemd/logind.conf.d", "/etc/systemd/logind.conf.d"):
        try:
            files += [f"{folder}/{name}" for name in sorted(os.listdir(folder))]
        except OSError:
            continue
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            name, equals, value = line.partition("=")
            if equals and name.strip() == "KillUserProcesses":
                kills = value.strip().lower() in ("yes", "true", "1", "on")
    return kills
