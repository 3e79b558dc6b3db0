"""A small project on disk, with a build backend of its own, locked and in a wheelhouse."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.handmade import make_wheel
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock, LockedFile, LockedPackage, write_lock
from wheelhouse.target import Target

BACKEND = """
import base64, hashlib, pathlib, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    info = "shop-1.0.dist-info"
    files = {str(p): p.read_bytes() for p in sorted(pathlib.Path("shop").rglob("*")) if p.is_file()}
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\\nName: shop\\nVersion: 1.0\\n"
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\\nGenerator: own\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\\nshop = shop:main\\n"
    rows = ""
    with zipfile.ZipFile(f"{wheel_directory}/shop-1.0-py3-none-any.whl", "w") as wheel:
        for path, data in files.items():
            wheel.writestr(path, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows += f"{path},sha256={digest},{len(data)}\\n"
        wheel.writestr(f"{info}/RECORD", rows + f"{info}/RECORD,,\\n")
    return "shop-1.0-py3-none-any.whl"
"""


def make_project(folder: Path, *, git: bool = True, lines: str = "") -> Path:
    """A project `shop` with one dependency, `dep`, and the locks of its target `prod`."""
    target = Target.running("prod")
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "__init__.py").write_text("def main():\n    print('shop is open')\n")
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "1.0"\ndependencies = ["dep"]\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (folder / "wain.toml").write_text(
        f'name = "shop"\nproject = "."\n{lines}\n'
        f'[targets.prod]\npython = "{target.python}"\nplatform = "{target.platform}"\n'
    )
    (folder / ".gitignore").write_text(".wain/\n")
    house = Wheelhouse(folder / ".wain" / "wheelhouse")
    lock_wheels(folder, target, house, {"dep": {"dep.py": "value = 1\n"}})
    write_lock(Lock(target, ()), folder / "locks" / "pylock.build-shop.toml", house.folder)
    if git:
        for words in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def lock_wheels(
    folder: Path, target: Target, house: Wheelhouse, wheels: dict[str, dict[str, str]]
) -> None:
    """Make these wheels, put them into the wheelhouse, and write the target's lock."""
    scratch = folder / ".wain" / "scratch"
    packages = []
    for name, files in wheels.items():
        wheel = make_wheel(scratch, name, files)
        house.add(wheel.path, sha256=wheel.sha256)
        file = LockedFile(wheel.path.name, wheel.sha256, wheel.path.stat().st_size)
        packages.append(LockedPackage(name, wheel.version, file, direct=True))
    path = folder / "locks" / f"pylock.{target.name}.toml"
    write_lock(Lock(target, tuple(packages)), path, house.folder)
    shutil.rmtree(scratch, ignore_errors=True)
