"""Call build hooks in a sandbox, in a build environment made from a build lock."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import build
import packaging
import pyproject_hooks

from builder import hermetic, hook_driver
from builder.abi import Ran, auditwheel_command
from builder.buildenv import Builder, make_build_env
from builder.hermetic import Outcome
from builder.source_tree import EPOCH
from builder.workspace import INSIDE, Workspace
from images.duration import format_duration
from images.errors import WainError
from wheelhouse.lock import Lock, LockedPackage
from wheelhouse.text import bare

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_WHEEL = 4 << 30
_REASONS = ("error:", "fatal error:", "Error:", "Exception:")


class BuildFailed(WainError):
    """A build that failed or was stopped: ``log`` is where its output lies."""

    def __init__(self, where: str, what: str, log: Path) -> None:
        self.log = log
        super().__init__(where, what, f"log: {log}")


class Bench:
    """One build folder with a build environment: where the hooks of one source are called.

    ``where`` names the source in messages, ``seconds`` is what is left for all the hooks
    together. Put the source into :attr:`source` first, then call :meth:`prepare`.
    """

    def __init__(
        self,
        workspace: Workspace,
        builder: Builder,
        where: str,
        log: Path,
        seconds: float,
        flags: Mapping[str, str],
    ) -> None:
        self.workspace = workspace
        self.builder = builder
        self.where = where
        self.log = log
        self.source = workspace.folder / "src"
        self._end = time.monotonic() + seconds
        self._seconds = seconds
        self._flags = dict(flags)
        self._python = ""

    def prepare(self, lock: Lock, wheel_of: Callable[[LockedPackage], Path]) -> None:
        """Make the build environment and hand the folder to the build's user."""
        folder = self.workspace.folder
        self._python = make_build_env(
            folder / "env", self.workspace.inside("env"), self.builder, lock, wheel_of
        )
        tools = folder / "tools"
        for module in (build, packaging, pyproject_hooks):
            origin = Path(str(module.__file__)).parent
            shutil.copytree(
                origin, tools / origin.name, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copyfile(str(hook_driver.__file__), tools / "hook_driver.py")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text(f"isolation: {self.workspace.isolation.describe()}\n")
        self.workspace.hand_over()

    def requires(self) -> list[str]:
        """What ``get_requires_for_build_wheel`` asks for beyond the static requirements."""
        self._hook("requires")
        path = self.workspace.take("out", "requires.json", 1 << 20)
        try:
            wanted = json.loads(path.read_bytes())
        except ValueError:
            wanted = None
        if not isinstance(wanted, list) or not all(isinstance(item, str) for item in wanted):
            raise BuildFailed(self.where, "get_requires_for_build_wheel gave no list", self.log)
        return wanted

    def wheel(self) -> Path:
        """Build the wheel; a copy of it that the build cannot reach any more."""
        self._hook("wheel")
        return self._result("out")

    def auditwheel(self, arguments: list[str]) -> Ran:
        """Run auditwheel in the same isolation: what it reads was made by foreign code."""
        command = auditwheel_command(arguments, self.workspace.inside("repaired"))
        prefix = str(Path(sys.prefix).resolve())
        report = self.workspace.kept / "auditwheel"
        report.unlink(missing_ok=True)
        readable = (*hermetic.own_python()[1:], prefix, sys.prefix)
        outcome = hermetic.run(
            self.workspace,
            command,
            folder="tmp",
            environment=self._environment({"PATH": f"{sys.prefix}/bin:{_PATH}"}),
            readable=tuple(dict.fromkeys(readable)),
            deadline=self._left(),
            log=report,
        )
        self._stopped(outcome, "auditwheel")
        output = report.read_bytes()
        with self.log.open("ab") as log:
            log.write(output)
        return Ran(outcome.status, output)

    def repaired(self) -> Path:
        """The wheel auditwheel wrote, taken like a built one."""
        return self._result("repaired")

    def _result(self, folder: str) -> Path:
        names = [name for name in self.workspace.listed(folder) if name.endswith(".whl")]
        if len(names) != 1:
            raise BuildFailed(
                self.where, f"left {len(names)} wheels, expected exactly one", self.log
            )
        place = self.workspace.kept / folder
        place.mkdir()
        return self.workspace.take(folder, names[0], _MAX_WHEEL, place)

    def _hook(self, what: str) -> None:
        inside = self.workspace.inside
        python, prefix = hermetic.own_python()
        readable = (*self.builder.readable, prefix, python)
        outcome = hermetic.run(
            self.workspace,
            [python, "-I", "-S", inside("tools", "hook_driver.py"), what, inside("src"),
             self._python, inside("out")],
            folder="src",
            environment=self._environment(self._flags),
            readable=tuple(dict.fromkeys(readable)),
            deadline=self._left(),
            log=self.log,
        )  # fmt: skip
        name = "build_wheel" if what == "wheel" else "get_requires_for_build_wheel"
        self._stopped(outcome, name)
        if outcome.status:
            raise BuildFailed(self.where, f"{name} failed: {reason(outcome.tail)}", self.log)

    def _stopped(self, outcome: Outcome, name: str) -> None:
        if outcome.timed_out:
            raise BuildFailed(
                self.where,
                f"{name} was stopped with all its processes at the deadline "
                f"of {format_duration(self._seconds)} ('timeout' in [build])",
                self.log,
            )

    def _left(self) -> float:
        return max(0.1, self._end - time.monotonic())

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        inside = self.workspace.inside
        # Debugging information names folders; so do assertions, unless mapped away.
        flags = "-g0"
        if not self.workspace.isolation.neutral_path:
            flags += f" -ffile-prefix-map={inside()}={INSIDE}"
        return {
            "HOME": inside("home"),
            "TMPDIR": inside("tmp"),
            "PATH": f"{inside('env', 'bin')}:{_PATH}",
            "USER": "build",
            "LOGNAME": "build",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "SOURCE_DATE_EPOCH": str(EPOCH),
            "PYTHONHASHSEED": "0",
            "PYTHONNOUSERSITE": "1",
            # Compiled files go where no backend collects them.
            "PYTHONPYCACHEPREFIX": inside("tmp", "pycache"),
            "CFLAGS": flags,
            "CXXFLAGS": flags,
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **more,
        }


def reason(tail: bytes) -> str:
    """The line of a log that says most about why it ends there, escaped."""
    lines = [line.strip() for line in tail.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        return "it printed nothing"
    own = lines[-1] if lines[-1].startswith(("build backend:", "not buildable:")) else ""
    if own.startswith("not buildable:"):
        return bare(own.partition(": ")[2], 300)
    said = [line for line in lines if line != own]
    for line in reversed(said):
        if any(mark in line for mark in _REASONS):
            return bare(line, 300)
    return bare(said[-1] if said else own, 300)
