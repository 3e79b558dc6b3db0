"""Wheels into an image: what is in it, what stops it, and what is not done twice."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.assemble import Image, Options, Wheel, assemble
from builder.compilers import CompileError
from builder.destination import WheelContentError
from builder.kept import sweep
from builder.layout import ConflictError
from builder.prune import matcher
from builder.secrets import SecretError
from images.errors import LockedError, UsageError
from images.render import Interpreter
from images.store import Store
from tests.support.handmade import make_wheel
from wheelhouse.target import Target

PYTHON = Target.running().python
SITE = f"lib/python{PYTHON}/site-packages"
Build = Callable[..., Image]
Live = Callable[..., Path]


def paths(image: Image) -> dict[str, str]:
    return {entry.path: entry.owner for entry in image.manifest.entries}


def says(prefix: Path, code: str) -> str:
    done = subprocess.run(
        [prefix / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_an_image_works(build: Build, live: Live, tmp_path: Path) -> None:
    demo = make_wheel(
        tmp_path,
        "Demo.App",
        {
            "demo/__init__.py": "import sys\n\n\ndef main():\n    print('hi', sys.prefix)\n",
            "demo/broken.py": "def f(:\n",
            "Demo.App-1.0.data/data/share/demo/a,b.txt": "x",
            "Demo.App-1.0.data/headers/demo.h": "y",
            "Demo.App-1.0.data/scripts/hello": "#!python\nimport demo; demo.main()\n",
        },
        entry_points="[console_scripts]\ndemo = demo:main\n",
        direct=True,
    )
    image = build([demo])
    assert paths(image) == paths(build([demo], bytecode=False)) | {
        f"{SITE}/demo/__pycache__/__init__.cpython-{PYTHON.replace('.', '')}.pyc": "demo-app"
    }
    prefix = live(image, "a place with spaces " + "x" * 120)
    for script in ("demo", "hello"):
        done = subprocess.run([prefix / "bin" / script], capture_output=True, text=True, check=True)
        assert done.stdout == f"hi {prefix}\n"
    assert (prefix / "share" / "demo" / "a,b.txt").read_text() == "x"
    assert (prefix / "include" / "site" / f"python{PYTHON}" / "demo-app" / "demo.h").is_file()
    assert (prefix / "bin" / "python3").resolve() == (prefix / "bin" / "python").resolve()
    # Nothing is compiled at import, and a traceback shows the real place.
    assert says(prefix, "import demo; print(demo.main.__code__.co_filename)") == str(
        prefix / SITE / "demo" / "__init__.py"
    )
    done = subprocess.run(
        [prefix / "bin" / "python", "-v", "-c", "import demo"], capture_output=True, text=True
    )
    assert "matches" in done.stderr or "code object from" in done.stderr
    assert "wrote" not in done.stderr


def test_record_names_every_file_with_its_hash(build: Build, live: Live, tmp_path: Path) -> None:
    wheels = [
        make_wheel(
            tmp_path, "one", {"one.py": "1\n", "one-1.0.data/data/etc/a,\"b\".cfg": "z"},
            entry_points="[console_scripts]\none = one:main\n", direct=True,
        ),
        make_wheel(tmp_path, "two", {"two.py": "2\n"}),
    ]  # fmt: skip
    prefix = live(build(wheels))
    site = prefix / SITE
    for name, requested in (("one", True), ("two", False)):
        (found,) = importlib.metadata.distributions(path=[str(site)], name=name)
        info = site / f"{name}-1.0.dist-info"
        assert found.read_text("INSTALLER") == "wain\n"
        assert (info / "REQUESTED").exists() == requested
        assert not (info / "direct_url.json").exists()
        rows = list(csv.reader((info / "RECORD").read_text().splitlines()))
        assert rows == sorted(rows)
        listed = {os.path.normpath(site / row[0]) for row in rows}
        own = {
            str(path) for path in prefix.rglob("*")
            if path.is_file() and name in path.read_text(errors="replace") + str(path.name)
            and path.parent != site and "activate" not in path.name
        }  # fmt: skip
        assert {path for path in own if f"{name}-1.0" in path} <= listed
        for path, digest, size in rows:
            file = Path(os.path.normpath(site / path))
            assert file.is_file(), path
            data = file.read_bytes()
            if path.endswith((".pyc", "RECORD")) or "/bin/" in path:
                assert (digest, size) == ("", ""), path
            else:
                value = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
                assert (digest, size) == (f"sha256={value.rstrip('=')}", str(len(data)))


@pytest.mark.row("W2")
@pytest.mark.parametrize("jobs", [1, 3])
def test_two_packages_one_path(build: Build, store: Store, tmp_path: Path, jobs: int) -> None:
    """Who is refused leaves nothing in the store."""
    same = {"shared/__init__.py": "__path__ = []\n"}
    first = make_wheel(tmp_path, "aaa", {**same, "shared/a.py": "1\n"})
    second = make_wheel(tmp_path, "bbb", {**same, "shared/b.py": "2\n"})
    image = build([second, first], jobs=jobs)
    assert paths(image)[f"{SITE}/shared/__init__.py"] == "aaa"
    third = make_wheel(tmp_path, "ccc", {"shared/__init__.py": "other\n"})
    with pytest.raises(ConflictError) as caught:
        build([third, first], jobs=jobs)
    assert caught.value.owners == ("aaa", "ccc")
    assert caught.value.path == f"{SITE}/shared/__init__.py"
    assert (set(store.keys()), store.manifests()) == (set(image.manifest.objects()), [image.id])
    image = build([third, first], jobs=jobs, prune=("**/shared/__init__.py",))
    assert f"{SITE}/shared/__init__.py" not in paths(image)


def test_one_package_has_a_file_where_another_has_a_folder(build: Build, tmp_path: Path) -> None:
    wheels = [
        make_wheel(tmp_path, "aaa", {"x/y.txt": "1"}),
        make_wheel(tmp_path, "bbb", {"x": "2"}),
    ]
    with pytest.raises(ConflictError, match=r"file of bbb and a folder of aaa"):
        build(wheels)


@pytest.mark.row("W2")
@pytest.mark.parametrize(
    ("files", "entry_points"),
    [
        ({"evil-1.0.data/data/bin/python": "x"}, ""),
        ({"evil-1.0.data/scripts/python3": "x"}, ""),
        ({"evil-1.0.data/data/pyvenv.cfg": "x"}, ""),
        ({"evil-1.0.data/data/bin/activate/x": "x"}, ""),
        ({f"evil-1.0.data/data/lib/python{PYTHON}/sitecustomize.py": "x"}, ""),
        ({}, "[console_scripts]\npython = evil:main\n"),
        ({}, "[gui_scripts]\nactivate = evil:main\n"),
        ({"evil-1.0.data/data/.gitignore": "*\n"}, ""),
    ],
)
def test_no_package_replaces_the_environment(
    build: Build, tmp_path: Path, files: dict[str, str], entry_points: str
) -> None:
    with pytest.raises(ConflictError) as caught:
        build([make_wheel(tmp_path, "evil", files, entry_points=entry_points)])
    assert set(caught.value.owners) == {"evil", "-"}
    assert "the environment itself" in str(caught.value)


def test_prune_leaves_out_everywhere(build: Build, live: Live, tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path, "demo",
        {"demo/__init__.py": "", "demo/tests/__init__.py": "", "demo/tests/deep/t.py": "1\n",
         "demo/_tests.py": "", "demo/data.csv": "1", "demo-1.0.data/data/share/man/x.1": "m"},
    )  # fmt: skip
    image = build([wheel], prune=("**/tests/**", "**/*.csv", "share"))
    left = {
        path.removeprefix(f"{SITE}/") for path, owner in paths(image).items() if owner == "demo"
    }
    tag = f"cpython-{PYTHON.replace('.', '')}"
    assert {path for path in left if "dist-info" not in path} == {
        "demo/__init__.py", "demo/__pycache__/__init__." + tag + ".pyc",
        "demo/_tests.py", "demo/__pycache__/_tests." + tag + ".pyc", "share/man/x.1",
    }  # fmt: skip
    record = (live(image) / SITE / "demo-1.0.dist-info" / "RECORD").read_text()
    assert "tests/" not in record
    assert "csv" not in record
    assert build([wheel]).unpacked == 0
    no_bytecode = build([wheel], prune=("**/__pycache__/**",))
    assert no_bytecode.id == build([wheel], bytecode=False).id


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("**/tests/**", ["tests/a", "x/tests/a/b"], ["tests", "x/mytests/a", "testsx/a"]),
        ("*.txt", ["a.txt", ".txt"], ["d/a.txt"]),
        ("**/*.tx?", ["a.txt", "d/e/a.txx"], ["a.tx", "a.txtt"]),
        ("share/**", ["share/a", "share/b/c"], ["share", "xshare/a"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a/bz"]),
        ("lib/[a-c]?.so", ["lib/ax.so"], ["lib/dx.so", "lib/a/.so"]),
        ("a/[!b]", ["a/c"], ["a/b"]),
        ("a+b(c).txt", ["a+b(c).txt"], ["aab(c).txt"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = matcher((pattern,))
    assert [path for path in yes if not matches(path)] == []
    assert [path for path in no if matches(path)] == []


@pytest.mark.row("L2")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pip.conf", "[global]\nindex-url = https://bob:hunter2@index.example/simple\n"),
        (".pypirc", "[pypi]\nusername = bob\npassword = hunter2\n"),
        ("conf/.netrc", "machine index.example login bob password hunter2\n"),
        (".env", "DATABASE_URL=postgres://app:hunter2@db.example/app\n"),
        ("vendor.dist-info.x/direct_url.json", '{"url": "https://t:hunter2@git.example/x.git"}'),
        ("id_rsa", "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n"),
        (".npmrc", "//registry.example/:_authToken=hunter2\n"),
    ],
)
def test_a_password_stops_the_image(build: Build, tmp_path: Path, name: str, text: str) -> None:
    wheel = make_wheel(tmp_path, "leaky", {f"leaky/{name}": text})
    for _ in range(2):  # fresh, and from what was kept
        with pytest.raises(SecretError) as caught:
            build([wheel])
        assert caught.value.owner == "leaky"
        assert "hunter2" not in str(caught.value)
    assert build([wheel], prune=(f"**/{name}",)).warnings == ()


@pytest.mark.row("L2")
def test_a_file_that_may_hold_a_password_is_a_warning(build: Build, tmp_path: Path) -> None:
    files = {
        "p/.env": "DEBUG=1\n",
        "p/.env.example": "DATABASE_URL=postgres://app:password@db/app\n",
        "p/pip.conf": "[global]\nindex-url = https://${USER}:${PASS}@index.example/simple\n",
        "p/docs/env": "x",
    }
    image = build([make_wheel(tmp_path, "p", files)])
    assert len(image.warnings) == 1
    assert f"{SITE}/p/.env " in image.warnings[0]


def test_a_second_image_does_only_what_is_new(build: Build, store: Store, tmp_path: Path) -> None:
    old = make_wheel(tmp_path, "demo", {"a.py": "a = 1\n", "b.py": "b = 1\n"})
    other = make_wheel(tmp_path, "other", {"c.py": "c = 1\n"})
    first = build([old, other])
    assert (first.unpacked, first.compiled) == (2, 3)
    new = make_wheel(tmp_path / "2", "demo", {"a.py": "a = 1\n", "b.py": "b = 2\n"}, version="2.0")
    second = build([new, other])
    assert (second.unpacked, second.compiled) == (1, 1)
    again = build([old, other])
    assert (again.id, again.unpacked, again.compiled) == (first.id, 0, 0)


@pytest.mark.parametrize("damage", ["object gone", "object changed", "record cut", "record gone"])
def test_what_was_kept_is_not_trusted_blindly(
    build: Build, store: Store, tmp_path: Path, damage: str
) -> None:
    wheel = make_wheel(tmp_path, "demo", {"a.py": "a = 1\n"})
    first = build([wheel])
    source = next(e for e in first.manifest.entries if e.path.endswith("/a.py"))
    path = Path(store.object_path(*source.key))
    record = Path(store.root, "wheels", f"{wheel.sha256}.txt")
    if damage == "object gone":
        path.unlink()
    elif damage == "object changed":
        path.chmod(0o644)
        path.write_text("evil()\n")
    elif damage == "record cut":
        record.write_bytes(record.read_bytes()[:-70])
    else:
        record.unlink()
    again = build([wheel])
    assert (again.id, again.unpacked) == (first.id, 1)
    assert store.verify() == []


def test_bytecode_of_an_executable_source(build: Build, store: Store, tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path, "demo", {"run.py": "#!/usr/bin/env python\n"}, executable=("run.py",)
    )
    without = build([wheel], bytecode=False)
    image = build([wheel])
    assert (image.unpacked, image.compiled) == (0, 1)
    assert len(image.manifest.entries) == len(without.manifest.entries) + 1


def test_a_second_image_costs_the_package_that_differs(
    build: Build, store: Store, tmp_path: Path
) -> None:
    """At most 5 % more than that package's own files, RECORD and bytecode included."""

    def package(name: str, version: str, files: int) -> Wheel:
        sources = {f"{name}/m{n}.py": f"V = {version!r}\nN = {n}, {name!r}\n" * 40
                   for n in range(files)}  # fmt: skip
        return make_wheel(tmp_path / version, name, sources, version=version)

    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    same = package("same", "1", 60)
    first = build([same, package("demo", "1", 40)])
    before = {key: os.stat(store.object_path(*key)).st_size for key in store.keys()}  # noqa: SIM118
    second = build([same, package("demo", "2", 40)])
    after = {key: os.stat(store.object_path(*key)).st_size for key in store.keys()}  # noqa: SIM118
    own = {entry.key: entry.size for entry in second.manifest.entries if entry.owner == "demo"}
    assert len(own) > 80
    assert len(after) - len(before) <= len(own) * 1.05
    assert sum(after.values()) - sum(before.values()) <= sum(own.values()) * 1.05
    for image in (first, second):
        kept = os.stat(f"{store.manifest_folder}/{image.id}").st_size
        assert kept < len(image.manifest.to_bytes()) * 0.75  # half of it are hashes


def test_a_collection_sweeps_what_was_kept(build: Build, store: Store, tmp_path: Path) -> None:
    gone = make_wheel(tmp_path, "gone", {"gone.py": "g = 1\n", "broken.py": "def :\n"})
    stays = make_wheel(tmp_path, "stays", {"stays.py": "s = 1\n"})
    build([gone])
    image = build([stays])
    store.collect(image.manifest.objects(), [image.id])
    sweep(store)
    assert [path.stem for path in Path(store.root, "wheels").iterdir()] == [stays.sha256]
    (record,) = Path(store.root, "bytecode").iterdir()
    assert len(record.read_text().splitlines()) == 2
    again = build([stays])
    assert (again.id, again.unpacked, again.compiled) == (image.id, 0, 0)
    assert build([gone]).unpacked == 1
    store.collect([], [])
    sweep(store)
    assert list(Path(store.root, "bytecode").iterdir()) == []


@pytest.mark.row("S4")
@pytest.mark.parametrize("moment", ["publish_so_far", "finish", "publish", "put_manifest", "keep"])
def test_an_assembly_that_dies_leaves_orphans_only(
    build: Build, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    wheel = make_wheel(tmp_path, "demo", {"a.py": "a = 1\n"})
    place = {
        "publish_so_far": "images.batch.Batch.publish_so_far",
        "finish": "builder.bytecode.Bytecode.finish",
        "publish": "images.batch.Batch.publish",
        "put_manifest": "images.store.Store.put_manifest",
        "keep": "builder.kept.keep",
    }[moment]

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, dies)
    with pytest.raises(KeyboardInterrupt):
        build([wheel])
    monkeypatch.undo()
    assert store.manifests() == []
    assert store.verify() == []
    assert os.listdir(store.tmp) == []
    assert bool(list(store.keys())) == (moment != "publish_so_far")
    image = build([wheel])
    assert store.missing(image.manifest.objects()) == []


@pytest.mark.row("K2", "S3")
def test_two_builds_and_a_collection_at_once(store: Store, tmp_path: Path, build: Build) -> None:
    """Three processes on one store: both builds give the one image, and it is whole."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for number in range(3):
        files = {f"p{number}/m{i}.py": f"x = {i}\n" * 50 for i in range(60)}
        made = make_wheel(tmp_path, f"p{number}", files).path
        shutil.copy(made, wheels / made.name)
    python = ".".join(map(str, sys.version_info[:2]))
    command = [sys.executable, "-m", "tests.support.assemble_run", "", str(wheels), python, "2"]

    def start(root: str) -> subprocess.Popen[str]:
        command[3] = root
        return subprocess.Popen(
            [*command, "sorted"], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
        )

    alone = start(str(tmp_path / "alone"))
    wanted = alone.communicate()[0].strip()
    manifest = Store(str(tmp_path / "alone")).manifest(wanted)
    with store.batch() as batch:
        batch.put(b"of no image")
    both = [start(store.root) for _ in range(2)]
    held = collected = 0
    while any(one.poll() is None for one in both):
        try:
            collected += store.collect(manifest.objects(), [wanted]).objects
        except LockedError:
            held += 1
        time.sleep(0.002)
    assert [one.communicate()[0].strip() for one in both] == [wanted, wanted]
    assert store.missing(manifest.objects()) == []
    assert store.manifest(wanted) == manifest
    assert store.verify() == []
    assert held or collected
    store.collect(manifest.objects(), [wanted])
    assert sorted(store.keys()) == sorted(manifest.objects())


def test_a_bad_wheel_ends_all_of_it(
    build: Build, store: Store, tmp_path: Path, interpreter: Interpreter
) -> None:
    many = {f"m{i}.py": f"x = {i}\n" * 50 for i in range(600)}
    good = make_wheel(tmp_path, "good", many)
    bad = make_wheel(tmp_path, "bad", {})
    bad.path.write_bytes(b"PK no wheel")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(WheelContentError):
        build([good, bad])
    assert store.manifests() == []
    with pytest.raises(CompileError):
        assemble(
            Target.running(), [good], store, Options(),
            interpreter._replace(executable="/bin/false"), jobs=2,
        )  # fmt: skip
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


def test_paths_that_are_not_known_to_be_filled_yet_have_an_owner(
    build: Build, store: Store, tmp_path: Path
) -> None:
    """Bytecode and RECORD come last; a conflict over them is found before anything is named."""
    code = make_wheel(tmp_path, "code", {"m.py": "x = 1\n"})
    record = f"a-1.0.data/data/{SITE}/code-1.0.dist-info/RECORD"
    for name, path in (("file", "__pycache__"), ("a", record)):
        with pytest.raises(ConflictError) as caught:
            build([code, make_wheel(tmp_path, name, {path: "mine\n"})])
        assert set(caught.value.owners) == {"code", name}
        assert list(store.keys()) == []


def test_bytecode_of_a_source_of_two_packages(build: Build, tmp_path: Path) -> None:
    """Also where it does not compile; each RECORD names it, the first package owns it."""
    files = {"both/good.py": "x = 1\n", "both/bad.py": "def :\n"}
    wheels = [make_wheel(tmp_path, name, files) for name in ("aaa", "bbb")]
    owners = paths(build(wheels))
    tag = f"cpython-{PYTHON.replace('.', '')}"
    assert owners[f"{SITE}/both/__pycache__/good.{tag}.pyc"] == "aaa"
    assert f"{SITE}/both/__pycache__/bad.{tag}.pyc" not in owners


def test_windows_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="Windows"):
        assemble(Target("w", "3.12", "win_amd64"), [], store, Options(bytecode=False), None)


def test_a_foreign_target_needs_no_interpreter_without_bytecode(
    store: Store, tmp_path: Path
) -> None:
    wheel = make_wheel(tmp_path, "demo", {"a.py": "1\n"})
    target = Target("edge", "3.14t", "musllinux_1_2_aarch64")
    image = assemble(target, [wheel], store, Options(bytecode=False), None)
    assert image.interpreter == ""
    assert "lib/python3.14t/site-packages/a.py" in paths(image)
    assert (image.manifest.python, image.manifest.abi) == ("3.14", "cp314t")
