"""`wain wheelhouse …`: what it says, its JSON and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.wheels import draft, make_sdist, make_wheel
from wain.cli import main
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock, LockedFile, LockedPackage, write_lock
from wheelhouse.target import Target

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `wain wheelhouse …` in a folder: exit code, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(["wheelhouse", *words, "-C", str(tmp_path)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def house(tmp_path: Path) -> Wheelhouse:
    return Wheelhouse(tmp_path / ".wain" / "wheelhouse")


def test_add_and_list(tmp_path: Path, run: Run, house: Wheelhouse) -> None:
    one, two = make_wheel(tmp_path, "demo-one"), make_sdist(tmp_path, "demo-two")
    code, out, err = run("add", str(one), str(two))
    assert (code, err) == (0, "")
    assert f"added  {one.name}" in out
    assert [entry.name for entry in house.files()] == ["demo-one", "demo-two"]
    assert f"kept  {one.name}" in run("add", str(one))[1]
    code, out, _ = run("list", "--json")
    document = json.loads(out)
    assert [f["file"] for f in document["files"]] == [one.name, two.name]
    assert document["bytes"] == one.stat().st_size + two.stat().st_size
    code, out, _ = run("list", "Demo_Two")
    assert two.name in out
    assert one.name not in out


def test_a_refused_file_does_not_stop_the_others(
    tmp_path: Path, run: Run, house: Wheelhouse
) -> None:
    bad = tmp_path / "bad-1.0-py3-none-any.whl"
    bad.write_bytes(b"x")
    good = make_wheel(tmp_path)
    code, out, err = run(
        "add", str(bad), str(tmp_path / "gone-1.0-py3-none-any.whl"), str(good), "--json"
    )
    assert code == 1
    lines = err.splitlines()
    assert lines[0].startswith("wain: error: bad-1.0-py3-none-any.whl: W6: ")
    assert lines[1].startswith("wain: error: gone-1.0-py3-none-any.whl: cannot be taken in")
    document = json.loads(out)
    assert [f["file"] for f in document["files"]] == [good.name]
    assert [r["rule"] for r in document["refused"]] == ["W6", None]
    assert len(house.files()) == 1


def test_add_with_a_hash(tmp_path: Path, run: Run, house: Wheelhouse) -> None:
    path = make_wheel(tmp_path)
    code, _, err = run("add", str(path), "--sha256", "0" * 64)
    assert code == 1
    assert "expected 0000" in err
    assert run("add", str(path), str(path), "--sha256", "0" * 64)[0] == 2
    assert house.files() == ()


@pytest.mark.row("I5")
def test_verify(tmp_path: Path, run: Run, house: Wheelhouse) -> None:
    assert run("verify")[0] == 0
    names = [house.add(make_wheel(tmp_path, f"demo-{n}")).filename for n in range(3)]
    assert run("verify")[0] == 0
    (house.folder / names[0]).write_bytes(b"x")
    (house.folder / names[1]).unlink()
    (house.folder / "extra.whl").write_bytes(b"x")
    code, out, _ = run("verify", "--json")
    assert code == 3
    document = json.loads(out)
    assert document["ok"] is False
    assert [(b["file"], b["what"]) for b in document["bad"]] == [
        (names[0], "corrupt"), (names[1], "missing"), ("extra.whl", "unlisted"),
    ]  # fmt: skip
    code, out, _ = run("verify")
    assert code == 3
    assert all(name in out for name in (names[0], names[1], "extra.whl"))


def test_why(tmp_path: Path, run: Run, house: Wheelhouse) -> None:
    (tmp_path / "wain.toml").write_text(
        'requirements = ["demo"]\n'
        '[targets.prod]\npython = "3.12"\nplatform = "manylinux_2_28_x86_64"\n'
        '[targets.arm]\npython = "3.12"\nplatform = "manylinux_2_28_aarch64"\n'
    )
    tag = "cp312-cp312-manylinux_2_28_x86_64"
    wheel = house.add(make_wheel(tmp_path, "demo", "2.0", tag=tag)).filename
    code, out, _ = run("why", "demo>=2", "--json")
    assert code == 0
    targets = json.loads(out)["targets"]
    assert [candidate["taken"] for candidate in targets["prod"]] == [True]
    assert targets["arm"][0] == {
        "file": wheel,
        "taken": False,
        "reason": "is for manylinux_2_28_x86_64, the target is manylinux_2_28_aarch64",
    }
    code, out, _ = run("why", "demo; python_version < '3'", "--target", "prod")
    assert code == 0
    assert "taken" in out
    assert "not needed there" in out
    assert run("why", "nothing")[0] == 1
    assert run("why", "demo", "--target", "prodd")[0] == 2
    assert run("why", "demo >> 2")[0] == 2


def test_why_without_a_wain_toml(tmp_path: Path, run: Run, house: Wheelhouse) -> None:
    house.add(make_wheel(tmp_path))
    code, out, _ = run("why", "demo")
    assert code == 0
    assert "demo on default" in out
    assert run("why", "demo", "--target", "prod")[0] == 2


def test_prune(tmp_path: Path, run: Run, house: Wheelhouse) -> None:
    keep = house.add(make_wheel(tmp_path, "demo", "1.0"))
    source = house.add(make_sdist(tmp_path, "source", "1.0"))
    built = house.add(make_wheel(tmp_path, "source", "1.0", build="1_ab"))
    house.add(make_wheel(tmp_path, "source", "0.9"))
    house.add(make_wheel(tmp_path, "demo", "0.9"))
    code, _, err = run("prune")
    assert code == 2
    assert "no lock says what to keep" in err

    def locked(entry: Any) -> LockedPackage:
        file = LockedFile(entry.filename, entry.sha256)
        return LockedPackage(entry.name, str(entry.version), file, entry.kind)

    lock = Lock(Target.running(), (locked(keep), locked(source)))
    write_lock(lock, tmp_path / "locks" / "pylock.default.toml", house.folder)
    code, out, _ = run("prune", "--dry-run", "--json")
    assert json.loads(out)["removed"] == [
        "demo-0.9-py3-none-any.whl",
        "source-0.9-py3-none-any.whl",
    ]
    assert len(house.files()) == 5
    assert run("prune")[0] == 0
    assert {e.filename for e in house.files()} == {
        keep.filename, source.filename, built.filename,
    }  # fmt: skip


def test_another_wheelhouse(tmp_path: Path, run: Run) -> None:
    other = tmp_path / "other"
    assert run("add", str(make_wheel(tmp_path)), "--wheelhouse", str(other))[0] == 0
    assert len(Wheelhouse(other).files()) == 1
    assert json.loads(run("list", "--json")[1])["files"] == []


def test_without_an_action(run: Run) -> None:
    code, out, _ = run()
    assert code == 2
    assert "serve" in out


def test_names_cannot_drive_a_terminal(tmp_path: Path, run: Run) -> None:
    wheel = draft()
    wheel.add("demo/\x1b]0;title\x07.py")
    code, _, err = run("add", str(wheel.write(tmp_path)))
    assert code == 1
    assert "\x1b" not in err
    assert r"\x1b" in err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_serve(how: signal.Signals, tmp_path: Path, house: Wheelhouse) -> None:
    house.add(make_wheel(tmp_path))
    words = ["-C", str(tmp_path), "wheelhouse", "serve", "--port", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, "-m", "wain", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            text += line
        url = json.loads(text)["url"]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url + "demo/", timeout=10) as answer:
            assert b"demo-1.0-py3-none-any.whl" in answer.read()
        process.send_signal(how)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_serve_where_it_cannot(tmp_path: Path, run: Run) -> None:
    code, _, err = run("serve", "--port", "99999")
    assert code == 1
    assert "cannot listen" in err
