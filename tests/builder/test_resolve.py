"""Requirements to locks through real pip and real uv, against a real index on loopback."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.listed import ChangedFileError
from builder.pipconfig import PipSettings
from builder.proof import ProofError
from builder.resolution import Question, ResolveError
from builder.resolve import choose_resolver, resolve_requirements, resolve_target
from builder.resolve_pip import _failure
from builder.resolve_uv import find_uv, platform_name
from builder.sources import AmbiguousError, Sources
from builder.spec import BuildSpec, IndexSpec, TargetSpec
from images.errors import UsageError, WainError
from tests.support.httpserver import Server, sha256, status
from tests.support.wheels import make_sdist, make_wheel
from wheelhouse.lock import Lock
from wheelhouse.target import Target

BOTH = pytest.mark.parametrize("resolver", ["pip", "uv"])
HERE = Target.running()
ARM = Target("arm", "3.12", "manylinux_2_28_aarch64")


@dataclass
class World:
    """An index of small wheels, and a project that asks it. ``wheel`` adds one."""

    server: Server
    folder: Path
    files: list[Path] = field(default_factory=list)
    times: dict[str, dict[str, object]] = field(default_factory=dict)

    def wheel(self, name: str, version: str, *requires: str, **more: object) -> Path:
        path = make_wheel(self.folder, name, version, requires=requires, **more)
        if "requires_python" in more:
            self.times[path.name] = {"requires-python": more["requires_python"]}
        self.files.append(path)
        return path

    def serve(self, as_json: bool = True) -> str:
        return self.server.index(*self.files, as_json=as_json, more=self.times)

    def spec(self, *requirements: str, **more: object) -> BuildSpec:
        project = self.folder / "project"
        project.mkdir(exist_ok=True)
        return BuildSpec(
            folder=str(project),
            file=str(project / "wain.toml"),
            name="project",
            targets=(TargetSpec("default"),),
            requirements=requirements,
            wheelhouse=str(project / ".wain/wheelhouse"),
            **more,  # type: ignore[arg-type]
        )


@pytest.fixture
def world(server: Server, tmp_path: Path, own_pip: pytest.MonkeyPatch) -> World:
    own_pip.setenv("PIP_INDEX_URL", server.url + "/simple/")
    return World(server, tmp_path)


def versions(lock: Lock) -> dict[str, str]:
    return {package.name: package.version for package in lock.packages}


@BOTH
def test_lock_of_wheels(world: World, resolver: str) -> None:
    demo = world.wheel("demo", "1.0", "needed>=2", requires_python=">=3.9")
    world.wheel("demo", "2.0", requires_python=">=3.99")
    world.wheel("needed", "2.1")
    world.wheel("needed", "1.9")
    world.serve()
    lock = resolve_target(world.spec("Demo", resolver=resolver), HERE)
    assert versions(lock) == {"demo": "1.0", "needed": "2.1"}
    package = lock.packages[0]
    assert (package.file.filename, package.file.sha256) == (demo.name, sha256(demo))
    assert package.file.size == demo.stat().st_size
    assert (package.direct, package.kind) == (True, "wheel")
    assert lock.packages[1].direct is False
    assert package.file.url == f"{world.server.url}/simple/files/{demo.name}"


@BOTH
@pytest.mark.parametrize("way", ["file-index", "find-links"])
def test_places_on_this_machine(
    world: World, own_pip: pytest.MonkeyPatch, resolver: str, way: str
) -> None:
    """pip's file: indexes and find-links, with missing ones beside them, work with both."""
    demo = world.wheel("demo", "1.0")
    own_pip.setenv("PIP_INDEX_URL", (world.folder / "missing").as_uri())
    if way == "file-index":
        page = world.folder / "index" / "demo"
        page.mkdir(parents=True)
        page.joinpath("index.html").write_text(f'<a href="../../{demo.name}">{demo.name}</a>')
        extra = f"{(world.folder / 'gone').as_uri()} {(world.folder / 'index').as_uri()}"
        own_pip.setenv("PIP_EXTRA_INDEX_URL", extra)
    else:
        own_pip.setenv("PIP_FIND_LINKS", str(world.folder))
    lock = resolve_target(world.spec("demo", resolver=resolver), HERE)
    # Neither place gives a hash: it is computed.
    assert lock.packages[0].file.sha256 == sha256(demo)
    assert lock.packages[0].file.size == demo.stat().st_size


def test_foreign_target_is_resolved_by_uv_with_its_own_markers(world: World) -> None:
    world.wheel(
        "demo",
        "1.0",
        'arm-only; platform_machine == "aarch64"',
        'intel-only; platform_machine == "x86_64"',
        'old; python_version < "3.12"',
    )
    world.wheel("arm_only", "1.0", tag="cp312-cp312-manylinux_2_17_aarch64", purelib=False)
    world.wheel("intel_only", "1.0")
    world.wheel("old", "1.0")
    world.serve()
    lock = resolve_target(world.spec("demo"), ARM)
    assert versions(lock) == {"demo": "1.0", "arm-only": "1.0"}


@BOTH
def test_floor_below_this_machine(world: World, resolver: str) -> None:
    """A wheel this machine could run but the target could not is not taken."""
    major = f"cp{HERE.version.replace('.', '')}"
    for version, floor in (("1.0", "2_17"), ("2.0", HERE.platform.split("_", 1)[1][:4])):
        world.wheel("demo", version, tag=f"{major}-{major}-manylinux_{floor}_{HERE.machine}",
                    purelib=False)  # fmt: skip
    world.serve()
    target = Target("old", HERE.python, f"manylinux_2_17_{HERE.machine}")
    assert versions(resolve_target(world.spec("demo", resolver=resolver), target)) == {
        "demo": "1.0"
    }


@BOTH
@pytest.mark.row("W13")
def test_no_file_for_the_target_names_both(world: World, resolver: str) -> None:
    world.wheel("demo", "1.0", tag="cp39-cp39-win_amd64", purelib=False)
    world.serve()
    with pytest.raises((ProofError, ResolveError)) as caught:
        resolve_target(world.spec("demo", resolver=resolver), HERE)
    assert "demo" in str(caught.value)
    assert "target default" in str(caught.value)
    assert "\n" not in str(caught.value)


@BOTH
@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        (("nosuchthing",), ["nosuchthing"]),
        (("demo==9",), ["demo==9"]),
        (("demo", "needed<2"), ["demo", "needed<2", "needed>=2"]),
    ],
)
def test_no_answer_is_one_readable_line(
    world: World, resolver: str, requirements: tuple[str, ...], words: list[str]
) -> None:
    world.wheel("demo", "1.0", "needed>=2")
    world.wheel("demo", "2.0", requires_python=">=3.99")
    world.wheel("needed", "2.0")
    world.wheel("needed", "1.0")
    world.serve()
    with pytest.raises(ResolveError) as caught:
        resolve_target(world.spec(*requirements, resolver=resolver), HERE)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "/tmp" not in str(caught.value)
    assert "Ignored the following" not in str(caught.value)


def test_place_of_a_requirement_is_the_users_own(world: World) -> None:
    world.wheel("demo", "1.0")
    world.serve()
    listed = world.folder / "project" / "requirements.txt"
    listed.parent.mkdir()
    listed.write_text("# head\ndemo\n\ndemo==1.0\ndemo<1\n")
    with pytest.raises(ResolveError, match=r"requirements\.txt:5|demo<1"):
        resolve_target(world.spec(str(listed)), HERE)


@BOTH
@pytest.mark.row("L1")
def test_login_is_in_no_message_and_no_argument(
    world: World, own_pip: pytest.MonkeyPatch, resolver: str
) -> None:
    """A wrong login: the index is named without it."""
    world.wheel("demo", "1.0")
    url = world.serve()
    world.server.login = ("me", "right")
    own_pip.setenv("PIP_INDEX_URL", url.replace("http://", "http://me:c4n4ry@"))
    with pytest.raises(WainError) as caught:
        resolve_target(world.spec("demo", resolver=resolver), HERE)
    assert "c4n4ry" not in repr(caught.value.args)
    world.server.login = ("me", "c4n4ry")
    lock = resolve_target(world.spec("demo", resolver=resolver), HERE)
    assert "c4n4ry" not in repr(lock)
    assert versions(lock) == {"demo": "1.0"}


@BOTH
@pytest.mark.row("L1")
def test_login_is_in_no_argument_of_any_process(
    world: World, own_pip: pytest.MonkeyPatch, resolver: str
) -> None:
    """Not of the resolver's, and not of what it starts to read an sdist's metadata."""
    code = _OWN.replace("NAME", "'lone'").encode()
    backend = _BACKEND.replace("[]", '["helper"]', 1).encode()
    files = {"PKG-INFO": _info("lone"), "pyproject.toml": backend, "own.py": code}
    world.files.append(make_sdist(world.folder, "lone", "1.0", files=files))
    world.wheel("helper", "1.0")
    url = world.serve()
    world.server.login = ("me", "c4n4ry")
    own_pip.setenv("PIP_INDEX_URL", url.replace("http://", "http://me:c4n4ry@"))
    seen: list[bytes] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.append(path.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        lock = resolve_target(world.spec("lone", resolver=resolver), HERE)
    finally:
        done.set()
        watcher.join()
    assert lock.packages[0].kind == "sdist"
    assert any(resolver.encode() in line for line in seen)
    assert not any(b"c4n4ry" in line for line in seen)


@BOTH
def test_from_source_takes_the_sdist(world: World, resolver: str) -> None:
    """Named in from-source; and what has no wheel at all."""
    backend = {"pyproject.toml": _BACKEND.encode(), "own.py": _OWN.encode()}
    for name in ("demo", "lone"):
        pkg = {**backend, "PKG-INFO": _info(name)}
        pkg["own.py"] = _OWN.replace("NAME", repr(name)).encode()
        world.files.append(make_sdist(world.folder, name, "1.0", files=pkg))
    world.wheel("demo", "1.0")
    world.wheel("other", "1.0")
    world.serve()
    spec = world.spec("demo", "lone", "other", resolver=resolver, from_source=("demo",))
    lock = resolve_target(spec, HERE)
    assert {p.name: p.kind for p in lock.packages} == {
        "demo": "sdist",
        "lone": "sdist",
        "other": "wheel",
    }
    if resolver == "uv":
        # A target this machine cannot build for takes the wheel, and it is said.
        said: list[str] = []
        spec = world.spec("demo", from_source=("demo",))
        lock = resolve_target(spec, ARM, say=said.append)
        assert lock.packages[0].kind == "wheel"
        assert "demo" in said[0]


_BACKEND = '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n'
_OWN = """\
import os
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = f"{NAME}-1.0.dist-info"
    os.mkdir(os.path.join(folder, info))
    with open(os.path.join(folder, info, "METADATA"), "w") as file:
        file.write(f"Metadata-Version: 2.1\\nName: {NAME}\\nVersion: 1.0\\n")
    return info
def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise SystemExit("nothing is built to lock")
"""


def _info(name: str) -> bytes:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()


# --- the previous lock ---------------------------------------------------------------------


@pytest.fixture
def grown(world: World) -> tuple[World, Lock]:
    """A lock of old versions, and an index that has newer ones of everything by now."""
    world.wheel("app", "1.0", "lib>=1", "tool")
    world.wheel("lib", "1.0")
    world.wheel("tool", "1.0")
    world.wheel("side", "1.0", "tool")
    world.serve()
    lock = resolve_target(world.spec("app", "side", resolver="uv"), HERE)
    assert set(versions(lock).values()) == {"1.0"}
    world.wheel("app", "2.0", "lib>=2", "tool", "fresh")
    world.wheel("lib", "2.0")
    world.wheel("tool", "2.0")
    world.wheel("side", "2.0", "tool")
    world.wheel("fresh", "1.0")
    world.serve()
    return world, lock


@BOTH
def test_locked_versions_stay(grown: tuple[World, Lock], resolver: str) -> None:
    world, lock = grown
    spec = world.spec("app", "side", resolver=resolver)
    assert versions(resolve_target(spec, HERE, lock)) == versions(lock)
    assert set(versions(resolve_target(spec, HERE, lock, newest=True)).values()) == {"1.0", "2.0"}


def test_nothing_is_resolved_for_a_lock_that_holds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same question again: the index is only asked whether the files are still there."""
    demo = world.wheel("demo", "1.0")
    world.serve()
    spec = world.spec("demo")
    lock = resolve_target(spec, HERE)
    world.server.requests.clear()
    assert resolve_target(spec, HERE, lock) == lock
    assert [path for _, path, _ in world.server.requests] == ["/simple/demo/"]
    # Gone from the index: pip says that there is none.
    world.files = [make_wheel(world.folder, "demo", "0.5")]
    world.server.files.clear()
    world.serve()
    assert demo.exists()
    assert versions(resolve_target(spec, HERE, lock)) == {"demo": "0.5"}


@BOTH
@pytest.mark.parametrize("upgrade", [{"app": ""}, {"app": "2.0"}])
def test_upgrade_moves_one_and_what_it_forces(
    grown: tuple[World, Lock], resolver: str, upgrade: dict[str, str]
) -> None:
    world, lock = grown
    spec = world.spec("app", "side", resolver=resolver)
    moved = resolve_target(spec, HERE, lock, upgrade)
    assert versions(moved) == {
        "app": "2.0", "lib": "2.0", "fresh": "1.0", "side": "1.0", "tool": "1.0",
    }  # fmt: skip


@BOTH
def test_changed_requirement_moves_only_what_it_must(
    grown: tuple[World, Lock], resolver: str
) -> None:
    world, lock = grown
    spec = world.spec("app", "side==2.0", "fresh", resolver=resolver)
    assert versions(resolve_target(spec, HERE, lock)) == {
        "app": "1.0", "lib": "1.0", "fresh": "1.0", "side": "2.0", "tool": "1.0",
    }  # fmt: skip


@BOTH
@pytest.mark.row("I4")
def test_file_changed_under_the_same_version(world: World, resolver: str) -> None:
    old = world.wheel("demo", "1.0")
    world.serve()
    spec = world.spec("demo", resolver=resolver)
    lock = resolve_target(spec, HERE)
    before = sha256(old)
    world.files = [make_wheel(world.folder, "demo", "1.0", files={"demo.py": b"evil = 1\n"})]
    world.serve()
    with pytest.raises(ChangedFileError) as caught:
        resolve_target(spec, HERE, lock)
    assert before in str(caught.value)
    assert sha256(world.files[0]) in str(caught.value)


# --- the project's own indexes -------------------------------------------------------------


@BOTH
@pytest.mark.row("I3")
def test_pinned_name_comes_from_its_index_alone(
    world: World, other_server: Server, resolver: str
) -> None:
    """The public index has a higher version of the internal name: it is not even asked."""
    inner = make_wheel(world.folder, "shop-core", "1.0", requires=["six"])
    internal = other_server.index(inner)
    world.wheel("shop-core", "9.9")
    world.wheel("six", "1.0")
    world.serve()
    indexes = (IndexSpec("internal", internal, ("shop-*",)),)
    lock = resolve_target(world.spec("shop-core", resolver=resolver, indexes=indexes), HERE)
    assert versions(lock) == {"shop-core": "1.0", "six": "1.0"}
    assert lock.package("shop-core").file.sha256 == sha256(inner)  # type: ignore[union-attr]
    assert lock.package("shop-core").file.url.startswith(internal)  # type: ignore[union-attr]
    assert world.server.asked("/simple/shop-core/") == []


@BOTH
@pytest.mark.row("I3")
def test_name_on_an_index_it_is_not_pinned_to(
    world: World, other_server: Server, resolver: str
) -> None:
    """An internal package nobody thought to pin: an error and no choice."""
    internal = other_server.index(make_wheel(world.folder, "forgotten", "1.0"))
    world.wheel("forgotten", "9.9")
    world.serve()
    indexes = (IndexSpec("internal", internal, ("shop-*",)),)
    with pytest.raises(AmbiguousError, match=r"index 'internal'.*projects.*pip's indexes"):
        resolve_target(world.spec("forgotten", resolver=resolver, indexes=indexes), HERE)


@BOTH
@pytest.mark.row("I3")
def test_name_on_two_indexes(world: World, other_server: Server, resolver: str) -> None:
    world.wheel("demo", "1.0")
    indexes = (
        IndexSpec("one", world.serve()),
        IndexSpec("two", other_server.index(make_wheel(world.folder, "demo", "2.0"))),
    )
    with pytest.raises(AmbiguousError, match="index 'one' and on index 'two'"):
        resolve_target(world.spec("demo", resolver=resolver, indexes=indexes), HERE)


@BOTH
@pytest.mark.row("I3", "I1")
def test_pinned_index_that_fails_is_an_error(
    world: World, other_server: Server, resolver: str
) -> None:
    """An internal index that is down does not hand its names to the public one."""
    world.wheel("shop-core", "9.9")
    world.serve()
    other_server.behave["/simple/shop-core/"] = status(500)
    indexes = (IndexSpec("internal", other_server.url + "/simple/", ("shop-*",)),)
    with pytest.raises(WainError, match=r"answered 500") as caught:
        resolve_target(world.spec("shop-core", resolver=resolver, indexes=indexes), HERE)
    assert other_server.url in str(caught.value)


@BOTH
@pytest.mark.row("L1")
def test_index_with_a_login(world: World, other_server: Server, resolver: str) -> None:
    internal = other_server.index(make_wheel(world.folder, "shop-core", "1.0"))
    other_server.login = ("me", "c4n4ry")
    url = internal.replace("http://", "http://me:c4n4ry@")
    indexes = (IndexSpec("internal", url, ("shop-*",)),)
    lock = resolve_target(world.spec("shop-core", resolver=resolver, indexes=indexes), HERE)
    assert lock.packages[0].file.url.startswith(internal)  # type: ignore[union-attr]


# --- the cut-off ---------------------------------------------------------------------------


CUT = datetime(2025, 6, 1, tzinfo=UTC)


@BOTH
def test_exclude_newer_by_upload_time(world: World, resolver: str) -> None:
    old, new = world.wheel("demo", "1.0"), world.wheel("demo", "2.0")
    world.times = {
        old.name: {"upload-time": "2025-01-01T00:00:00.000000Z"},
        new.name: {"upload-time": "2025-06-01T00:00:00.000000Z"},
    }
    world.serve()
    lock = resolve_target(world.spec("demo", resolver=resolver, exclude_newer=CUT), HERE)
    assert versions(lock) == {"demo": "1.0"}
    assert lock.packages[0].file.upload_time == datetime(2025, 1, 1, tzinfo=UTC)


@BOTH
def test_exclude_newer_where_the_index_gives_no_times(world: World, resolver: str) -> None:
    """The server's Last-Modified decides; a file without any time is left out, and both said."""
    old, new, none = (world.wheel("demo", version) for version in ("1.0", "2.0", "3.0"))
    del none
    world.serve(as_json=False)
    day = 86400.0
    world.server.times[f"/simple/files/{old.name}"] = CUT.timestamp() - day
    world.server.times[f"/simple/files/{new.name}"] = CUT.timestamp() + day
    said: list[str] = []
    spec = world.spec("demo", resolver=resolver, exclude_newer=CUT)
    lock = resolve_target(spec, HERE, say=said.append)
    assert versions(lock) == {"demo": "1.0"}
    assert any("gives no upload times" in text for text in said)
    assert any("1 files without any time" in text for text in said)


# --- what a build needs, and who resolves --------------------------------------------------


def test_build_requirements_are_wheels_only(world: World) -> None:
    world.wheel("backend", "1.0", "helper")
    world.wheel("helper", "1.0")
    world.files.append(make_sdist(world.folder, "helper", "2.0"))
    world.serve()
    lock = resolve_requirements(["backend>=1"], HERE, world.spec("unused"))
    assert versions(lock) == {"backend": "1.0", "helper": "1.0"}
    assert {package.kind for package in lock.packages} == {"wheel"}


def test_without_uv_a_foreign_target_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_resolver("pip", HERE).name == "pip"
    assert choose_resolver("pip", ARM).name == "uv"
    assert choose_resolver("uv", HERE).name == "uv"
    monkeypatch.setattr("builder.resolve_uv.find_uv", lambda: None)
    with pytest.raises(UsageError, match=r"pip install 'wainwright\[uv\]'"):
        choose_resolver("pip", ARM)


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ("manylinux_2_28_x86_64", "x86_64-manylinux_2_28"),
        ("manylinux_2_30_aarch64", "aarch64-manylinux_2_28"),
        ("manylinux_2_44_x86_64", "x86_64-manylinux_2_40"),
        ("musllinux_1_2_x86_64", "x86_64-unknown-linux-musl"),
        ("macosx_14_0_arm64", "aarch64-apple-darwin"),
        ("win_amd64", "x86_64-pc-windows-msvc"),
    ],
)
def test_uv_knows_the_platform(platform: str, name: str) -> None:
    assert platform_name(Target("t", "3.12", platform)) == name


def test_platform_uv_does_not_know() -> None:
    with pytest.raises(UsageError, match="s390x"):
        platform_name(Target("t", "3.12", "manylinux_2_28_s390x"))
    assert find_uv() is not None


def test_a_traceback_of_pip_is_its_last_line() -> None:
    question = Question(Target.running(), (), Sources(PipSettings()))
    said = "ERROR: Exception:\nTraceback (most recent call):\n  File 'x'\nValueError: no port\n"
    assert _failure(question, "", said).reason == "ValueError: no port"
