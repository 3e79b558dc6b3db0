"""The same lock and the same interpreter release give the same image, whatever is around."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.assemble import Image, Options, assemble
from images.manifest import Manifest
from images.render import Interpreter
from images.store import Store
from images.tree import checkout
from tests.support import users
from tests.support.handmade import wheel_at
from wheelhouse.target import Target

# Each value of each column meets each value of every other column at least once:
# root, umask, order, hash seed, jobs, locale and time zone, user ("other" is another uid, where
# the tests run as root).
RUNS = [
    ("a", 0o022, "sorted", "0", 1, "C", "UTC", "me"),
    ("a", 0o077, "x", "4242", 3, "de_DE.UTF-8", "Asia/Tokyo", "other"),
    ("deep er/b", 0o022, "y", "4242", 3, "C", "Asia/Tokyo", "me"),
    ("deep er/b", 0o077, "sorted", "4242", 1, "tr_TR.UTF-8", "UTC", "me"),
    ("deep er/b", 0o077, "z", "0", 3, "C", "America/New_York", "other"),
    ("a", 0o022, "x", "random", 1, "tr_TR.UTF-8", "Asia/Tokyo", "other"),
]


@pytest.mark.index
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_identity(
    python: str,
    interpreters: dict[str, Interpreter],
    real_wheels: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    if python not in interpreters:
        pytest.skip(f"no Python {python} here")
    wheels = real_wheels(python)
    ids = set()
    for number, (root, umask, order, seed, jobs, locale, zone, user) in enumerate(RUNS):
        folder = tmp_path / str(number) / root
        folder.mkdir(parents=True)
        home = tmp_path / f"home of {user} {number}"
        shutil.copytree(wheels, folder / "wheels")
        for path in (folder / "wheels").iterdir():
            os.utime(path, (number * 10**8, number * 10**8))
        as_user = users.AS_OTHER if user == "other" and os.geteuid() == 0 else ()
        if as_user:
            os.chown(folder, users.OTHER, users.OTHER)
            for parent in (tmp_path.parent, tmp_path.parent.parent):
                parent.chmod(0o755)
        done = subprocess.run(
            [
                *as_user, sys.executable, "-m", "tests.support.assemble_run",
                str(folder / "store"), str(folder / "wheels"), python, str(jobs), order,
            ],
            capture_output=True, text=True, umask=umask, cwd=Path(__file__).parents[2],
            env={
                "PATH": os.environ["PATH"], "HOME": str(home), "USER": user, "LC_ALL": locale,
                "TZ": zone, "PYTHONHASHSEED": seed,
                "PYENV_ROOT": os.path.expanduser("~/.pyenv"), "PYTHONOPTIMIZE": "",
            },
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        ids.add(done.stdout)
        assert list((folder / "store" / "tmp").iterdir()) == []
        owner = (folder / "store" / "format").stat().st_uid
        assert owner == (users.OTHER if as_user else os.geteuid())
    assert len(ids) == 1, "another image id"
    (image_id,) = ids
    store = Store(str(tmp_path / "0" / "a" / "store"))
    manifest = store.manifest(image_id.strip())
    _leaves_no_trace(manifest, store, tmp_path)
    _works(manifest, store, interpreters[python], python, tmp_path)


def _leaves_no_trace(manifest: Manifest, store: Store, tmp_path: Path) -> None:
    """No path of this machine, no user and no day is in any file."""
    words = [str(tmp_path).encode(), b"home of me", sys.prefix.encode()]
    for entry in manifest.entries:
        data = store.read(*entry.key)
        assert not [word for word in words if word in data], entry.path


def _works(
    manifest: Manifest, store: Store, interpreter: Interpreter, python: str, tmp_path: Path
) -> None:
    prefix = tmp_path / "an environment" / ("x" * 130)
    prefix.parent.mkdir()
    checkout(manifest, store, str(prefix), str(prefix), interpreter)
    code = (
        "import zmq; zmq.Context().destroy();"
        "import cffi, greenlet, jmespath, zope.event, zope.interface, setuptools;"
        "ffi = cffi.FFI(); ffi.cdef('int abs(int);'); print(ffi.dlopen(None).abs(-3));"
        "print(zope.interface.__spec__.cached)"
    )
    done = subprocess.run(
        [prefix / "bin" / "python", "-B", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    site = prefix / "lib" / f"python{python}" / "site-packages"
    assert done.stdout.splitlines()[0] == "3"
    assert done.stdout.splitlines()[1].startswith(str(site))
    jp = subprocess.run(
        [prefix / "bin" / "jp.py", "a.b"], input='{"a": {"b": 7}}', capture_output=True, text=True
    )
    assert (jp.stdout.strip(), jp.stderr) == ("7", "")
    assert list(prefix.glob("share/jupyter/**/*.json"))
    assert list(prefix.glob("include/site/**/greenlet.h"))
    assert list(site.glob("*.pth"))
    assert list(site.glob("pyzmq.libs/*"))
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"), "check"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stdout + listed.stderr


def test_what_the_identity_does_depend_on(
    store: Store, interpreter: Interpreter, tmp_path: Path
) -> None:
    """Asked for by name or not, bytecode, what is pruned, and the target: another image."""
    from tests.support.handmade import make_wheel

    path = make_wheel(tmp_path, "demo", {"a.py": "1\n", "b.txt": "2"}).path

    def build(target: Target, direct: bool, **options: object) -> Image:
        wheels = [wheel_at(path, direct=direct)]
        return assemble(target, wheels, store, Options(**options), interpreter)  # type: ignore[arg-type]

    here = Target.running()
    older = Target("x", here.python, "manylinux_2_17_x86_64")
    ids = [
        build(here, True).id,
        build(here, False).id,
        build(here, True, bytecode=False).id,
        build(here, True, prune=("**/*.txt",)).id,
        build(older, True).id,
    ]
    assert len(set(ids)) == len(ids)
    # Names of targets and images are not part of it.
    assert build(Target("other", here.python, here.platform), True, name="other").id == ids[0]
