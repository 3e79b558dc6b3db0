"""Environments: made, replaced, refused, checked, and cut at every moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from images import swap, thin
from images.environment import Editable, check, check_place, recreate
from images.errors import UsageError, WainError
from images.interpreter import machine_problem, running_interpreter
from images.manifest import Manifest
from images.roots import Roots
from images.stamp import Input, changed_inputs, read_input, read_stamp
from images.store import Store
from tests.support import mounts
from tests.support.made_images import SITE, make_image, module, namespaced, regular

HERE = running_interpreter()[1]
V1 = [regular("alpha", "1.0"), module("beta", "1.0"), namespaced("gamma", "one", "1.0")]
V2 = [regular("alpha", "2.0", 5), module("beta", "1.0")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def say(path: Path, code: str) -> str:
    done = subprocess.run(
        [path / "bin" / "python", "-c", code],
        capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize("mode", ["thick", "thin"])
@pytest.mark.parametrize("name", ["env", "with a space", "n" * 120])
def test_imports_and_scripts_work(store: Store, tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / name
    done = recreate(store, make_image(store, V1), str(path), HERE, mode=mode)
    assert (done.placed, done.files, done.leftover) == ("new", 34, "")
    code = "import sys, alpha, beta, gamma.one; print(alpha.VERSION, sys.prefix)"
    assert say(path, code) == f"1.0 {path}"
    script = subprocess.run([path / "bin" / "alpha-say"], capture_output=True, text=True)
    assert script.stdout == "1.0\n"
    activated = subprocess.run(
        ["sh", "-c", '. "$1/bin/activate"; python -c "import alpha; print(alpha.VERSION)"', "-",
         str(path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert activated.stdout == "1.0\n"


@pytest.mark.parametrize("mode", ["thick", "thin"])
def test_bytecode_of_the_image_is_used(store: Store, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "env"
    recreate(store, make_image(store, V1), str(path), HERE, mode=mode)
    code = "import alpha, os; print(os.path.exists(alpha.__cached__))"
    assert say(path, code) == "True"
    names = [name for name in os.listdir(path) if name.startswith(".pyc")]
    assert names == []


def test_thin_without_bytecode_writes_it_beside_itself(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "env"
    manifest = make_image(store, V1, bytecode=False)
    recreate(store, manifest, str(path), HERE, mode="thin")
    assert say(path, "import alpha.m0; print(alpha.m0.N)") == "0"
    assert (path / thin.CACHE).is_dir()
    assert not list((tmp_path / "store" / "checkouts").rglob("__pycache__"))
    stamp = read_stamp(str(path))
    assert stamp is not None
    assert check(store, manifest, stamp, str(path), HERE) == []


def test_path_files_of_packages_count_in_a_thin_environment(store: Store, tmp_path: Path) -> None:
    site = f"{SITE}/delta.pth"
    extra = {site: ("alpha", b"import sys; sys.delta_was_here = True\n")}
    path = tmp_path / "env"
    recreate(store, make_image(store, V1, extra=extra), str(path), HERE, mode="thin")
    assert say(path, "import sys; print(sys.delta_was_here)") == "True"


def test_thin_environments_share_one_checkout(store: Store, tmp_path: Path) -> None:
    manifest = make_image(store, V1)
    first = recreate(store, manifest, str(tmp_path / "a"), HERE, mode="thin")
    second = recreate(store, manifest, str(tmp_path / "b"), HERE, mode="thin")
    assert first.shared is not None
    assert second.shared is None
    where = "import alpha; print(alpha.__file__)"
    assert say(tmp_path / "a", where) == say(tmp_path / "b", where)


def _grow(folder: Path) -> None:
    (folder / "empty.py").write_text("raise SystemExit('changed')\n")


def _same_size(folder: Path) -> None:
    path = folder / "m0.py"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"N = 0", b"N = 9"))


def _lose(folder: Path) -> None:
    (folder / "m0.py").unlink()


def _add(folder: Path) -> None:
    (folder / "stray.py").write_text("")


@pytest.mark.parametrize("change", [_grow, _same_size, _lose, _add])
def test_a_changed_shared_checkout_is_made_again(
    store: Store, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    manifest = make_image(store, V1)
    recreate(store, manifest, str(tmp_path / "a"), HERE, mode="thin", link=("copy",))
    change(next((tmp_path / "store" / "checkouts").rglob("site-packages/alpha")))
    again = recreate(store, manifest, str(tmp_path / "b"), HERE, mode="thin")
    assert again.shared is not None
    code = "import alpha.empty, alpha.m0; print(alpha.m0.N)"
    assert say(tmp_path / "a", code) == "0"


# What may be replaced


RUNNING = """
import alpha, os, sys
held = open(alpha.__file__.replace('__init__', 'm1'))
print('up', flush=True)
input()
import alpha.m2
print(alpha.VERSION, held.read().split()[-1], alpha.m2.V, os.path.exists(sys.executable))
try:
    import gamma.one
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.parametrize("mode", ["thick", "thin"])
def test_replaces_its_own_while_a_process_runs_from_it(
    store: Store, tmp_path: Path, mode: str
) -> None:
    """What it has loaded and opened stays as it was; what it imports later is the new one's."""
    path = tmp_path / "env"
    recreate(store, make_image(store, V1), str(path), HERE, mode=mode)
    running = subprocess.Popen(
        [path / "bin" / "python", "-c", RUNNING],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    done = recreate(store, make_image(store, V2), str(path), HERE, mode=mode)
    assert done.placed == "exchanged"
    later = running.communicate("\n", timeout=20)[0].splitlines()
    if mode == "thick":
        assert later == ["1.0 '1.0' 2.0 True", "No module named 'gamma'"]
    else:
        # Its sys.path names the shared checkout, which other environments may use: all is old.
        assert later == ["1.0 '1.0' 1.0 True"]
    assert say(path, "import alpha; print(alpha.VERSION)") == "2.0"
    assert sorted(os.listdir(tmp_path)) == ["env", "store"]


def test_without_exchange_it_renames_twice_and_says_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "env"
    recreate(store, make_image(store, V1), str(path), HERE)

    def no_exchange(source: str, target: str, flags: int) -> None:
        raise OSError(22, "Invalid argument", target)

    monkeypatch.setattr(swap, "rename_with", no_exchange)
    assert recreate(store, make_image(store, V2), str(path), HERE).placed == "renamed"
    assert say(path, "import alpha; print(alpha.VERSION)") == "2.0"
    assert sorted(os.listdir(tmp_path)) == ["env", "store"]


def test_what_a_cut_set_aside_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / ".env.wain-new-0123-old"
    (aside / "bin").mkdir(parents=True)
    (tmp_path / ".env.wain-new-0123").mkdir()
    swap.clean_up(str(tmp_path / "env"))
    assert os.listdir(tmp_path) == ["env"]
    assert (tmp_path / "env" / "bin").is_dir()


def _file(path: Path) -> None:
    path.write_text("mine")


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


def _link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to("elsewhere")


def _repository(path: Path) -> None:
    (path / ".git").mkdir(parents=True)
    (path / "pyvenv.cfg").write_text("home = /usr/bin\n")


@pytest.mark.parametrize("make", [_file, _folder, _link, _repository])
@pytest.mark.parametrize("force", [False, True])
def test_a_foreign_thing_is_never_replaced(
    store: Store, tmp_path: Path, make: Callable[[Path], None], force: bool
) -> None:
    path = tmp_path / "env"
    make(path)
    before = sorted(tmp_path.rglob("*"))
    manifest = make_image(store, V1)
    with pytest.raises(UsageError, match="env: is "):
        recreate(store, manifest, str(path), HERE, force=force)
    assert [one for one in sorted(tmp_path.rglob("*")) if "store" not in one.parts] == [
        one for one in before if "store" not in one.parts
    ]


def test_another_tools_environment_only_with_force(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    manifest = make_image(store, V1)
    with pytest.raises(UsageError, match="--force"):
        recreate(store, manifest, str(path), HERE)
    recreate(store, manifest, str(path), HERE, force=True)
    assert say(path, "import alpha; print(alpha.VERSION)") == "1.0"


def test_an_empty_folder_is_a_place(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    check_place(str(tmp_path / "env"))


@pytest.mark.root
def test_a_mount_point_and_the_store_are_no_place(store: Store, tmp_path: Path) -> None:
    manifest = make_image(store, V1)
    with mounts.tmpfs(tmp_path) as disk, pytest.raises(UsageError, match="is a mount point"):
        recreate(store, manifest, str(disk), HERE)
    (tmp_path / "link").symlink_to(store.root)
    for path in (f"{store.root}/env", f"{tmp_path}/link/tmp/env"):
        with pytest.raises(UsageError, match="inside the store"):
            recreate(store, manifest, path, HERE)


@pytest.mark.parametrize("name", ["a:b", "a\\b", "a\nb"])
def test_paths_that_cannot_hold_an_environment(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        check_place(str(tmp_path / name))


def test_an_image_for_another_machine_is_refused(store: Store, tmp_path: Path) -> None:
    manifest = make_image(store, V1, platform="manylinux_2_17_riscv64")
    with pytest.raises(WainError, match="riscv64"):
        recreate(store, manifest, str(tmp_path / "env"), HERE)
    assert "glibc" in machine_problem(f"manylinux_2_99_{os.uname().machine}")
    assert machine_problem(f"manylinux_2_17_{os.uname().machine}") == ""


@pytest.mark.root
@pytest.mark.row("S2", "S5")
@pytest.mark.parametrize("mode", ["thick", "thin"])
def test_reflinks_where_the_file_system_has_them(tmp_path: Path, mode: str) -> None:
    """What is edited in place, by root too, is the environment's own; the store has its bytes."""
    with mounts.xfs(tmp_path) as disk:
        store = Store(str(disk / "store"))
        manifest = make_image(store, V1)
        done = recreate(store, manifest, str(disk / "env"), HERE, mode=mode)
        parts = [part for part in (done.checkout, done.shared) if part]
        plain = [entry for entry in manifest.entries if entry.kind == "file" and entry.size]
        assert sum(part.reflinked for part in parts) == len(plain)
        assert sum(part.hardlinked + part.copied for part in parts) == 0
        assert [part.fallback for part in parts] == [""] * len(parts)
        assert say(disk / "env", "import alpha; print(alpha.VERSION)") == "1.0"
        root = disk / "env" if mode == "thick" else next((disk / "store" / "checkouts").iterdir())
        victim = root / SITE / "alpha" / "m1.py"
        (entry,) = [one for one in plain if one.path == f"{SITE}/alpha/m1.py"]
        kept = Path(store.object_path(*entry.key))
        subprocess.run(["sync", "-f", disk], check=True)
        blocks = subprocess.run(["filefrag", "-v", victim], capture_output=True, text=True)
        assert "shared" in blocks.stdout, blocks
        assert victim.stat().st_ino != kept.stat().st_ino
        with victim.open("r+b") as file:
            file.write(b"#")
        assert store.verify() == []
        # As good as new for the next one: nothing is suspect.
        recreate(store, manifest, str(disk / "second"), HERE, mode=mode)
        assert say(disk / "second", "import alpha.m1; print(alpha.m1.V)") == "1.0"
        found = _stamped(store, manifest, disk / "env", mode)
        assert found == ([(entry.path, "alpha", "content")] if mode == "thick" else [])


@pytest.mark.root
def test_a_fallback_is_never_silent(store: Store, tmp_path: Path) -> None:
    """Row S5: the store on another file system."""
    with mounts.tmpfs(tmp_path) as other:
        done = recreate(store, make_image(store, V1), str(other / "env"), HERE)
        assert done.checkout.copied
        assert "cross-device" in done.checkout.fallback.lower()
        assert say(other / "env", "import alpha; print(alpha.VERSION)") == "1.0"


# The check


def _stamped(store: Store, manifest: Manifest, path: Path, mode: str) -> list[tuple[str, str, str]]:
    stamp = read_stamp(str(path))
    assert stamp is not None
    found = check(store, manifest, stamp, str(path), HERE, deep=True)
    root = f"{store.root}/checkouts/{stamp.checkout}/"
    return [(one.path.removeprefix(root), one.owner, one.what) for one in found]


@pytest.mark.parametrize("mode", ["thick", "thin"])
def test_check_names_what_differs_and_its_package(store: Store, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "env"
    manifest = make_image(store, V1)
    recreate(store, manifest, str(path), HERE, mode=mode)
    say(path, "import alpha, beta, gamma.one")
    assert _stamped(store, manifest, path, mode) == []
    part = path if mode == "thick" else next((tmp_path / "store" / "checkouts").iterdir())
    (part / SITE / "alpha" / "m0.py").unlink()
    (path / SITE / "stray.py").write_text("")
    (path / "bin" / "alpha-say").write_text("#!/bin/sh\n")
    found = _stamped(store, manifest, path, mode)
    assert (f"{SITE}/alpha/m0.py", "alpha", "missing") in found
    assert (f"{SITE}/stray.py", "-", "added") in [(p, "-", w) for p, _, w in found]
    assert ("bin/alpha-say", "alpha", "size") in found
    assert len(found) == 3


@pytest.mark.parametrize("mode", ["thick", "thin"])
def test_editable_files_replace_the_packages_own(store: Store, tmp_path: Path, mode: str) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "alpha.py").write_text("VERSION = 'edited'\n")
    path = tmp_path / "env"
    manifest = make_image(store, V1)
    files = {
        f"{SITE}/__editable__.alpha.pth": (f"{source}\n".encode(), False),
        f"{SITE}/alpha-1.0.dist-info/METADATA": (b"Name: alpha\nVersion: 1.0\n", False),
        "bin/alpha-say": (f"#!{path}/bin/python\nprint('edited')\n".encode(), True),
    }
    recreate(store, manifest, str(path), HERE, mode=mode, editable=Editable("alpha", files))
    assert say(path, "import alpha, beta; print(alpha.VERSION)") == "edited"
    script = subprocess.run([path / "bin" / "alpha-say"], capture_output=True, text=True)
    assert script.stdout == "edited\n"
    code = (
        "import importlib.metadata as m; print([d.name for d in m.distributions()].count('alpha'))"
    )
    assert say(path, code) == "1"
    assert _stamped(store, manifest, path, mode) == []
    (path / SITE / "__editable__.alpha.pth").write_text("/elsewhere\n")
    assert _stamped(store, manifest, path, mode) == [
        (f"{SITE}/__editable__.alpha.pth", "alpha", "content")
    ]


# The stamp


def test_inputs_are_compared_by_what_they_hold(store: Store, tmp_path: Path) -> None:
    for name in ("wain.toml", "gone"):
        (tmp_path / name).write_text("one")
    names = ("wain.toml", "gone", "never")
    inputs = tuple(read_input(str(tmp_path), name) for name in names)
    path = tmp_path / "env"
    recreate(store, make_image(store, V1), str(path), HERE, project=str(tmp_path), inputs=inputs)
    stamp = read_stamp(str(path))
    assert stamp is not None
    assert [one.path for one in stamp.inputs] == list(names)
    assert changed_inputs(stamp) == []
    os.utime(tmp_path / "wain.toml")
    assert changed_inputs(stamp) == []
    (tmp_path / "wain.toml").write_text("two")
    (tmp_path / "gone").unlink()
    (tmp_path / "never").write_text("")
    assert changed_inputs(stamp) == list(names)


def test_a_change_within_the_clocks_tick_is_seen(tmp_path: Path) -> None:
    """Row Z3: equal size and times, other bytes."""
    path = tmp_path / "lock"
    path.write_text("one")
    found = read_input(str(tmp_path), "lock")
    times = path.stat()
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    # It was young when it was read, so no stat vouches for it.
    assert found.signature == "-"
    old = Input(found.path, found.sha256, found.signature)
    assert read_input(str(tmp_path), "lock").sha256 != old.sha256


@pytest.mark.parametrize("damage", [b"", b"\0\0\0", b"wain-env 2\n", b"wain-env 1\nimage x\n"])
def test_a_damaged_stamp_is_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / ".wain-env").write_bytes(damage)
    assert read_stamp(str(tmp_path)) is None


# Cuts

CUT = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, sys.argv[1])
    from images.environment import recreate
    from images.interpreter import running_interpreter
    from images.roots import Roots
    from images.store import Store
    from images.swap import alone
    store = Store(sys.argv[2])
    manifest = store.manifest(sys.argv[3])
    with alone(Roots(store).folder, sys.argv[4]):
        recreate(store, manifest, sys.argv[4], running_interpreter()[1], mode=sys.argv[5])
    """
)
ROOT = str(Path(__file__).resolve().parents[2])


def _command(store: Store, image: str, path: Path, mode: str) -> list[str]:
    return [HERE.executable, "-I", "-c", CUT, ROOT, store.root, image, str(path), mode]


def _state(path: Path) -> str:
    """Which image runs there, whole."""
    code = "import alpha, alpha.m2, beta; print(alpha.VERSION, alpha.m2.V)"
    one, two = say(path, code).split()
    assert one == two
    return one


def _calls(command: Sequence[str], log: Path) -> dict[str, int]:
    """How often each system call that changes something is made."""
    names = "mkdir,mkdirat,rename,renameat2,link,linkat,symlink,unlink,unlinkat,rmdir,openat,chmod"
    subprocess.run(["strace", "-f", "-qq", "-e", f"trace={names}", "-o", log, *command], check=True)
    found: dict[str, int] = {}
    for line in log.read_text().splitlines():
        name = line.split(None, 1)[1].partition("(")[0]
        if name.isidentifier() and (name != "openat" or "O_CREAT" in line):
            found[name] = found.get(name, 0) + 1
    return found


@pytest.mark.row("S4")
@pytest.mark.parametrize("mode", ["thick", "thin"])
@pytest.mark.parametrize(("how", "short"), [("KILL", 9), ("INT", 5)])
def test_cut_at_any_system_call_leaves_the_old_or_the_new_one(
    store: Store, tmp_path: Path, mode: str, how: str, short: int,
    sample: Callable[[Sequence[tuple[str, int]], int], Sequence[tuple[str, int]]],
) -> None:  # fmt: skip
    if subprocess.run(["strace", "-V"], capture_output=True, check=False).returncode:
        pytest.skip("strace is not installed")
    old, new = make_image(store, V1), make_image(store, V2)
    path = tmp_path / "env"
    recreate(store, old, str(path), HERE, mode=mode)
    counted = _calls(_command(store, new.image_id, path, mode), tmp_path / "log")
    points = [(name, at) for name, count in counted.items() if name != "openat"
              for at in range(1, count + 1)]  # fmt: skip
    states = set()
    for name, at in sample(points, short):
        recreate(store, old, str(path), HERE, mode=mode)
        if mode == "thin":
            # As if the new image's checkout had never been made.
            swap.remove_tree(f"{store.root}/checkouts/{new.image_id}")
        inject = f"inject={name}:signal={how}:when={at}"
        command = ["strace", "-f", "-qq", "-e", f"trace={name}", "-e", inject, "-o", "/dev/null",
                   *_command(store, new.image_id, path, mode)]  # fmt: skip
        subprocess.run(command, capture_output=True, check=False)
        states.add(_state(path))
        if how == "INT":  # Ctrl-C: it cleans up after itself
            assert sorted(set(os.listdir(tmp_path)) - {"log"}) == ["env", "store"], (name, at)
        subprocess.run(_command(store, new.image_id, path, mode), check=True)
        assert _state(path) == "2.0"
        assert sorted(one for one in os.listdir(tmp_path) if one != "log") == ["env", "store"]
        checkouts = tmp_path / "store" / "checkouts"
        if checkouts.is_dir():
            assert not [one for one in os.listdir(checkouts) if one.startswith(".")]
    assert states == {"1.0", "2.0"}


@pytest.mark.root
@pytest.mark.row("D1")
@pytest.mark.parametrize("mode", ["thick", "thin"])
def test_a_full_disk_leaves_the_old_one(
    tmp_path: Path, mode: str, sample: Callable[[Sequence[int], int], Sequence[int]]
) -> None:
    """Full at any of the blocks a new environment takes; what is freed later lets it go on."""
    with mounts.tmpfs(tmp_path, "size=2m") as disk:
        store = Store(str(disk / "store"))
        old, new = make_image(store, V1), make_image(store, V2)
        path = disk / "env"
        ended = set()
        for left in sample(range(17), 6):
            recreate(store, old, str(path), HERE, mode=mode)
            swap.remove_tree(f"{store.root}/checkouts/{new.image_id}")
            free = os.statvfs(disk)
            room = max(0, free.f_bavail - left) * free.f_frsize
            (disk / "ballast").write_bytes(b"x" * room)
            try:
                recreate(store, new, str(path), HERE, mode=mode)
                ended.add("done")
            except WainError as error:
                assert "No space left" in error.what  # noqa: PT017
                ended.add("full")
                assert _state(path) == "1.0"
            assert sorted(os.listdir(disk)) == ["ballast", "env", "store"]
            (disk / "ballast").unlink()
            recreate(store, new, str(path), HERE, mode=mode)
            assert _state(path) == "2.0"
            assert store.verify() == []
        assert ended == {"done", "full"}


def test_interrupted_leaves_the_old_one_and_no_rubbish(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "env"
    recreate(store, make_image(store, V1), str(path), HERE)
    new = make_image(store, [regular("alpha", "2.0", 400), module("beta", "1.0")])

    def interrupt(stage: str, done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        recreate(store, new, str(path), HERE, on_progress=interrupt)
    assert _state(path) == "1.0"
    assert sorted(os.listdir(tmp_path)) == ["env", "store"]


def test_two_at_once_take_turns(store: Store, tmp_path: Path) -> None:
    new = make_image(store, V2)
    path = tmp_path / "env"
    command = _command(store, new.image_id, path, "thick")
    racing = [subprocess.Popen(command) for _ in range(4)]
    assert [one.wait(60) for one in racing] == [0, 0, 0, 0]
    assert _state(path) == "2.0"
    assert sorted(os.listdir(tmp_path)) == ["env", "store"]


def test_a_waiting_one_is_told(store: Store, tmp_path: Path) -> None:
    folder = Roots(store).folder
    told = []
    with swap.alone(folder, "/place"):
        code = (
            f"import sys; sys.path.insert(0, {ROOT!r})\n"
            "from images.swap import alone\n"
            f"with alone({folder!r}, '/place', lambda: print('waiting', flush=True)): print('in')"
        )
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        told.append(other.stdout.readline())
    told.append(other.communicate(timeout=20)[0])
    assert told == ["waiting\n", "in\n"]
