from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder import skeleton
from builder.assemble import Image
from images.errors import WainError
from images.render import Interpreter
from images.store import Store

PREFIXES = [
    "plain",
    "with a space",
    "it's %c a 'test' $HOME `id` \"x\" !y & (z)",
    "long-" + "x" * 60 + "/" + "y" * 60 + " z",
    "ünï-çødé",
]
SHELLS = {
    "bash": ["bash", "--norc", "-c"],
    "sh": ["bash", "--posix", "--norc", "-c"],
    "dash": ["dash", "-c"],
    "zsh": ["zsh", "-f", "-c"],
    "csh": ["bsd-csh", "-f", "-c"],
    "tcsh": ["tcsh", "-f", "-c"],
    "fish": ["fish", "--no-config", "-c"],
}
SCRIPT = {
    "csh": "set prompt = '> '; source {activate}; echo $VIRTUAL_ENV:q; echo $VIRTUAL_ENV_PROMPT:q;"
    " which python; echo $prompt:q; deactivate; echo $PATH:q; echo $?VIRTUAL_ENV",
    "fish": "source {activate}; echo $VIRTUAL_ENV; echo $VIRTUAL_ENV_PROMPT; command -s python;"
    " echo -; deactivate; string join : $PATH; set -q VIRTUAL_ENV; and echo 1; or echo 0",
    "sh": ". {activate}; echo \"$VIRTUAL_ENV\"; echo \"$VIRTUAL_ENV_PROMPT\"; command -v python;"
    " echo -; deactivate; echo \"$PATH\"; echo ${{VIRTUAL_ENV+1}}0",
}  # fmt: skip


def quoted(shell: str, path: str) -> str:
    text = "'" + path.replace("'", "'\\''") + "'"
    return text.replace("!", "\\!") if "csh" in shell else text


@pytest.mark.parametrize("shell", SHELLS)
def test_activation_in_every_shell(shell: str, build: object, live: object, tmp_path: Path) -> None:
    command = SHELLS[shell]
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} here")
    image: Image = build([], bytecode=False)  # type: ignore[operator]
    family = "csh" if "csh" in shell else "fish" if shell == "fish" else "sh"
    suffix = "" if family == "sh" else f".{family}"
    for name in PREFIXES:
        prefix: Path = live(image, name)  # type: ignore[operator]
        text = SCRIPT[family].format(activate=quoted(shell, f"{prefix}/bin/activate{suffix}"))
        path = "/usr/local/bin:/usr/bin:/bin"
        # csh expands aliases of earlier lines only.
        text = text.replace("; ", "\n") + "\n" if family == "csh" else text
        arguments = command[:-1] if family == "csh" else [*command, text]
        done = subprocess.run(
            arguments, input=text, capture_output=True, text=True, check=False,
            env={"PATH": path, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "TERM": "dumb"},
        )  # fmt: skip
        lines = done.stdout.splitlines()
        assert done.returncode == 0, (name, done.stderr)
        assert lines[:3] == [str(prefix), prefix.name, f"{prefix}/bin/python"], (name, done.stderr)
        assert lines[4:] == [path, "0"], (name, done.stderr)


def test_the_prompt_of_tcsh_shows_the_folder(build: object, live: object) -> None:
    if not shutil.which("tcsh"):
        pytest.skip("no tcsh here")
    prefix = live(build([], bytecode=False), "50%off")  # type: ignore[operator]
    text = f"set prompt = '> '; source '{prefix}/bin/activate.csh'; echo $prompt:q"
    done = subprocess.run(["tcsh", "-f", "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "(50%%off) > "


def test_activate_this_and_the_interpreter(
    build: object, live: object, interpreter: Interpreter
) -> None:
    image: Image = build([], bytecode=False)  # type: ignore[operator]
    for name in PREFIXES:
        prefix: Path = live(image, name)  # type: ignore[operator]
        ask = "import sys; print(sys.prefix, sys.base_prefix, sep='\\n')"
        done = subprocess.run(
            [prefix / "bin" / "python", "-I", "-c", ask], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == [str(prefix), interpreter.base_prefix]
        ask = (
            "import runpy, sys; runpy.run_path(sys.argv[1]); "
            "print(sys.prefix, [p for p in sys.path if 'site-packages' in p][0], sep='\\n')"
        )
        done = subprocess.run(
            [interpreter.executable, "-c", ask, prefix / "bin" / "activate_this.py"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        site = prefix / "lib" / f"python{'.'.join(map(str, sys.version_info[:2]))}/site-packages"
        assert done.stdout.splitlines() == [str(prefix), str(site)]


def test_it_depends_on_the_minor_version_alone(store: Store) -> None:
    for python in ("3.9", "3.12", "3.13t"):
        paths = {piece.path for piece in skeleton.pieces(python)}
        assert {"bin/python", "bin/python3", f"bin/python{python}", "pyvenv.cfg"} <= paths
        with store.batch() as batch:
            entries = list(skeleton.put(batch, python))
        assert all(entry.owner == "-" and not entry.executable for entry in entries)
    for piece in skeleton.pieces("3.12"):
        for word in (os.path.expanduser("~").encode(), sys.prefix.encode(), b"__VIRTUAL"):
            assert word not in piece.data, piece.path


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("bin/python", True), ("bin/Python3", True), ("bin/python3.11", True),
        ("bin/python3.13t", True), ("bin/pythonw", True), ("bin/python-config", True),
        ("bin/activate", True), ("bin/ACTIVATE", True), ("pyvenv.cfg", True),
        ("lib/python3.12/sitecustomize.py", True), ("lib/python3.12/os.py", True),
        ("lib64/python3.12/site-packages/x.py", True), ("lib/python3.11/site-packages/x", True),
        ("lib/python3.12/site-packages/x.py", False), ("lib/libx.so", False),
        ("bin/pythonic", False), ("bin/ipython", False), ("share/pyvenv.cfg", False),
    ],
)  # fmt: skip
def test_what_no_package_may_own(path: str, own: bool) -> None:
    assert skeleton.reserved(path, "3.12") is own


def test_another_virtualenv_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton, "_read", lambda template: "cd __VIRTUAL_ENV__ __NEW_THING__\n")
    with pytest.raises(WainError, match="__NEW_THING__"):
        skeleton.pieces.__wrapped__("3.12")
