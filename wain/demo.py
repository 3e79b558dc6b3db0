"""`wain demo`: the main job on this machine, told with the real commands, on five local hosts."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from images.errors import WainError
from wain.output import Output

HOSTS = ["web1", "web2", "web3", "web4", "web5"]
# Only a folder that holds this file is ever cleared for another demonstration.
MARKER = ".wain-demo"

FLEET = """\
# Five "hosts" that are folders on this machine. With transport = "ssh" (the default) and an
# address each, they would be real ones; nothing else here would change.
python = {python}
transport = "local"

{hosts}
[rollout]
waves = ["label:canary", "60%", "100%"]
max-failures = 1
health = ["{{release}}/bin/shop check"]
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wain demo`."""
    parser.add_argument(
        "folder", nargs="?", default="demo", help="where to play it (default: ./demo)"
    )
    parser.add_argument("--yes", action="store_true", help="do not wait between the chapters")


def run(args: argparse.Namespace, out: Output) -> int:
    """Play all chapters; exit 1 when one did not end as it should."""
    folder = Path(args.directory, args.folder).absolute()
    story = _Story(folder, out, wait=not args.yes and out.interactive)
    story.begin()
    story.first_version()
    story.second_version()
    story.third_version()
    story.back_to_the_first()
    return story.end()


class _Story:
    """The chapters, and what they need to know of each other."""

    def __init__(self, folder: Path, out: Output, *, wait: bool) -> None:
        self._folder = folder
        self._shop = folder / "shop"
        self._out = out
        self._wait = wait
        self._begun = time.monotonic()
        self._rows: list[list[str]] = []

    def begin(self) -> None:
        """An empty folder with five hosts and the first version of the application."""
        if self._folder.exists():
            if not (self._folder / MARKER).exists() and any(self._folder.iterdir()):
                raise WainError(
                    str(self._folder), "is not empty and no demonstration", "name another folder"
                )
            _remove_tree(self._folder)
        self._folder.mkdir(parents=True)
        (self._folder / MARKER).write_text("made by `wain demo`; the next one clears this folder\n")
        self._lay("1.0")
        hosts = "\n".join(
            f'[[host]]\nname = "{name}"\nroot = {json.dumps(str(self._folder / "hosts" / name))}\n'
            + ('labels = ["canary"]\n' if name == HOSTS[0] else "")
            for name in HOSTS
        )
        interpreter = json.dumps(os.path.realpath(sys.executable))
        (self._shop / "fleet.toml").write_text(FLEET.format(python=interpreter, hosts=hosts))

    def first_version(self) -> None:
        """Requirements to lock, wheelhouse, image, environment and roll-out."""
        self._chapter("1. A requirements file becomes a locked image, an environment, a release")
        self._wain("init")
        self._wain("lock")
        self._wain("build")
        self._wain("image", "build", "--tag", "v1")
        self._wain("env")
        self._command(str(self._shop / ".venv" / "bin" / "shop"), "receipt")
        self._wain("fleet", "check")
        self._roll_out("v1", "version 1 to all five hosts")
        self._on_host("web5")

    def second_version(self) -> None:
        """One package bumped: see every change first, then roll it out in waves."""
        self._chapter("2. One package has a security release: what changes, exactly, and where?")
        self._lay("2.0")
        self._wain("lock", "--upgrade", "jinja2")
        self._wain("build")
        self._wain("image", "build", "--tag", "v2")
        self._wain("image", "diff", "shop:v1", "shop:v2")
        self._wain("fleet", "plan", "shop:v2")
        self._roll_out("v2", "one package bumped, in three waves")
        self._on_host("web5")

    def third_version(self) -> None:
        """A release whose health check fails on the canary."""
        self._chapter("3. A bad release: the canary's health check fails")
        self._lay("3.0")
        self._wain("image", "build", "--tag", "v3")
        self._roll_out("v3", "a bad release: stopped at the canary, reverted", expected=4)
        self._on_host("web1")

    def back_to_the_first(self) -> None:
        """Every host back on version 1, with nothing sent."""
        self._chapter("4. Back to version 1, everywhere, with nothing sent")
        document = self._wain("fleet", "rollback", "--yes", json_too=True)
        self._note(document, "rollback to version 1")
        self._on_host("web5")
        self._wain("fleet", "status")

    def end(self) -> int:
        """The table, and where to look."""
        self._out.say()
        self._out.table(["what", "result", "hosts", "bytes sent", "seconds"], self._rows)
        seconds = time.monotonic() - self._begun
        self._out.say(
            f"\nAll of it took {seconds:.0f} s. Explore {self._folder}: shop/ (the project, its "
            f"locks/ and .venv/), hosts/ (five hosts, each with current -> releases/...), store/."
        )
        self._out.say(f"  cd {self._shop} && export WAIN_STORE={self._folder / 'store'}")
        self._out.result({"folder": str(self._folder), "seconds": round(seconds, 1)})
        return 0

    def _roll_out(self, tag: str, what: str, *, expected: int = 0) -> None:
        document = self._wain(
            "fleet", "rollout", f"shop:{tag}", "--yes", expected=expected, json_too=True
        )
        self._note(document, what)

    def _note(self, document: dict[str, object], what: str) -> None:
        hosts = document["hosts"]
        assert isinstance(hosts, dict)
        states: dict[str, int] = {}
        for host in hosts.values():
            states[host["state"]] = states.get(host["state"], 0) + 1
        self._rows.append(
            [
                what,
                str(document["result"]),
                ", ".join(f"{count} {state}" for state, count in states.items()),
                str(sum(host["bytes_sent"] for host in hosts.values())),
                f"{max(host['seconds'] for host in hosts.values()):.1f}",
            ]
        )

    def _on_host(self, name: str) -> None:
        current = self._folder / "hosts" / name / "current" / "bin" / "shop"
        self._command(str(current), "check")

    def _chapter(self, title: str) -> None:
        self._out.say(f"\n=== {title}")
        if self._wait:
            print("    (Enter to go on)", end="", flush=True)
            sys.stdin.readline()

    def _lay(self, version: str) -> None:
        """Copy a version's files over the project, as a developer's commit would bring them."""
        shutil.copytree(_examples() / "shop" / version, self._shop, dirs_exist_ok=True)
        git = ["git", "-C", str(self._shop), "-c", "user.name=demo", "-c", "user.email=demo@demo"]
        if not (self._shop / ".git").exists():
            _quietly([*git, "init", "-q"])
        _quietly([*git, "add", "-A"])
        _quietly([*git, "commit", "-q", "-m", f"shop {version}"])

    def _wain(self, *words: str, expected: int = 0, json_too: bool = False) -> dict[str, object]:
        """Run one wain command as a reader would; its JSON document when asked for."""
        self._out.say(f"\n$ wain {' '.join(words)}")
        argv = [sys.executable, "-P", "-m", "wain", *words, *(["--json"] if json_too else [])]
        environment = {**os.environ, "WAIN_STORE": str(self._folder / "store")}
        result = subprocess.run(
            argv,
            cwd=self._shop,
            env=environment,
            stdout=subprocess.PIPE if json_too else _people(self._out),
            stderr=_people(self._out) if json_too else None,
            check=False,
        )
        if result.returncode != expected:
            raise WainError(
                f"wain {' '.join(words)}",
                f"ended with exit code {result.returncode}, expected {expected}",
                f"the folder {self._shop} is as it left it",
            )
        if expected:
            self._out.say(f"(exit code {result.returncode}, as it should)")
        document: dict[str, object] = json.loads(result.stdout) if json_too else {}
        return document

    def _command(self, *argv: str) -> None:
        shown = " ".join(argv).replace(str(self._folder), self._folder.name)
        self._out.say(f"\n$ {shown}")
        result = subprocess.run(argv, stdout=_people(self._out), check=False)
        if result.returncode:
            raise WainError(shown, f"ended with exit code {result.returncode}, expected 0")


def _people(out: Output) -> int:
    """The file descriptor for people's text: with --json, standard output is not theirs."""
    out.stream.flush()
    return out.stream.fileno()


def _quietly(argv: list[str]) -> None:
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _examples() -> Path:
    """The example projects: beside the rooms in a checkout, inside the package when installed."""
    for folder in (Path(__file__).parent.parent / "examples", Path(__file__).parent / "examples"):
        if (folder / "shop").is_dir():
            return folder
    raise WainError("wain demo", "this installation carries no example projects")


def _remove_tree(folder: Path) -> None:
    """Remove `folder`, read-only checkouts in it included."""
    for path, folders, _ in os.walk(folder):
        for name in folders:
            if not (Path(path, name)).is_symlink():
                Path(path, name).chmod(0o755)
    shutil.rmtree(folder)
