"""The agent without a controller: settle what a power cut left, before services start. Travels.

``python -I -S ROOT/agent/<sha256>.pyz settle ROOT`` goes back from an unconfirmed switch, as the
next contact would. For a systemd unit at boot; see docs/fleet.md.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """One line about what was done; exit status 1 when it could not be."""
    if len(sys.argv) != 3 or sys.argv[1] != "settle":
        sys.stderr.write("usage: … settle ROOT\n")
        return 2
    from fleet.agent import Agent
    from fleet.agent_errors import AgentError
    from fleet.agent_switch import settle

    os.umask(0o022)
    root = os.path.realpath(sys.argv[2])
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        done = settle(Agent(root, "", nothing, nothing))
    except (AgentError, OSError) as error:
        sys.stderr.write(f"wain: {root}: {error}\n")
        return 1
    sys.stdout.write(f"wain: {root}: {done or 'nothing to settle'}\n")
    return 1 if done.startswith("cannot") else 0
