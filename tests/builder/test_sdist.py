"""Building sdists: kept, reproducible, in isolation, and honest about what went wrong."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder import abi, hermetic
from builder.built import built_wheel
from builder.hooks import BuildFailed
from builder.sdist import Built, build_project
from builder.workspace import SandboxError
from images.errors import DifferenceError, WainError
from tests.support.sdists import (
    TARGET,
    backend,
    build,
    content,
    empty_lock,
    locked,
    make_sdist,
    needs_gcc,
    project,
)
from wheelhouse.errors import WheelhouseError
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock

CANARY = "canary-91c2"


@pytest.fixture
def house(tmp_path: Path) -> Wheelhouse:
    return Wheelhouse(tmp_path / "wheelhouse")


def test_builds_once(tmp_path: Path, house: Wheelhouse) -> None:
    sdist = make_sdist(tmp_path, backend())
    seen: list[tuple[str, int, int]] = []
    built = build(sdist, house, on_progress=lambda *event: seen.append(event))
    assert built.source == "built"
    assert built.file.startswith("small-1.0-1_")
    assert built.file.endswith("-py3-none-any.whl")
    assert house.has(built.file, built.sha256)
    assert built.log_path.read_text().startswith("isolation: ")
    assert seen == [("building small 1.0", 0, 1), ("building small 1.0", 1, 1)]
    again = build(sdist, house)
    assert (again.source, again.file, again.sha256) == ("kept", built.file, built.sha256)
    # Found by whoever only has the lock.
    found = built_wheel(locked(sdist, "sdist"), empty_lock(), TARGET, house)
    assert found is not None
    assert (found.filename, found.path) == (built.file, house.path(built.file))


def test_what_a_wheel_is_kept_by(tmp_path: Path, house: Wheelhouse) -> None:
    sdist = make_sdist(tmp_path, backend())
    built = build(sdist, house)
    package = locked(sdist, "sdist")
    other = dataclasses.replace(TARGET, platform="manylinux_2_17_x86_64")
    other_lock = Lock(TARGET, (locked(house.path(built.file)),))
    assert built_wheel(package, empty_lock(), other, house) is None
    assert built_wheel(package, other_lock, TARGET, house) is None
    assert built_wheel(package, empty_lock(), TARGET, house, {"CFLAGS": "-O0"}) is None
    changed = make_sdist(tmp_path, backend(extra="# changed"))
    assert built_wheel(locked(changed, "sdist"), empty_lock(), TARGET, house) is None
    # A wheel that left the wheelhouse, or was changed in it, counts as none.
    house.path(built.file).write_bytes(b"x")
    assert built_wheel(package, empty_lock(), TARGET, house) is None


def test_two_folders_give_equal_bytes(tmp_path: Path) -> None:
    sdist = make_sdist(tmp_path, backend())
    one, other = (Wheelhouse(tmp_path / name) for name in ("one", "other"))
    first, second = build(sdist, one), build(sdist, other)
    assert first.sha256 == second.sha256
    assert build(sdist, one, reproduce=True).sha256 == first.sha256


def test_two_builders_at_once_agree(tmp_path: Path, house: Wheelhouse) -> None:
    sdist = make_sdist(tmp_path, backend())
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda _: build(sdist, house), range(3)))
    assert len({(one.file, one.sha256) for one in built}) == 1
    assert len(list(house.files())) == 1
    assert build(sdist, house).source == "kept"


@pytest.mark.parametrize("level", hermetic.LEVELS)
def test_every_level_gives_the_same_wheel(tmp_path: Path, house: Wheelhouse, level: str) -> None:
    sdist = make_sdist(tmp_path, backend())
    expected = build(sdist, house).sha256
    try:
        kept = hermetic.isolation(*hermetic.own_python(), level)
    except SandboxError:
        pytest.skip(f"no {level} here")
    there = Wheelhouse(tmp_path / "there")
    built = build(sdist, there, isolation=kept)
    assert built.sha256 == expected
    assert kept.describe() in built.log_path.read_text()
    assert built.isolation == kept.describe()


def test_a_difference_is_named(tmp_path: Path, house: Wheelhouse) -> None:
    extra = "def extra(found):\n    found['small_data.txt'] = str(time.time_ns())\n"
    sdist = make_sdist(tmp_path, backend(extra=extra))
    with pytest.raises(DifferenceError, match=r"small-1\.0\.tar\.gz: .*'small_data\.txt'"):
        build(sdist, house, reproduce=True)
    assert list(house.files()) == []


def test_a_build_that_differs_from_the_kept_one_is_named(tmp_path: Path, house: Wheelhouse) -> None:
    extra = "def extra(found):\n    found['data.txt'] = str(time.time_ns())\n"
    sdist = make_sdist(tmp_path, backend(extra=extra))
    built = build(sdist, house)
    shutil.rmtree(house.folder / ".meta" / "built")
    with pytest.raises(DifferenceError, match="other bytes under the same name"):
        build(sdist, house)
    assert house.has(built.file, built.sha256)


def test_the_fixed_world(tmp_path: Path, house: Wheelhouse) -> None:
    extra = (
        "def extra(found):\n"
        "    import locale, stat, tempfile\n"
        "    open('probe', 'w').close()\n"
        "    found['world.txt'] = repr([os.environ['SOURCE_DATE_EPOCH'], time.tzname[0],\n"
        "        os.environ['PYTHONHASHSEED'], os.environ['LC_ALL'], os.umask(0o22),\n"
        "        oct(stat.S_IMODE(os.stat('probe').st_mode)), os.getcwd(),\n"
        "        sorted(set(os.environ) - {'PWD', 'SHLVL', '_'})])\n"
    )
    sdist = make_sdist(tmp_path, backend(extra=extra))
    said = content(house, build(sdist, house), "world.txt").decode()
    assert said.startswith("['315532800', 'UTC', '0', 'C.UTF-8', 18, '0o644', ")
    if hermetic.isolation(*hermetic.own_python()).neutral_path:
        assert "'/build/src'" in said
    assert str(tmp_path) not in said


HOSTILE = """
def attempt(what, function):
    try:
        return f"{{what}}: DONE {{function()!r}}\\n"
    except BaseException as error:
        return f"{{what}}: {{type(error).__name__}}\\n"

def extra(found):
    import socket, subprocess
    said = attempt("key", lambda: open({secret!r}).read())
    said += attempt("home", lambda: open(os.path.expanduser("~/.ssh/id")).read())
    said += attempt("env", lambda: os.environ["WAIN_SECRET"])
    said += attempt("net", lambda: socket.create_connection(("127.0.0.1", {port}), 2))
    said += attempt("write", lambda: open({target!r}, "w").write("x"))
    said += attempt("usr", lambda: open("/usr/lib/planted", "w").write("x"))
    subprocess.Popen(["sleep", "600.{mark}"], start_new_session=True)
    found["said.txt"] = said
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.row("W12")
def test_a_hostile_sdist_gets_nothing(
    tmp_path: Path, house: Wheelhouse, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    (open_folder / ".ssh").mkdir(mode=0o755)
    secret = open_folder / ".ssh" / "id"
    secret.write_text(CANARY)
    secret.chmod(0o644)
    monkeypatch.setenv("HOME", str(open_folder))
    monkeypatch.setenv("WAIN_SECRET", CANARY)
    target = open_folder / "planted"
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = HOSTILE.format(
            secret=str(secret),
            port=server.getsockname()[1],
            target=str(target),
            mark=str(os.getpid()),
        )
        built = build(make_sdist(tmp_path, backend(extra=code)), house)
    said = content(house, built, "said.txt").decode()
    assert "DONE" not in said, said
    assert said.count("\n") == 6
    assert not target.exists()
    assert CANARY not in built.log_path.read_text()
    ps = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert f"sleep 600.{os.getpid()}" not in ps.stdout


@pytest.mark.row("W12")
def test_a_hanging_build_is_named_and_stopped(tmp_path: Path, house: Wheelhouse) -> None:
    sdist = make_sdist(tmp_path, backend(extra="def after(path):\n    time.sleep(600)\n"))
    with pytest.raises(
        BuildFailed, match=r"small-1\.0\.tar\.gz: build_wheel was stopped .* 1\.5s \('timeout' in"
    ) as caught:
        build(sdist, house, deadline=1.5)
    assert caught.value.log.is_file()
    assert list(house.files()) == []


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("def after(path):\n    raise ValueError('no such thing')\n", "ValueError: no such thing"),
        ("def after(path):\n    os.remove(path)\n", "left 0 wheels"),
        (
            "def after(path):\n    open(os.path.join(os.path.dirname(path), 'b.whl'), 'w')\n",
            "left 2 wheels",
        ),
        (
            "def after(path):\n    os.remove(path); os.symlink('/etc/passwd', path)\n",
            "cannot be taken",
        ),
        ("def after(path):\n    open(path, 'w').write('x')\n", "no readable wheel"),
        ("def after(path):\n    os._exit(9)\n", "build_wheel failed"),
    ],
)
def test_a_bad_build_is_one_line(tmp_path: Path, house: Wheelhouse, extra: str, what: str) -> None:
    sdist = make_sdist(tmp_path, backend(extra=extra))
    with pytest.raises(WainError, match=what) as caught:
        build(sdist, house)
    assert "\n" not in str(caught.value)
    assert list(house.files()) == []


def test_terminal_sequences_in_a_log_stay_there(tmp_path: Path, house: Wheelhouse) -> None:
    extra = "def after(path):\n    raise ValueError('\\x1b]0;owned\\x07')\n"
    with pytest.raises(BuildFailed) as caught:
        build(make_sdist(tmp_path, backend(extra=extra)), house)
    assert "\x1b" not in str(caught.value)
    assert "\\x1b]0;owned" in str(caught.value)


def test_a_wheel_of_another_name_is_refused(tmp_path: Path, house: Wheelhouse) -> None:
    sdist = make_sdist(tmp_path, backend(version="2.0"))
    with pytest.raises(WainError, match=r"made small-2\.0-py3-none-any\.whl, expected small 1\.0"):
        build(sdist, house)


def test_a_wheel_the_wheelhouse_refuses_leaves_nothing(tmp_path: Path, house: Wheelhouse) -> None:
    extra = "def extra(found):\n    found['small-1.0.data/data/pyvenv.cfg'] = 'home = /'\n"
    with pytest.raises(WheelhouseError, match="W2"):
        build(make_sdist(tmp_path, backend(extra=extra)), house)
    assert list(house.files()) == []


@pytest.mark.row("W13")
def test_a_wheel_for_another_interpreter_is_refused(tmp_path: Path, house: Wheelhouse) -> None:
    sdist = make_sdist(tmp_path, backend(tag="cp38-none-any"))
    with pytest.raises(abi.AbiError, match=r"cp38-none-any, target default is"):
        build(sdist, house)


@pytest.mark.row("W13")
def test_machine_code_in_a_wheel_for_any_machine_is_refused(
    tmp_path: Path, house: Wheelhouse
) -> None:
    extra = "def extra(found):\n    found['small/_x.so'] = open('/bin/true', 'rb').read()\n"
    with pytest.raises(abi.AbiError, match=r"compiled module 'small/_x\.so'"):
        build(make_sdist(tmp_path, backend(extra=extra)), house)


# pthread_create moved into glibc proper in 2.34: linked here, it asks for GLIBC_2.34.
COMPILED = """
def extra(found):
    import subprocess, sysconfig
    open("x.c", "w").write('''
        #include <pthread.h>
        static void *nothing(void *a) { return a; }
        int start(void) { pthread_t t; return pthread_create(&t, 0, nothing, 0); }
    ''')
    subprocess.check_call(["gcc", "-shared", "-fPIC", "-o", "x.so", "x.c"])
    found["small/_x.so"] = open("x.so", "rb").read()
"""


@needs_gcc
@pytest.mark.row("W13")
def test_a_newer_libc_than_the_target_has_is_refused(tmp_path: Path, house: Wheelhouse) -> None:
    if (TARGET.libc or ("", 0, 0))[1:] < (2, 34):
        pytest.skip("this machine's glibc is older than what the test needs")
    tag = f"{TARGET.abi}-{TARGET.abi}-linux_{TARGET.machine}"
    sdist = make_sdist(tmp_path, backend(tag=tag, extra=COMPILED))
    old = dataclasses.replace(TARGET, name="prod", platform=f"manylinux_2_28_{TARGET.machine}")
    with pytest.raises(abi.AbiError, match=r"needs glibc 2\.34, target prod .* at most 2\.28"):
        build(sdist, house, target=old)
    assert list(house.files()) == []
    built = build(sdist, house)
    assert built.file.endswith(f"manylinux_2_34_{TARGET.machine}.whl")


def test_a_platform_wheel_without_machine_code_runs_anywhere(
    tmp_path: Path, house: Wheelhouse
) -> None:
    tag = f"{TARGET.abi}-{TARGET.abi}-linux_{TARGET.machine}"
    built = build(make_sdist(tmp_path, backend(tag=tag)), house)
    oldest = TARGET.platforms()[-2:]
    assert built.file.split("-")[-1].removesuffix(".whl") in oldest


# --- the project's own package ---------------------------------------------------------------


def test_a_project_is_built_again_only_when_it_changed(tmp_path: Path, house: Wheelhouse) -> None:
    source = tmp_path / "small"
    source.mkdir()
    (source / "pyproject.toml").write_text(project())
    extra = "def extra(found):\n    found['files.txt'] = repr(sorted(os.listdir('.')))\n"
    (source / "own_backend.py").write_text(backend(extra=extra))

    def make() -> Built:
        return build_project(source, empty_lock(), house, TARGET, sys.executable)

    first = make()
    assert (first.source, make().source) == ("built", "kept")
    for left_out in (".hg/store", ".venv/pyvenv.cfg", "locks/x.toml", "build/lib/x.py", "a.pyc"):
        (source / left_out).parent.mkdir(parents=True, exist_ok=True)
        (source / left_out).write_text("x")
    assert make().source == "kept"
    (source / "data.txt").write_text("x")
    second = make()
    assert (second.source, second.file == first.file) == ("built", False)
    assert content(house, second, "files.txt") == (
        b"['data.txt', 'own_backend.py', 'pyproject.toml']"
    )
    (source / "own_backend.py").write_text(backend(extra="def after(path): raise OSError(7)"))
    with pytest.raises(BuildFailed, match="OSError"):
        make()


def test_a_project_whose_wheel_is_the_same_keeps_its_file(
    tmp_path: Path, house: Wheelhouse
) -> None:
    source = tmp_path / "small"
    source.mkdir()
    (source / "pyproject.toml").write_text(project())
    (source / "own_backend.py").write_text(backend())
    first = build_project(source, empty_lock(), house, TARGET, sys.executable)
    (source / "requirements.txt").write_text("six\n")
    second = build_project(source, empty_lock(), house, TARGET, sys.executable)
    assert (second.source, second.file, second.sha256) == ("built", first.file, first.sha256)


GRAFTED = """
def extra(found):
    import subprocess
    open("outer.c", "w").write("int outer(void) { return 7; }")
    open("x.c", "w").write("int outer(void); int inner(void) { return outer(); }")
    os.makedirs("libs", exist_ok=True)
    subprocess.check_call(["gcc", "-shared", "-fPIC", "-o", "libs/libouter.so.1",
                           "-Wl,-soname,libouter.so.1", "outer.c"])
    subprocess.check_call(["gcc", "-shared", "-fPIC", "-o", "x.so", "x.c",
                           "libs/libouter.so.1", "-Wl,-rpath," + os.path.abspath("libs")])
    found["small/_x.so"] = open("x.so", "rb").read()
    found["small/__init__.py"] = ""
"""


@needs_gcc
def test_a_foreign_library_is_copied_in_the_same_way_each_time(
    tmp_path: Path, house: Wheelhouse
) -> None:
    tag = f"{TARGET.abi}-{TARGET.abi}-linux_{TARGET.machine}"
    sdist = make_sdist(tmp_path, backend(tag=tag, extra=GRAFTED))
    built = build(sdist, house, reproduce=True)
    with zipfile.ZipFile(house.path(built.file)) as wheel:
        names = wheel.namelist()
    assert [name for name in names if name.startswith("small.libs/libouter-")]
    assert "linux_" not in built.file.split("-")[-1].replace("manylinux_", "")
