"""The agent without a controller: what only the host itself may order. Travels to hosts.

``python -I -S ROOT/agent/<sha256>.pyz settle ROOT`` goes back from an unconfirmed switch, as the
next contact would: a power cut left it, and services start soon. For a systemd unit at boot.
``… untrust ROOT`` has the root ask for no signatures any more. See docs/fleet.md.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """One line about what was done; exit status 1 when it could not be."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("settle", "untrust"):
        sys.stderr.write("usage: … settle ROOT, or untrust ROOT\n")
        return 2
    from fleet.agent_errors import AgentError

    os.umask(0o022)
    order, root = sys.argv[1], os.path.realpath(sys.argv[2])
    try:
        done = _settle(root) if order == "settle" else _untrust(root)
    except (AgentError, OSError) as error:
        sys.stderr.write(f"wain: {root}: {error}\n")
        return 1
    sys.stdout.write(f"wain: {root}: {done or 'nothing to settle'}\n")
    return 1 if done.startswith("cannot") else 0


def _settle(root: str) -> str:
    from fleet.agent import Agent
    from fleet.agent_switch import settle

    nothing = os.open(os.devnull, os.O_RDWR)
    return settle(Agent(root, "", nothing, nothing))


def _untrust(root: str) -> str:
    from fleet.agent_lock import acquire
    from fleet.agent_trust import distrust

    acquire(root, {"verb": "untrust", "by": {"who": f"uid {os.getuid()}"}})
    return distrust(root)
