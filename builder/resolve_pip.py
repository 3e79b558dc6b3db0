"""pip as the resolver, for a target this machine can run.

pip evaluates markers and tags for the interpreter it runs under, so it runs under one of the
target's minor version, and a floor below this machine's libc is told to it through the
``_manylinux`` module (PEP 600). pip is a subprocess and is never imported.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from builder.pages import IndexFile
from builder.pipconfig import read_values
from builder.resolution import Found, Gate, Question, ResolveError
from builder.urls import filename_of, mask
from images.errors import WainError
from wheelhouse.target import Target

# pip's settings that a resolution must not follow: they say where to install, not what.
_INSTALLING = frozenset(
    {"target", "prefix", "root", "user", "editable", "requirement", "constraint", "quiet",
     "verbose", "report", "dry-run", "ignore-installed", "upgrade", "python", "log", "no-deps",
     "require-virtualenv", "src", "no-index", "index-url", "pypi-url", "extra-index-url",
     "find-links", "proxy", "cert", "client-cert", "trusted-host", "keyring-provider"}
)  # fmt: skip
_PLACE = re.compile(r"-r (?:\S*/)?requirements\.txt \(line (\d+)\)")
_NAMES = re.compile(r"^\s+(?:The user requested(?: \(constraint\))? )?([A-Za-z0-9][\w.-]*)")
# What pip says before or after the error itself.
# Of a traceback of its own the last line says most.
_ASIDES = ("ERROR: ResolutionImpossible", "ERROR: Ignored the following", "ERROR: Exception:")
_RULES = (
    ("Could not find a version that satisfies the requirement ", "found no version of "),
    ("No matching distribution found for ", "found nothing for "),
)


class PipResolver:
    """pip under one interpreter."""

    name = "pip"

    def __init__(self, interpreter: Path) -> None:
        self._interpreter = interpreter

    def resolve(self, question: Question, gate: Gate | None) -> tuple[Found, ...]:
        """The packages of the answer, one file each. Raises ResolveError."""
        kept = question.kept()
        moving = dict(question.upgrade)
        fresh = {line.name for line in question.requirements} - kept.keys()
        if not kept:
            return self._run(question, moving, gate)
        if not moving and not fresh:
            try:
                return self._run(question, kept, gate)
            except ResolveError:
                # The versions of the old lock no longer fit together: see what may stay.
                pass
        return self._keep_most(question, kept, moving, gate)

    def _keep_most(
        self,
        question: Question,
        kept: dict[str, str],
        moving: dict[str, str],
        gate: Gate | None,
    ) -> tuple[Found, ...]:
        """The newest answer, with as many of the old versions put back as fit together.

        Given ranges to choose from, pip would rather go back to an old release of what is to be
        upgraded than move what that needs. So the newest answer is found first; then versions
        are only ever fixed to the old or to the newest one, and what is named in a conflict
        takes its newest.
        """
        newest = self._run(question, moving, gate)
        versions = {found.name: found.version for found in newest}
        back = {name: version for name, version in kept.items() if name in versions}
        while any(versions[name] != version for name, version in back.items()):
            try:
                return self._run(question, {**versions, **back}, gate)
            except ResolveError as conflict:
                named = [
                    name for name in conflict.names if name in back and back[name] != versions[name]
                ]
                for name in named or list(back):
                    del back[name]
        return newest

    def _run(
        self, question: Question, versions: Mapping[str, str], gate: Gate | None
    ) -> tuple[Found, ...]:
        with tempfile.TemporaryDirectory(prefix="wain-lock-") as name:
            folder = Path(name)
            argv = self._command(question, versions, folder, gate)
            environment = _environment(question.target, folder, gate)
            result = subprocess.run(
                argv,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                cwd=folder,
                check=False,
            )
            if result.returncode != 0:
                raise _failure(question, result.stdout, result.stderr)
            report = json.loads((folder / "report.json").read_bytes())
        return tuple(_found(entry, question) for entry in report["install"])

    def _command(
        self, question: Question, versions: Mapping[str, str], folder: Path, gate: Gate | None
    ) -> list[str]:
        (folder / "requirements.txt").write_text(_requirements(question, gate))
        lines = [line.text for line in question.constraints]
        lines += [f"{name}=={version}" for name, version in versions.items() if version]
        (folder / "constraints.txt").write_text("".join(f"{line}\n" for line in lines))
        argv = [sys.executable, "-P", "-m", "pip"]
        if Path(sys.executable) != self._interpreter:
            argv += ["--python", str(self._interpreter)]
        argv += ["install", "--dry-run", "--ignore-installed", "--report", "report.json"]
        argv += ["--no-input", "--no-color", "--progress-bar", "off", "--no-user"]
        argv += ["--disable-pip-version-check", "-r", "requirements.txt", "-c", "constraints.txt"]
        for package in question.from_source:
            argv += ["--no-binary", package]
        return argv


def supports(target: Target) -> bool:
    """Whether the installed pip runs under the target's Python version."""
    try:
        requires = metadata("pip")["Requires-Python"] or ""
    except PackageNotFoundError:
        return False
    return SpecifierSet(requires).contains(target.python_full_version, prereleases=True)


def _requirements(question: Question, gate: Gate | None) -> str:
    """The requirements, line n of the file being the n-th of the question; options come last."""
    lines = [
        " ".join([line.text, *(f"--hash={value}" for value in line.hashes)])
        for line in question.requirements
    ]
    places = {"-i", "--index-url", "--pypi-url", "--extra-index-url", "-f", "--find-links",
              "--trusted-host", "--no-index"}  # fmt: skip
    for name, value in question.options:
        if gate is None or name not in places:
            lines.append(f"{name} {value}".rstrip())
    return "".join(f"{line}\n" for line in lines)


def _environment(target: Target, folder: Path, gate: Gate | None) -> dict[str, str]:
    environment = dict(os.environ)
    if gate is not None:
        # Nothing but the gate: pip's files would add the indexes it stands for.
        for name in [name for name in environment if name.startswith("PIP_")]:
            del environment[name]
        for option, value in read_values().items():
            if option not in _INSTALLING:
                environment[f"PIP_{option.upper().replace('-', '_')}"] = value
        environment["PIP_CONFIG_FILE"] = os.devnull
        environment["PIP_INDEX_URL"] = gate.url
        environment.update(direct_to_loopback(environment))
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_QUIET", "PIP_LOG",
                 "PIP_REPORT", "PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_PYTHON"):  # fmt: skip
        environment.pop(name, None)
    running = Target.running()
    if target.libc and target.platform != running.platform:
        # In a folder of its own: pip takes the one it runs in off the path.
        floor = folder / "floor"
        floor.mkdir()
        (floor / "_manylinux.py").write_text(_floor(target))
        paths = [str(floor), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def direct_to_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that keep requests to this machine away from any proxy."""
    hosts = environment.get("NO_PROXY", "") or environment.get("no_proxy", "")
    value = ",".join(filter(None, [hosts, "127.0.0.1"]))
    return {"NO_PROXY": value, "no_proxy": value}


def _floor(target: Target) -> str:
    """A ``_manylinux`` module that knows no newer glibc than the target's."""
    assert target.libc is not None
    return (
        "def manylinux_compatible(major, minor, arch):\n"
        f"    return (major, minor) <= {target.libc[1:]!r}\n"
    )


def _found(entry: Mapping[str, Any], question: Question) -> Found:
    about = entry["metadata"]
    url = entry["download_info"]["url"]
    archive = entry["download_info"].get("archive_info")
    if entry["is_direct"] or archive is None:
        raise WainError(
            f"target {question.target.name}",
            f"{about['name']} comes from {mask(url)!a}, not from an index",
            "a lock names files by hash: put its wheel or sdist where pip finds it",
        )
    return Found(
        name=canonicalize_name(about["name"]),
        version=about["version"],
        files=(IndexFile(filename_of(url), url, sha256=archive.get("hashes", {}).get("sha256")),),
        requires_python=about.get("requires_python"),
    )


def _failure(question: Question, stdout: str, stderr: str) -> ResolveError:
    """pip's reason on one line, with the user's own places instead of the temporary file's."""
    lines = stderr.splitlines()
    errors = [
        line.removeprefix("ERROR: ")
        for line in lines
        if line.startswith("ERROR: ") and not line.startswith(_ASIDES)
    ]
    causes = _conflict(stdout.splitlines())
    unreached = [line for line in lines if "Could not fetch URL" in line or "Retrying (" in line]
    if causes:
        reason = "conflict: " + "; ".join(causes)
    elif errors:
        reason = errors[0]
        for said, short in _RULES:
            reason = reason.replace(said, short)
    else:
        reason = next((line for line in reversed(lines) if line.strip()), "failed without a word")
    names = [match[1] for cause in causes if (match := _NAMES.match(f" {cause}"))]
    names += re.findall(r"depends on ([A-Za-z0-9][\w.-]*)", " ".join(causes))
    hint = ""
    if unreached:
        hint = " ".join(mask(unreached[-1].removeprefix("WARNING: ")).split())[:300]
    return ResolveError(
        question.target.name,
        "pip",
        _one_line(_with_origins(reason, question)),
        hint,
        tuple(dict.fromkeys(canonicalize_name(name) for name in names)),
    )


def _conflict(lines: list[str]) -> list[str]:
    """The lines of pip's explanation of a conflict, without blanks."""
    causes: list[str] = []
    inside = False
    for line in lines:
        if line.startswith("The conflict is caused by"):
            inside = True
        elif inside and not line.strip():
            break
        elif inside:
            causes.append(line.strip())
    return causes


def _with_origins(text: str, question: Question) -> str:
    def origin(match: re.Match[str]) -> str:
        number = int(match[1]) - 1
        known = question.requirements
        return known[number].origin if number < len(known) else match[0]

    return _PLACE.sub(origin, text)


def _one_line(text: str, limit: int = 1000) -> str:
    line = " ".join(mask(text).split())
    return line if len(line) <= limit else line[:limit] + " ..."
