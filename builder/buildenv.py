"""The environment a build runs in: exactly the wheels of its build lock, nothing else.

No index, no pip, no seed packages: an interpreter link, ``pyvenv.cfg``, and the wheels
unpacked by ``installer`` after their bytes matched the lock.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.exceptions import InstallerError
from installer.sources import WheelFile as WheelSource

from images.errors import WainError
from wheelhouse.lock import Lock, LockedPackage
from wheelhouse.text import bare

_ASK = """
import json, os, sys, sysconfig
base = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps({
    "executable": os.path.realpath(base), "prefix": os.path.realpath(sys.base_prefix),
    "version": "%d.%d.%d" % sys.version_info[:3], "implementation": sys.implementation.name,
    "threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "platform": sysconfig.get_platform(),
    "include": os.path.realpath(sysconfig.get_path("include")),
}))
"""


class BuildEnvError(WainError):
    """A build environment that cannot be made from its lock."""


@dataclass(frozen=True, slots=True)
class Builder:
    """The interpreter the hooks run on, by its real paths; ``minor`` is "3.12" or "3.13t"."""

    executable: str
    prefix: str
    version: str
    implementation: str
    minor: str
    platform: str
    include: str

    @property
    def readable(self) -> tuple[str, ...]:
        """What a build must be able to read of it."""
        paths = (self.prefix, self.executable, self.include)
        return tuple(
            path
            for path in dict.fromkeys(paths)
            if path == self.prefix or not path.startswith(self.prefix.rstrip("/") + "/")
        )


@functools.cache
def builder_of(interpreter: str) -> Builder:
    """Ask an interpreter (a path, also one inside a virtual environment) what it is.

    Raises :class:`BuildEnvError` when it does not run.
    """
    try:
        said = subprocess.run(
            [interpreter, "-I", "-c", _ASK],
            capture_output=True,
            check=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        ).stdout
        fields = json.loads(said)
        minor = ".".join(fields["version"].split(".")[:2]) + ("t" if fields["threaded"] else "")
        return Builder(
            executable=fields["executable"],
            prefix=fields["prefix"],
            version=fields["version"],
            implementation=fields["implementation"],
            minor=minor,
            platform=fields["platform"],
            include=fields["include"],
        )
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise BuildEnvError(
            interpreter, f"does not run as a Python interpreter: {bare(error)}"
        ) from None


def make_build_env(
    folder: Path,
    inside: str,
    builder: Builder,
    lock: Lock,
    wheel_of: Callable[[LockedPackage], Path],
) -> str:
    """Make an environment in ``folder``, known as ``inside`` to the build; its Python inside.

    ``wheel_of`` gives the file of each locked package; its sha256 is checked here, over the
    bytes that are unpacked. Raises :class:`BuildEnvError`.
    """
    name = f"python{builder.minor}"
    library = folder / "lib" / name / "site-packages"
    scripts = folder / "bin"
    for path in (library, scripts, folder / "include"):
        path.mkdir(parents=True)
    (folder / "lib64").symlink_to("lib")
    (scripts / "python").symlink_to(builder.executable)
    for link in ("python3", name):
        (scripts / link).symlink_to("python")
    (folder / "pyvenv.cfg").write_text(
        f"home = {Path(builder.executable).parent}\n"
        "include-system-site-packages = false\n"
        f"version = {builder.version}\n"
    )
    python = f"{inside}/bin/python"
    scheme = {
        "purelib": str(library),
        "platlib": str(library),
        "headers": str(folder / "include"),
        "scripts": str(scripts),
        "data": str(folder),
    }
    for package in lock.packages:
        path = wheel_of(package)
        _check(path, package)
        try:
            with WheelSource.open(path) as source:
                target = SchemeDictionaryDestination(
                    scheme, interpreter=python, script_kind="posix"
                )
                install(source=source, destination=target, additional_metadata={})
        except (InstallerError, OSError, ValueError, AssertionError) as error:
            raise BuildEnvError(
                bare(path.name), f"cannot go into a build environment: {bare(error)}"
            ) from None
    return python


def _check(path: Path, package: LockedPackage) -> None:
    if package.kind != "wheel":
        # Built here from a lock of its own, which names the sdist; the wheelhouse vouches.
        return
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BuildEnvError(
            bare(path.name), f"cannot be read: {error.strerror}", "run wain build"
        ) from None
    if found != package.file.sha256:
        raise BuildEnvError(
            bare(path.name),
            f"sha256 is {found}, the build lock says {package.file.sha256}",
            "wain wheelhouse verify",
        )
