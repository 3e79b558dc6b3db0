"""uv as the resolver: for targets this machine cannot run, or where the project chose it.

uv reads none of pip's configuration, so pip's settings are handed over in its environment
(never on the command line, where every user of the machine could read a password), and uv's
own configuration is left out: one place decides where packages come from.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from builder.pages import IndexFile
from builder.pipconfig import PipSettings
from builder.resolution import Found, Gate, Question, ResolveError
from builder.resolve_pip import direct_to_loopback
from builder.urls import filename_of, mask, without_credentials
from images.errors import UsageError
from wheelhouse.target import Target

# The glibc floors uv knows by name; between them the next lower one is as good, only stricter.
_FLOORS = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
_OTHERS = {
    "macosx_x86_64": "x86_64-apple-darwin",
    "macosx_arm64": "aarch64-apple-darwin",
    "win_amd64": "x86_64-pc-windows-msvc",
    "win32": "i686-pc-windows-msvc",
    "win_arm64": "aarch64-pc-windows-msvc",
    "manylinux_riscv64": "riscv64-unknown-linux",
    "musllinux_x86_64": "x86_64-unknown-linux-musl",
    "musllinux_aarch64": "aarch64-unknown-linux-musl",
}
# uv's own variables that may stay: they say how, not what or from where.
_KEPT = frozenset({"UV_CACHE_DIR", "UV_NO_CACHE", "UV_CONCURRENT_DOWNLOADS", "UV_OFFLINE"})
_INSTALL = "pip install 'wainwright[uv]'"


class UvResolver:
    """uv, told which interpreter version and platform to resolve for."""

    name = "uv"

    def __init__(self, uv: Path, interpreter: Path | None = None) -> None:
        self._uv = uv
        self._interpreter = interpreter or Path(sys.executable)

    def resolve(self, question: Question, gate: Gate | None) -> tuple[Found, ...]:
        """The packages of the answer, with every file the target could use. Raises ResolveError."""
        with tempfile.TemporaryDirectory(prefix="wain-lock-") as name:
            folder = Path(name)
            argv = self._command(question, folder)
            result = subprocess.run(
                argv,
                env=_environment(question, gate),
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                cwd=folder,
                check=False,
            )
            if result.returncode != 0:
                raise _failure(question, result.stderr)
            document = tomllib.loads((folder / "pylock.toml").read_text())
        return tuple(_found(entry) for entry in document.get("packages", []))

    def _command(self, question: Question, folder: Path) -> list[str]:
        (folder / "requirements.in").write_text("".join(_requirements(question)))
        constraints = "".join(f"{line.text}\n" for line in question.constraints)
        (folder / "constraints.txt").write_text(constraints)
        kept = question.kept()
        if kept:
            (folder / "pylock.toml").write_text(tomli_w.dumps(_preferences(kept)))
        argv = [str(self._uv), "pip", "compile", "requirements.in", "-c", "constraints.txt"]
        argv += ["--format", "pylock.toml", "-o", "pylock.toml", "--no-header", "--no-config"]
        argv += ["--no-sources", "--no-progress", "--color", "never", "-q"]
        argv += ["--no-python-downloads", "--python", str(self._interpreter)]
        argv += ["--python-version", question.target.python_full_version]
        argv += ["--python-platform", platform_name(question.target)]
        argv += ["--index-strategy", "unsafe-best-match"]
        for package, version in question.upgrade.items():
            argv += ["--upgrade-package", f"{package}=={version}" if version else package]
        for package in question.from_source:
            argv += ["--no-binary", package]
        if ("--pre", "") in question.options:
            argv += ["--prerelease", "allow"]
        return argv


def find_uv() -> Path | None:
    """uv as installed beside wain's interpreter, else on PATH."""
    beside = Path(sys.executable).parent / ("uv.exe" if os.name == "nt" else "uv")
    if beside.exists():
        return beside
    found = shutil.which("uv")
    return Path(found) if found else None


def platform_name(target: Target) -> str:
    """uv's name of the target's platform. Raises UsageError when it has none."""
    kind = re.match(r"manylinux|musllinux|macosx|", target.platform)
    family = kind[0] if kind else ""
    if family == "manylinux" and target.libc and target.machine in ("x86_64", "aarch64"):
        floors = [floor for floor in _FLOORS if floor <= target.libc[2]]
        if floors:
            return f"{target.machine}-manylinux_2_{floors[-1]}"
    elif name := _OTHERS.get(f"{family}_{target.machine}" if family else target.platform):
        return name
    raise UsageError(
        f"target {target.name}",
        f"uv cannot resolve for {target.platform}",
        "run wain lock on such a machine, where pip resolves",
    )


def missing(target: Target, why: str) -> UsageError:
    """The error for a target that needs uv where there is none."""
    return UsageError(f"target {target.name}", f"{why}, and there is no uv here", _INSTALL)


def _requirements(question: Question) -> Iterator[str]:
    for line in question.requirements:
        yield " ".join([line.text, *(f"--hash={value}" for value in line.hashes)]) + "\n"
    for name, value in question.options:
        if name in ("--no-binary", "--only-binary"):
            yield f"{name} {value}\n"


def _preferences(kept: Mapping[str, str]) -> dict[str, Any]:
    """A lock that says no more than the versions: uv keeps those of its previous output."""
    return {
        "lock-version": "1.0",
        "created-by": "wainwright",
        "packages": [
            {
                "name": name,
                "version": version,
                "sdist": {
                    "path": f"{name.replace('-', '_')}-{version}.tar.gz",
                    "hashes": {"sha256": "0" * 64},
                },
            }
            for name, version in sorted(kept.items())
        ],
    }


def _environment(question: Question, gate: Gate | None) -> dict[str, str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("UV_") or name in _KEPT
    }
    settings = question.sources.settings
    environment["UV_HTTP_TIMEOUT"] = str(max(1, int(settings.timeout)))
    if gate is not None:
        environment["UV_DEFAULT_INDEX"] = gate.url
        # The gate's address is another one each time: what is kept under it is never found again.
        environment["UV_NO_CACHE"] = "1"
        environment.update(direct_to_loopback(environment))
    else:
        environment.update(_places(settings))
    if question.target.platform.startswith("macosx_"):
        major, minor = question.target.platform.split("_")[1:3]
        environment["MACOSX_DEPLOYMENT_TARGET"] = f"{major}.{minor}"
    return environment


def _places(settings: PipSettings) -> dict[str, str]:
    """pip's settings in uv's words."""
    found = {
        "UV_DEFAULT_INDEX": settings.index_url,
        "UV_INDEX": " ".join(settings.extra_index_urls),
        "UV_FIND_LINKS": ",".join(settings.find_links),
        "UV_NO_INDEX": "1" if settings.no_index else "",
        "UV_INSECURE_HOST": " ".join(settings.trusted_hosts),
        "SSL_CERT_FILE": settings.cert,
        "SSL_CLIENT_CERT": settings.client_cert,
        "ALL_PROXY": settings.proxy,
        "HTTPS_PROXY": settings.proxy,
        "HTTP_PROXY": settings.proxy,
        "UV_KEYRING_PROVIDER": "subprocess" if settings.keyring in ("subprocess", "import") else "",
    }
    return {name: value for name, value in found.items() if value}


def _found(entry: Mapping[str, Any]) -> Found:
    listed = list(entry.get("wheels", []))
    if "sdist" in entry:
        listed.append(entry["sdist"])
    return Found(
        name=entry["name"],
        version=entry.get("version", ""),
        files=tuple(_file(file) for file in listed),
        requires_python=entry.get("requires-python"),
    )


def _file(file: Mapping[str, Any]) -> IndexFile:
    url = file.get("url") or Path(file["path"]).absolute().as_uri()
    return IndexFile(
        filename=file.get("name") or filename_of(url),
        url=without_credentials(url),
        sha256=file.get("hashes", {}).get("sha256"),
        size=file.get("size"),
        upload_time=file.get("upload-time"),
    )


def _failure(question: Question, stderr: str) -> ResolveError:
    """uv's reason on one line."""
    lines = [line.strip() for line in mask(stderr).splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith(("warning:", "Resolved"))]
    text = " ".join(errors) or "failed without a word"
    text = re.sub(r"^error: (?:No solution found when resolving dependencies\s*)?", "", text)
    text = re.sub(r"\s*\bcause: ", ": ", text).removeprefix(": ")
    text, _, hint = text.partition(" hint: ")
    text = text.replace("we can conclude that your requirements are unsatisfiable", "no answer")
    if len(text) > 1000:
        text = text[:1000] + " ..."
    return ResolveError(question.target.name, "uv", text, hint[:300])
