"""The command line's core: words to a command, errors to one line and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from images.errors import DifferenceError, LockedError, UsageError, WainError
from wain import cli
from wain.output import Output

WAIN = [sys.executable, "-m", "wain"]


def _raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    import wain.demo

    def run(args: object, out: Output) -> int:
        raise error

    monkeypatch.setattr(wain.demo, "run", run)
    return cli.main(["demo"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WainError("host web1", "refused"), 1),
        (UsageError("wain.toml:3", "unknown key 'nmae'", "did you mean 'name'?"), 2),
        (DifferenceError(".venv", "differs"), 3),
        (LockedError("fleet", "held by ann"), 6),
        (OSError(28, "No space left on device", "store/objects"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_one_line_and_a_code(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _raising(error, monkeypatch) == code
    stderr = capsys.readouterr().err
    assert stderr.startswith("wain: error: ")
    assert stderr.count("\n") == 1


def test_an_error_names_its_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _raising(UsageError("wain.toml:3", "unknown key 'nmae'", "did you mean 'name'?"), monkeypatch)
    expected = "wain: error: wain.toml:3: unknown key 'nmae' (did you mean 'name'?)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("words", [["--frobnicate"], ["demo", "--frobnicate"], ["nothing"]])
def test_wrong_usage_is_exit_2_in_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("wain: error: ")
    assert stderr.count("\n") == 1


def test_a_folder_that_is_not_there_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "-C", "no/such/folder"]) == 2
    assert "no/such/folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help_with_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    assert "130  interrupted" in capsys.readouterr().out


def test_the_store_s_action_has_help_with_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "verify", "--help"]) == 0
    assert "Hash every object again" in (text := capsys.readouterr().out)
    assert "6  locked by someone else" in text


def test_options_stand_before_or_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--json", "--version"]) == 0
    assert '"version"' in capsys.readouterr().out


def test_starting_imports_no_third_party_package() -> None:
    code = (
        "import sys; before = set(sys.modules); import wain.cli; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    assert not loaded - set(sys.stdlib_module_names) - {"wain"}


@pytest.mark.row("C2")
def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    result = subprocess.run(
        [*WAIN, "--json", "--version"], stdout=write_end, stderr=subprocess.PIPE, check=False
    )
    os.close(write_end)
    assert b"Traceback" not in result.stderr
    assert b"Exception ignored" not in result.stderr


def test_an_interruption_while_it_is_loaded_is_no_traceback() -> None:
    code = (
        "import runpy, sys\n"
        "class Cut:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'wain.output': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Cut())\n"
        "sys.argv = ['wain', 'env']\n"
        "runpy.run_module('wain', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "wain: error: interrupted; nothing was begun\n")


LEAVING = """
import atexit, sys, tempfile, threading
import wain.cli
folder = tempfile.TemporaryDirectory()
print(folder.name)
atexit.register(lambda: print("said at the end"))
def main():
    print("x" * 300_000)
    if "thread" in sys.argv:
        threading.Thread(target=lambda: (threading.Event().wait(0.2), print("thread done"))).start()
    return 3
wain.cli.main = main
from wain.__main__ import start
sys.exit(start())
"""


@pytest.mark.parametrize("words", [[], ["thread"]])
def test_nothing_is_lost_at_the_end(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr == ""
    folder, long, *rest = done.stdout.splitlines()
    assert not Path(folder).exists()
    assert long == "x" * 300_000
    assert rest == ["thread done" for _ in words] + ["said at the end"]
