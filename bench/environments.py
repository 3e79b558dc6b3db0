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

    def diff(self) -> Result:
        other = self._folder / "other"
        project(other, [*PACKAGES[1:], "Django<5"], store=Path(self._store["WAIN_STORE"]))
        tags = json.loads((other / ".wain" / "tags.json").read_text())["tags"]
        image = next(iter(tags["latest"].values()))
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
