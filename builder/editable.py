"""A project's own package as PEP 660 has it: importable from its source folder.

The build backend's editable hook runs in an environment made from the project's build lock, in
the project's real folder (that is the point of it), not in the sandbox that wheels are built
in. What it makes is spread as an installer would, and RECORD and direct_url.json are written.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pyproject_hooks
from build import BuildBackendException, BuildException, ProjectBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.buildenv import builder_of, make_build_env
from builder.layout import Layout
from builder.locks import find_build_lock
from builder.requirements import project_name
from builder.sdist import finder
from builder.spec import BuildSpec
from builder.unpack import unpack
from images.environment import Editable
from images.errors import WainError
from images.manifest import Entry, Manifest
from images.render import Interpreter, render
from images.store import Store
from images.thin import site_packages
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import read_lock

Progress = Callable[[str, int, int], None]
_HINT = "editable = false in [env] takes the built package instead"


def build_editable(
    spec: BuildSpec,
    target: str,
    manifest: Manifest,
    interpreter: Interpreter,
    prefix: str,
    on_progress: Progress | None = None,
) -> Editable | None:
    """The files that stand for the project in an environment at *prefix*.

    None when the project is not in the image. Raises WainError when its backend has no
    editable hook or fails.
    """
    owner = project_name(Path(spec.project))
    if owner not in {entry.owner for entry in manifest.entries}:
        return None
    if on_progress:
        on_progress(f"Linking {owner} to its sources", 0, 0)
    with tempfile.TemporaryDirectory(prefix="wain-editable-") as scratch:
        wheel = _build(spec, owner, target, interpreter, Path(scratch))
        return Editable(owner, _spread(wheel, owner, spec, manifest, interpreter, prefix))


def _build(
    spec: BuildSpec, owner: str, target: str, interpreter: Interpreter, scratch: Path
) -> Path:
    where = f"{spec.project}/pyproject.toml"
    python = _build_environment(spec, owner, target, interpreter, scratch)
    try:
        project = ProjectBuilder(
            spec.project,
            python_executable=python,
            runner=pyproject_hooks.quiet_subprocess_runner,
        )
        _add(project.get_requires_for_build("editable"), python, scratch, where)
        out = scratch / "out"
        out.mkdir()
        with warnings.catch_warnings():
            # A backend's advice to package authors: not what somebody who wants an
            # environment asked for.
            warnings.simplefilter("ignore")
            return Path(project.build("editable", out))
    except BuildBackendException as error:
        output = getattr(error.exception, "output", b"") or b""
        lines = output.decode("utf-8", "replace").strip().splitlines() or [str(error)]
        what = f"the editable hook failed: {ascii(lines[-1][:300])[1:-1]}"
        raise WainError(where, what, _HINT) from None
    except BuildException as error:
        what = f"cannot be built: {ascii(str(error)[:300])[1:-1]}"
        raise WainError(where, what, _HINT) from None


def _build_environment(
    spec: BuildSpec, owner: str, target: str, interpreter: Interpreter, scratch: Path
) -> str:
    """An environment with what the build lock names; its Python."""
    path = find_build_lock(Path(spec.locks), owner, target)
    if path is None:
        where = f"{spec.locks}/pylock.build-{owner}.toml"
        raise WainError(where, "there is no build lock of the project", "wain lock")
    wheelhouse = Wheelhouse(spec.wheelhouse)
    wheel_of = finder(wheelhouse, None, path.name)
    builder = builder_of(interpreter.executable)
    folder = scratch / "env"
    with wheelhouse.in_use():
        return make_build_env(folder, str(folder), builder, read_lock(path), wheel_of)


def _add(wanted: set[str], python: str, scratch: Path, where: str) -> None:
    """Install what only the editable hook asks for (hatchling wants ``editables``).

    A build lock is for wheels and need not name it; it comes as pip is configured.
    """
    site = next((scratch / "env" / "lib").glob("python*/site-packages"))
    have = {
        canonicalize_name(one.metadata["Name"]): one.version
        for one in importlib.metadata.distributions(path=[str(site)])
    }
    missing = []
    for text in sorted(wanted):
        requirement = Requirement(text)
        version = have.get(canonicalize_name(requirement.name))
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            missing.append(text)
    if not missing:
        return
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q",
               "--disable-pip-version-check", "--only-binary", ":all:", *missing]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        what = f"the editable hook needs {', '.join(missing)}: {ascii(lines[-1][:200])[1:-1]}"
        raise WainError(where, what, _HINT)


def _spread(
    wheel: Path,
    owner: str,
    spec: BuildSpec,
    manifest: Manifest,
    interpreter: Interpreter,
    prefix: str,
) -> dict[str, tuple[bytes, bool]]:
    """The files of an editable wheel by their path below the prefix."""
    site = site_packages(manifest)
    files: dict[str, tuple[bytes, bool]] = {}
    with tempfile.TemporaryDirectory(prefix="wain-editable-") as scratch:
        store = Store(scratch)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        with store.batch() as batch:
            unpacked = unpack(wheel, digest, batch, store.tmp, lambda row, data: None)
            layout = Layout(site.split("/")[1].removeprefix("python"), (), None)
            layout.add(owner, unpacked.dist_info, unpacked.rows, True, batch.put)
            layout.complete(owner, unpacked.dist_info, batch.put)
        for entry in layout.entries():
            files[entry.path] = (_bytes(store, entry, prefix, interpreter), entry.executable)
    folder = f"{site}/{unpacked.dist_info}"
    url = {"url": Path(spec.project).as_uri(), "dir_info": {"editable": True}}
    origin = json.dumps(url).encode()
    files[f"{folder}/direct_url.json"] = (origin, False)
    hashed = base64.urlsafe_b64encode(hashlib.sha256(origin).digest()).decode().rstrip("=")
    row = f"{unpacked.dist_info}/direct_url.json,sha256={hashed},{len(origin)}\n"
    record, executable = files[f"{folder}/RECORD"]
    files[f"{folder}/RECORD"] = (record + row.encode(), executable)
    return files


def _bytes(store: Store, entry: Entry, prefix: str, interpreter: Interpreter) -> bytes:
    data = store.read(*entry.key)
    return data if entry.kind == "file" else render(entry.kind, data, prefix, interpreter)
