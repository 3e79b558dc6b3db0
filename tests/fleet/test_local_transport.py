"""The local transport keeps no descriptor once closed, and works above the first thousand."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from fleet.transport import LocalTransport, _ChildChannel

CODE = "import os; os.write(2, b'said'); os.write(1, os.read(0, 9))"
ECHO = [sys.executable, "-I", "-S", "-c", CODE]


def test_a_closed_channel_holds_no_descriptor_and_remembers_what_was_said() -> None:
    before = set(os.listdir("/proc/self/fd"))
    channel = LocalTransport("h").open(ECHO, time.monotonic() + 30)
    channel.write(b"x", time.monotonic() + 30)
    assert channel.read(9, time.monotonic() + 30) == b"x"
    channel.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert channel.stderr() == "said"


def test_readiness_of_a_descriptor_above_1023() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this machine allows too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    near, far = socket.socketpair()
    try:
        high = socket.socket(fileno=fcntl.fcntl(near.fileno(), fcntl.F_DUPFD_CLOEXEC, 2000))
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - the channel closes it
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
        channel = _ChildChannel(process, high, errors)
        assert not channel.ready()
        far.send(b"x")
        assert channel.ready()
        channel.close()
    finally:
        near.close()
        far.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
