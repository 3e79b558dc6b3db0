"""What a copy of this process makes and hands over in shared memory."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.feeding import Feeding, Writer
from images.errors import WainError
from tests.support.hosts import children


def open_files() -> list[str]:
    return os.listdir("/proc/self/fd")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=700), max_size=30), st.integers(8, 500), st.integers(1, 400))
def test_the_bytes_come_in_order_in_any_room(written: list[bytes], room: int, most: int) -> None:
    before, files = children(), len(open_files())

    def work(writer: Writer) -> None:
        assert os.getpid() != parent
        for data in written:
            writer.write(data)

    parent = os.getpid()
    pieces = list(Feeding(work, room).pieces(most))
    assert b"".join(pieces) == b"".join(written)
    assert max(map(len, pieces), default=0) <= most
    assert (children(), len(open_files())) == (before, files)


def test_it_waits_where_nobody_reads(tmp_path: Path) -> None:
    def work(writer: Writer) -> None:
        for number in range(10):
            writer.write(bytes([number]) * 1000)
            (tmp_path / str(number)).write_text(f"{writer.speed}")

    before = children()
    pieces = Feeding(work, 3000).pieces(1000)
    [copy] = children() - before

    def wait_for_it(number: int) -> None:
        while Path(f"/proc/{copy}/stat").read_text().split()[2] != "S":
            time.sleep(0.01)
        assert (tmp_path / f"{number - 1}").exists()
        assert not (tmp_path / f"{number}").exists()

    while not (tmp_path / "2").exists():
        time.sleep(0.01)
    wait_for_it(3)
    for number in range(7):
        assert next(pieces) == bytes([number]) * 1000
        while not (tmp_path / f"{number + 3}").exists():
            time.sleep(0.01)
        if number < 6:
            wait_for_it(number + 4)
    assert b"".join(pieces) == b"".join(bytes([number]) * 1000 for number in range(7, 10))
    speeds = [float((tmp_path / str(number)).read_text()) for number in range(10)]
    # The first wait only says when it began.
    assert speeds[:4] == [math.inf] * 4
    assert all(0 < speed < math.inf for speed in speeds[4:])


def test_its_error_comes_after_what_it_had_made() -> None:
    def work(writer: Writer) -> None:
        writer.write(b"begun")
        raise WainError("here", "no more")

    before = children()
    pieces = Feeding(work, 1000).pieces(1000)
    assert next(pieces) == b"begun"
    with pytest.raises(WainError, match="here: no more"):
        next(pieces)
    assert children() == before


def endless(writer: Writer) -> None:
    while True:
        writer.write(bytes(100))


def test_it_ends_with_the_one_who_reads() -> None:
    before, files = children(), len(open_files())
    pieces = Feeding(endless, 1000).pieces(1000)
    assert next(pieces)
    pieces.close()
    assert (children(), len(open_files())) == (before, files)


@pytest.mark.parametrize("begun", [True, False])
def test_stopped_it_is_not_taken_for_complete(begun: bool) -> None:
    before, files = children(), len(open_files())
    feeding = Feeding(endless, 1000)
    pieces = feeding.pieces(1000)
    if begun:
        next(pieces)
    stopper = threading.Thread(target=feeding.stop)
    stopper.start()
    stopper.join()
    assert children() == before
    with pytest.raises(InterruptedError):
        list(pieces)
    feeding.stop()
    assert len(open_files()) == files


def test_it_dies_with_the_one_who_reads() -> None:
    """Killed, that one can end nothing: the copy finds out by itself, while it waits too."""
    program = """
import os, time
from fleet.feeding import Feeding, Writer
def endless(writer):
    print(os.getpid(), flush=True)
    while True:
        writer.write(bytes(100))
pieces = Feeding(endless, 1000).pieces(1000)
next(pieces)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        copy = os.pidfd_open(int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        # Its end of the pipe closes when both are gone.
        assert process.stdout.read() == b""
        os.close(copy)
