"""What a roll-out over a real sshd must not do: run what is only a name, or tell a secret."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleets import Project
from tests.support.sshd import Sshd, serving

pytestmark = pytest.mark.sshd

CANARY = "canary-secret-4711"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    folder = tmp_path / "sshd"
    folder.mkdir(mode=0o755)
    with serving(folder, 2) as server:
        yield server


class Poller:
    """Reads every command line of this machine, which all hosts are on, again and again."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: set[bytes] = set()

    def _look(self) -> None:
        while not self._stop.wait(0.01):
            for name in filter(str.isdecimal, os.listdir("/proc")):
                try:
                    self.seen.add(Path("/proc", name, "cmdline").read_bytes())
                except OSError:
                    continue

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def write(project: Project, server: Sshd, more: str, rollout: str) -> None:
    text = server.fleet_toml(more).replace(f'python = "{sys.executable}"\n', "")
    (project.folder / "fleet.toml").write_text(text + "[rollout]\n" + rollout)
    project.hosts = ["h1", "h2"]


@pytest.mark.row("L1")
def test_a_secret_of_a_host_is_nowhere_but_there(
    project: Project, server: Sshd, tmp_path: Path
) -> None:
    env_file = tmp_path / "shop.env"
    env_file.write_text(f"PASSWORD={CANARY}\n")
    env_file.chmod(0o600)
    # It is printed, it is in the last line of what fails, and a failing hook prints it again.
    rollout = """
        health = ["printenv PASSWORD; sleep 0.1; test ! -e {release}/bad"]
        after-switch = ["printenv PASSWORD >&2; test ! -e {root}/current/worse"]
        max-failures = 9
    """
    more = f'python = "{sys.executable}"\nenv-file = "{env_file}"\nroot = "/srv/not/used"'
    write(project, server, more, rollout)
    project.image("v1")
    project.image("v2", bad=b"x")
    project.image("v3", worse=b"x")
    said = []
    with Poller() as poller:
        for tag, code in (("v1", 0), ("v2", 1), ("v3", 1)):
            ran = project.wain("rollout", f"shop:{tag}", "--yes")
            assert ran.code == code, ran.text
            said.append(ran.text + json.dumps(ran.document))
    for words in (["report"], ["history"], ["status"], ["quarantine"], ["report", "r2"]):
        ran = project.wain(*words)
        said.append(ran.text + json.dumps(ran.document))
    assert CANARY not in "".join(said)
    assert "***" in said[-1]  # the report of what failed
    lines = b"".join(poller.seen)
    assert b"printenv PASSWORD" in lines  # it did look while hooks ran
    assert CANARY.encode() not in lines
    found = [
        path for path in tmp_path.rglob("*")
        if path.is_file() and not path.is_symlink() and CANARY.encode() in path.read_bytes()
    ]  # fmt: skip
    assert found == [env_file]
    for path in (project.folder / ".wain").glob("fleet.db*"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.row("V2")
def test_what_a_shell_would_run_is_only_a_name(
    project: Project, server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = "a $(touch ran1) `touch ran2`; touch ran3 & 'b' \"c\" | * ~ > ran4 #"
    python = tmp_path / f"python {evil}"
    python.symlink_to(sys.executable)
    env_file = tmp_path / f"env {evil}"
    env_file.write_text("MODE=$(touch ran5)`touch ran6`\n")
    become = "env 'B=$(touch ran7)'"
    given = {"python": str(python), "env-file": str(env_file), "become": become}
    more = "\n".join(f"{key} = {json.dumps(value)}" for key, value in given.items())
    write(
        project, server, more,
        """health = ["{release}/bin/app", "test -d {root}/releases/{id} && echo $MODE"]""",
    )  # fmt: skip
    toml = project.folder / "fleet.toml"
    text = toml.read_text()
    for number in (1, 2):
        root = server.root(number)
        text = text.replace(json.dumps(root), json.dumps(f"{root} {evil}"))
    toml.write_text(text)
    project.image("v1")
    image = project.image("v2")
    for words in (
        ["check"], ["rollout", "shop:v1", "--yes"], ["rollout", "shop:v2", "--yes"],
        ["verify", "--deep"], ["rollback", "--yes"], ["rollback", "--yes"], ["status"],
        ["prune"],
    ):  # fmt: skip
        ran = project.wain(*words)
        assert ran.code == 0, (words, ran.text, ran.document)
    link = Path(f"{server.root(1)} {evil}", "current")
    assert os.readlink(link) == f"releases/{image}"
    assert [path for path in tmp_path.rglob("ran*") if path.name[3:4].isdigit()] == []
    # Where quoting would not be enough, it is refused before anything is contacted.
    for key, value in (
        ("address", "h;touch ran8"), ("user", "$(touch ran9)"), ("name", "a b"),
        ("address", "-oProxyCommand=touch ran8"), ("user", "-l"), ("python", "-c"),
        ("python", "bin/python"), ("root", "/srv/a\nb"), ("root", "relative"),
    ):  # fmt: skip
        bad = f'[[host]]\nname = "h1"\nroot = "/srv/app"\n{key} = {json.dumps(value)}\n'
        if key in ("name", "root"):
            bad = '[[host]]\nname = "h1"\nroot = "/srv/app"\n'.replace(
                f'{key} = "{"h1" if key == "name" else "/srv/app"}"', f"{key} = {json.dumps(value)}"
            )
        toml.write_text(bad)
        ran = project.wain("check")
        assert ran.code == 2, (key, value, ran.text)
        assert ran.text.startswith("wain: error: fleet.toml:"), ran.text
        assert ran.text.count("\n") == 1
    assert [path for path in tmp_path.rglob("ran*") if path.name[3:4].isdigit()] == []
