"""What one `wain lock` writes for several targets, and that it is all or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.locking import Locking, leading, parse_upgrades, without_secrets
from builder.proof import ProofError
from builder.spec import BuildSpec, load_spec
from images.errors import UsageError
from tests.support.httpserver import Server
from tests.support.sdists import backend, make_sdist
from tests.support.wheels import make_wheel
from wheelhouse.lock import Lock, LockedFile, LockedPackage, read_lock
from wheelhouse.target import Target

HERE = Target.running()


def project(folder: Path, *targets: tuple[str, str], requirements: str = "demo\n") -> BuildSpec:
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text(requirements)
    lines = ['requirements = ["requirements.txt"]']
    for name, platform in targets:
        lines += [f"[targets.{name}]", f'python = "{HERE.python}"', f'platform = "{platform}"']
    (folder / "wain.toml").write_text("\n".join(lines) + "\n")
    return load_spec(folder)


def lock(spec: BuildSpec) -> dict[str, Lock]:
    locking = Locking(spec, spec.targets, {})
    return {name: one.lock for name, one in locking.write(locking.resolve()).items()}


@pytest.fixture
def index(server: Server, own_pip: pytest.MonkeyPatch) -> Server:
    own_pip.setenv("PIP_INDEX_URL", server.url + "/simple/")
    return server


def test_a_new_target_takes_the_releases_of_the_others(index: Server, tmp_path: Path) -> None:
    old = make_wheel(tmp_path, "demo", "1.0")
    index.index(old)
    spec = project(tmp_path / "p", ("here", HERE.platform))
    assert lock(spec)["here"].packages[0].version == "1.0"
    index.index(old, make_wheel(tmp_path, "demo", "2.0"))
    spec = project(tmp_path / "p", ("arm", "manylinux_2_28_aarch64"), ("here", HERE.platform))
    assert {name: one.packages[0].version for name, one in lock(spec).items()} == {
        "arm": "1.0",
        "here": "1.0",
    }


def test_who_leads() -> None:
    arm = Target("arm", HERE.python, "manylinux_2_28_aarch64")
    other = Target("other", "3.99", "manylinux_2_28_aarch64")
    assert leading({"arm": arm, "here": HERE, "other": other}) == ["here", "other"]
    assert leading({"arm": arm, "win": Target("win", HERE.python, "win_amd64")}) == ["arm"]


def test_pure_sdist_is_proved_for_a_foreign_target_by_building_it(
    index: Server, tmp_path: Path
) -> None:
    """What compiles is refused at once, naming target and package; pure Python is locked."""
    index.index(make_sdist(tmp_path, backend("demo"), name="demo"))
    spec = project(tmp_path / "p", ("arm", "manylinux_2_28_aarch64"))
    assert lock(spec)["arm"].packages[0].kind == "sdist"
    tag = f"cp{HERE.version.replace('.', '')}"
    compiled = "def extra(found):\n    found['demo_c.so'] = open('/proc/self/exe', 'rb').read()\n"
    code = backend("demo", tag=f"{tag}-{tag}-linux_x86_64", extra=compiled)
    index.index(make_sdist(tmp_path, code, name="demo"))
    spec = project(tmp_path / "q", ("arm", "manylinux_2_28_aarch64"))
    with pytest.raises(ProofError, match=r"target arm .*demo 1\.0: there is only the sdist"):
        lock(spec)
    assert not (tmp_path / "q" / "locks").exists()


def test_every_target_has_its_own_build_lock(index: Server, tmp_path: Path) -> None:
    index.index(make_sdist(tmp_path, backend("demo"), name="demo"))
    floor = f"manylinux_2_17_{HERE.machine}"
    spec = project(tmp_path / "p", ("here", HERE.platform), ("old", floor))
    lock(spec)
    names = sorted(path.name for path in Path(spec.locks).iterdir())
    assert names == [
        "pylock.build-demo--here.toml",
        "pylock.build-demo--old.toml",
        "pylock.here.toml",
        "pylock.old.toml",
    ]
    before = Path(spec.build_lock_path("demo--here")).stat().st_mtime_ns
    lock(spec)
    assert Path(spec.build_lock_path("demo--here")).stat().st_mtime_ns == before
    assert read_lock(Path(spec.build_lock_path("demo--old"))).packages == ()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["Py_YAML"], {"py-yaml": ""}),
        (["a==1.0.0", "b"], {"a": "1.0.0", "b": ""}),
        (["a==x y"], None),
        (["a>=1"], None),
        (["a[b]"], None),
        ([""], None),
    ],
)
def test_upgrade_words(words: list[str], found: dict[str, str] | None) -> None:
    if found is None:
        with pytest.raises(UsageError, match="neither PKG nor PKG==VERSION"):
            parse_upgrades(words)
    else:
        assert parse_upgrades(words) == found


@pytest.mark.row("L1")
def test_an_address_that_is_a_secret_is_not_written() -> None:
    plain, signed = "https://x.example/a.whl", "https://x.example/a.whl?X-Signature=c4n4ry"
    lock = Lock(
        Target.running(),
        tuple(
            LockedPackage(
                name, "1.0", LockedFile(f"{name}-1.0-py3-none-any.whl", "0" * 64, url=url)
            )
            for name, url in (("a", plain), ("b", signed))
        ),
    )
    assert [package.file.url for package in without_secrets(lock).packages] == [plain, None]
