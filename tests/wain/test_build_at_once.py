"""Builds that run at once, that are killed, and a prune in the middle: one wheelhouse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts import until
from tests.support.httpserver import Handler, Server, serving, sha256
from tests.support.wheels import draft
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock, LockedFile, LockedPackage, write_lock
from wheelhouse.target import Target

SIZE = 3 << 20


class Work:
    """A locked project whose one large wheel the server holds back half-way, once."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.server = server
        self.reached = threading.Event()
        wheel = draft("demo")
        wheel.add("demo/large.bin", os.urandom(SIZE))
        self.file = folder / "files" / wheel.filename
        self.file.parent.mkdir(parents=True)
        self.file.write_bytes(wheel.to_bytes())
        server.index(self.file)
        (folder / "requirements.txt").write_text("demo\n")
        file = LockedFile(wheel.filename, sha256(self.file), self.file.stat().st_size)
        lock = Lock(Target.running("default"), (LockedPackage("demo", "1.0", file),))
        write_lock(lock, folder / "locks" / "pylock.default.toml", self.house.folder)
        self.path = f"/simple/files/{self.file.name}"
        server.behave[self.path] = self._half

    def _half(self, handler: Handler) -> None:
        del self.server.behave[self.path]
        data = self.file.read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])
        handler.wfile.flush()
        self.reached.set()
        self.server.closing.wait(60)

    @property
    def house(self) -> Wheelhouse:
        return Wheelhouse(self.folder / ".wain" / "wheelhouse")

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
        environment |= {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.server.url + "/simple/",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "wain", "-C", str(self.folder), *words],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    with serving() as server:
        yield Work(tmp_path / "shop", server)


@pytest.fixture
def stuck(work: Work) -> Iterator[subprocess.Popen[str]]:
    """A `wain build` that has half of the wheel."""
    process = work.start("build")
    assert work.reached.wait(60)
    yield process
    process.kill()
    process.communicate()


def sources(ran: subprocess.CompletedProcess[str]) -> list[str]:
    assert ran.returncode == 0, ran.stderr
    return [wheel["source"] for wheel in json.loads(ran.stdout)["wheels"]]


def test_two_builds_and_a_prune(work: Work, stuck: subprocess.Popen[str]) -> None:
    """The second build has all it needs; removing waits for both, and says for whom."""
    assert sources(work.run("build", "--json")) == ["index"]
    refused = work.run("wheelhouse", "prune")
    assert refused.returncode == 6
    assert f"in use by process {stuck.pid} since" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert work.run("wheelhouse", "prune", "--dry-run").returncode == 0
    stuck.kill()
    stuck.wait()
    # What a killed build left of a file that is there by now goes too.
    assert work.run("wheelhouse", "prune").returncode == 0
    assert list(work.house.partial.iterdir()) == []
    assert work.house.verify() == ()
    assert sources(work.run("build", "--json")) == ["kept"]


def test_a_killed_build_goes_on(work: Work, stuck: subprocess.Popen[str]) -> None:
    """The same command again asks for the rest alone."""
    until(lambda: any(path.stat().st_size > SIZE // 4 for path in work.house.partial.iterdir()))
    stuck.kill()
    stuck.wait()
    assert work.house.files() == ()
    assert sources(work.run("build", "--json")) == ["index"]
    headers = {name.lower(): value for name, value in work.server.asked(work.path)[-1].items()}
    assert int(headers["range"].removeprefix("bytes=").rstrip("-")) > SIZE // 4
    assert list(work.house.partial.iterdir()) == []
    assert work.house.verify() == ()
