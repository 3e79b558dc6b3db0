"""Figures of images and environments, against uv and pip."""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path

from bench.pairs import Action, Figure, Fresh, Pair, command, in_turn, nothing, paired
from bench.report import Result
from bench.tried_set import PACKAGES, WAIN, project, wheels
from images.store import Store

UV = [str(Path(sys.executable).parent / "uv")]
IMPORTS = "import pandas, django, sqlalchemy, requests"


def measure(folder: Path) -> list[Result]:
    """All figures of this section; works in `folder`, one file system for store and tree."""
    store = folder / "store"
    project(folder / "set", PACKAGES, store=store)
    yard = _Yard(folder, store)
    return [
        yard.thick(),
        yard.thick_and_import(),
        yard.thin(),
        yard.no_op(),
        yard.cold_image(),
        yard.diff(),
        yard.growth(),
        yard.verify(),
        yard.pip_reference(),
    ]


class _Yard:
    """The prepared project, uv's warm cache, and where each tool's environment goes."""

    def __init__(self, folder: Path, store: Path) -> None:
        self._folder = folder
        self._project = folder / "set"
        self._ours = Fresh(folder / "ours")
        self._peer = Fresh(folder / "peer")
        self._store = {"WAIN_STORE": str(store)}
        self._wheels = wheels(self._project)
        self._cache = {"UV_CACHE_DIR": str(folder / "uv-cache"), "UV_LINK_MODE": "hardlink"}
        self._requirements = folder / "wheels.txt"
        self._requirements.write_text("".join(f"{wheel}\n" for wheel in self._wheels))
        self._wain_env()()
        self._uv_env()()

    def _wain_env(self, *options: str) -> Action:
        return command([*WAIN, "-C", self._project, "env", self._ours, *options], **self._store)

    def _uv_env(self, **extra: str) -> Action:
        environment = self._cache | extra
        return in_turn(
            command([*UV, "venv", "-q", "--python", sys.executable, self._peer], **environment),
            command(
                [
                    *[*UV, "pip", "sync", "-q", "--offline", "--python", self._peer],
                    self._requirements,
                ],
                **environment,
            ),
        )

    def _import(self, prefix: Fresh) -> Action:
        return lambda: command([f"{prefix}/bin/python", "-c", IMPORTS])()

    def thick(self) -> Pair:
        return paired(
            "Recreate, image known",
            ("wain env", self._ours, self._wain_env()),
            ("uv venv + uv pip sync, warm", self._peer, self._uv_env()),
            runs=9,
            bound=1.0,
            note="ours contains the bytecode, uv's does not; hard links on both sides",
        )

    def thick_and_import(self) -> Pair:
        return paired(
            "Recreate and first import",
            (
                "wain env",
                self._ours,
                in_turn(self._wain_env(), self._import(self._ours)),
            ),
            ("uv", self._peer, in_turn(self._uv_env(), self._import(self._peer))),
            bound=0.45,
        )

    def thin(self) -> Pair:
        return paired(
            "Recreate, thin",
            ("wain env --thin", self._ours, self._wain_env("--thin")),
            ("uv venv + uv pip sync, warm", self._peer, self._uv_env()),
            bound=0.3,
        )

    def no_op(self) -> Pair:
        self._ours()
        self._wain_env()()
        return paired(
            "Nothing to do",
            ("wain env", nothing, self._wain_env()),
            ("python -c pass", nothing, command([sys.executable, "-c", "pass"])),
            runs=15,
            bound=8.0,
        )

    def cold_image(self) -> Pair:
        cold = Fresh(self._folder / "cold")
        cache = Fresh(self._folder / "cold-cache")
        return paired(
            "Wheels on disk to image with bytecode, cold",
            (
                "wain image build",
                cold,
                command([*WAIN, "-C", self._project, "image", "build"], WAIN_STORE=cold),
            ),
            (
                "uv pip install --compile-bytecode",
                in_turn(
                    cache,
                    self._peer,
                    command([*UV, "venv", "-q", "--python", sys.executable, self._peer]),
                ),
                command(
                    [
                        *[*UV, "pip", "install", "-q", "--offline", "--no-deps"],
                        *["--compile-bytecode", "--python", self._peer],
                        *map(str, self._wheels),
                    ],
                    UV_CACHE_DIR=cache,
                    UV_LINK_MODE="hardlink",
                ),
            ),
            bound=1.0,
        )

    def _other(self) -> str:
        """The id of an image that differs in one package (Django), made once."""
        other = self._folder / "other"
        if not other.exists():
            store = Path(self._store["WAIN_STORE"])
            project(other, [*PACKAGES[1:], "Django<5"], store=store)
        tags = json.loads((other / ".wain" / "tags.json").read_text())["tags"]
        return str(next(iter(tags["latest"].values())))

    def growth(self) -> Result:
        """What the second image added to the store, over what the package that differs holds."""
        store = Store(self._store["WAIN_STORE"])
        tags = json.loads((self._project / ".wain" / "tags.json").read_text())["tags"]
        first = store.manifest(next(iter(tags["latest"].values())))
        second = store.manifest(self._other())
        known = {entry[1:] for entry in first.entries}
        changed = {entry.owner for entry in second.entries if entry[1:] not in known}
        own = {entry.key: entry.size for entry in second.entries if entry.owner in changed}
        shared = first.objects()
        added = {key: size for key, size in second.objects().items() if key not in shared}
        packed = os.stat(f"{store.manifest_folder}/{second.image_id}").st_size
        return Figure(
            "Two images that differ in one package: bytes added, of the package's own",
            sum(added.values()) / sum(own.values()),
            "×",
            bound=1.05,
            note=f"{', '.join(sorted(changed))}: {len(added)} objects were added, it has "
            f"{len(own)}; the manifest is kept in {packed / 1e3:.0f} kB of "
            f"{len(second.to_bytes()) / 1e3:.0f}",
        )

    def diff(self) -> Result:
        image = self._other()
        pair = paired(
            "Difference of two images",
            (
                "wain image diff",
                nothing,
                command(
                    [*WAIN, "-C", self._project, "image", "diff", "set:latest", image],
                    **self._store,
                ),
            ),
            ("python -c pass", nothing, command([sys.executable, "-c", "pass"])),
        )
        return Figure(
            "Difference of two images of this size",
            statistics.median(pair.our_seconds),
            "s",
            bound=0.5,
        )

    def verify(self) -> Pair:
        files = self._folder / "files.txt"
        self._ours()
        self._wain_env()()
        names = [
            os.path.join(base, name)
            for base, _, found in os.walk(str(self._ours))
            for name in found
            if os.path.isfile(os.path.join(base, name))
        ]
        files.write_text("\0".join(names))
        return paired(
            "Verify every byte of an image",
            (
                "wain image verify",
                nothing,
                command([*WAIN, "-C", self._project, "image", "verify", "set"], **self._store),
            ),
            (
                "sha256sum of the same files",
                nothing,
                command(["xargs", "-0", "-a", str(files), "sha256sum", "-b"]),
            ),
            bound=1.0,
        )

    def pip_reference(self) -> Pair:
        return paired(
            "What users have today",
            ("wain env", self._ours, self._wain_env()),
            (
                "pip install --no-index",
                in_turn(
                    self._peer,
                    command([sys.executable, "-m", "venv", self._peer]),
                ),
                command(
                    [
                        *[sys.executable, "-m", "pip", "--python", self._peer, "install", "-q"],
                        *["--no-index", "--no-deps", *self._wheels],
                    ]
                ),
            ),
            runs=3,
        )
