"""A project into its image: its own package, names and tags, and the image's own lock."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.image import Built, build_image, check_image
from builder.image_lock import ImageDiffersError, LockedImage, differences, parse
from builder.source_tree import SourceError, copy_project, project_files
from builder.spec import BuildSpec, TargetSpec, load_spec
from builder.tracked import tracked_files
from builder.wheels import MissingWheelError
from images.catalog import Catalog
from images.errors import WainError
from images.home import default_store
from images.store import Store
from tests.support.projects import lock_wheels, make_project
from wain.cli import main
from wheelhouse.index import Wheelhouse
from wheelhouse.target import Target


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "shop")


def build(folder: Path, **options: object) -> Built:
    spec = load_spec(folder)
    catalog = Catalog(Store(default_store()), str(folder))
    return build_image(spec, spec.targets[0], catalog, **options)  # type: ignore[arg-type]


def names(built: Built) -> set[str]:
    return {entry.path.rpartition("/site-packages/")[2] for entry in built.image.manifest.entries}


def test_the_project_is_in_its_image(project: Path) -> None:
    (project / "shop" / "notes.py").write_text("secret = 1\n")
    built = build(project)
    assert {"shop/__init__.py", "dep.py", "bin/shop"} <= names(built)
    assert "shop/notes.py" not in names(built), "git does not track it"
    assert {one.name for one in built.document.packages} == {"dep", "shop"}
    assert "shop-1.0.dist-info/REQUESTED" in names(built)
    assert "shop-1.0.dist-info/direct_url.json" not in names(built)
    # Nothing changed: nothing is built, unpacked or compiled.
    again = build(project)
    assert again.image.id == built.image.id
    assert (again.image.unpacked, again.image.compiled) == (0, 0)
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    assert "shop/notes.py" in names(build(project))


def test_a_clone_gives_the_same_image(project: Path, tmp_path: Path) -> None:
    first = build(project)
    shutil.copytree(project, tmp_path / "another place" / "copy", symlinks=True)
    assert build(tmp_path / "another place" / "copy").image.id == first.image.id
    # Edited but not staged counts, and so do lines of the image's own lock not.
    assert (project / "locks" / "image.prod.txt").is_file()
    (project / "shop" / "__init__.py").write_text("main = print\n")
    assert build(project).image.id != first.image.id


def test_tracked_files(project: Path, tmp_path: Path) -> None:
    found = {path.relative_to(project).as_posix() for path in tracked_files(project) or []}
    assert "shop/__init__.py" in found
    assert not any(name.startswith(".wain") for name in found)
    used = {path.relative_to(project).as_posix() for path in project_files(project)}
    assert not any(name.startswith("locks/") for name in used)
    (project / "backend.py").unlink()
    assert project / "backend.py" not in (tracked_files(project) or [])
    # A folder that an outer repository ignores or does not know is no tracked project.
    inner = make_project(project / ".wain" / "inner", git=False)
    assert tracked_files(inner) is None
    assert inner / "shop" / "__init__.py" in project_files(inner)
    assert tracked_files(tmp_path) is None
    shutil.rmtree(project / ".git" / "objects")
    (project / ".git" / "HEAD").write_text("nonsense")
    with pytest.raises(WainError, match="git cannot list"):
        tracked_files(project)


def test_documents_and_tags(project: Path) -> None:
    built = build(project, tags=("latest", "v1"))
    catalog = Catalog(Store(default_store()), str(project))
    assert catalog.resolve("shop") == catalog.resolve("shop:v1") == built.image.id
    document = catalog.document(built.image.id)
    assert document == built.document
    assert document.aliases == ()
    assert document.interpreter
    assert document.target.name == "prod"


def test_two_projects_with_the_same_files(tmp_path: Path) -> None:
    """One image id, two names: each project still finds its own."""
    ids, catalogs = set(), {}
    for name in ("one", "two"):
        folder = make_project(tmp_path / name, git=False)
        text = (folder / "wain.toml").read_text().replace('project = "."', 'requirements = ["dep"]')
        (folder / "wain.toml").write_text(text.replace('"shop"', f'"{name}"'))
        ids.add(build(folder).image.id)
        catalogs[name] = Catalog(Store(default_store()), str(folder))
    assert len(ids) == 1
    for name, catalog in catalogs.items():
        assert catalog.resolve(name) in ids
        with pytest.raises(WainError):
            catalog.resolve("three")


def test_the_image_lock(project: Path) -> None:
    first = build(project)
    path = project / "locks" / "image.prod.txt"
    text = path.read_text()
    assert first.changed
    assert f"image {first.image.id}\n" in text
    assert not build(project).changed
    assert build(project, locked=True).image.id == first.image.id
    catalog = Catalog(Store(default_store()), str(project))
    house = Wheelhouse(project / ".wain" / "wheelhouse")
    other = Target.running("prod")
    for wheel in house.folder.glob("dep-*.whl"):
        wheel.unlink()
    lock_wheels(project, other, house, {"dep": {"dep.py": "value = 2\n"}})
    with pytest.raises(ImageDiffersError) as caught:
        build(project, locked=True)
    assert caught.value.lines == ["dep: same version, another wheel"]
    assert caught.value.exit_code == 3
    assert path.read_text() == text
    assert catalog.resolve("shop") == first.image.id, "not tagged"
    assert build(project).changed
    assert path.read_text() != text


def test_without_an_image_lock_locked_fails(project: Path) -> None:
    with pytest.raises(WainError, match="no such file"):
        build(project, locked=True)


def test_what_the_image_lock_may_say() -> None:
    image = LockedImage("a" * 64, "3.11 cp311 linux", "virtualenv-1", "3.11.7", {})
    a, b = ("1.0", "1" * 64, "2" * 64), ("1.0", "1" * 64, "3" * 64)
    old = LockedImage(image.image, image.target, image.skeleton, "3.11.7", {"a": a, "b": a, "c": a})
    new = LockedImage("b" * 64, image.target, image.skeleton, "3.11.9", {"a": b, "b": a, "d": a})
    assert parse(old.to_text(), "x") == old
    assert differences(old, old) == []
    assert differences(old, new) == [
        "bytecode: 3.11.7 -> 3.11.9", "a: same wheel, other files", "c: removed", "d: added",
    ]  # fmt: skip
    for bad in ("", "image x\n", old.to_text() + "nonsense\n", old.to_text() + f"a 1 {'1' * 64}\n"):
        with pytest.raises(WainError):
            parse(bad, "image.prod.txt")


def test_check_builds_again_and_compares(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec(project)
    built = build(project)
    check_image(spec, spec.targets[0], built.image)
    from builder import layout

    monkeypatch.setattr(layout, "_INSTALLER", b"other\n")
    with pytest.raises(ImageDiffersError, match="dep: same wheel, other files"):
        check_image(spec, spec.targets[0], built.image)


def test_what_is_missing_is_fetched_first(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = project / ".wain" / "wheelhouse"
    (wheel,) = house.glob("dep-*.whl")
    data = wheel.read_bytes()
    wheel.unlink()
    asked = []

    def fill(spec: BuildSpec, targets: list[TargetSpec], **_: object) -> None:
        asked.append([target.name for target in targets])

    monkeypatch.setattr("builder.fill.fill", fill)
    with pytest.raises(MissingWheelError, match=r"dep-1\.0-py3-none-any\.whl.*wain build"):
        build(project)
    monkeypatch.setattr("builder.fill.fill", lambda *_, **__: wheel.write_bytes(data))
    build(project)
    assert asked == [["prod"]]
    (project / "locks" / "pylock.prod.toml").unlink()
    with pytest.raises(WainError, match=r"locks/pylock\.prod\.toml: there is no lock"):
        build(project)


def test_a_lock_of_another_target_is_refused(project: Path) -> None:
    text = (project / "wain.toml").read_text()
    platform = Target.running().platform
    (project / "wain.toml").write_text(text.replace(platform, "manylinux_2_17_aarch64"))
    with pytest.raises(WainError, match="manylinux_2_17_aarch64"):
        build(project)


def test_the_command(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-C", str(project), "image", "build"]
    assert main([*words, "--json", "--check", "--tag", "v1"]) == 0
    document = json.loads(capsys.readouterr().out)
    image = document["images"]["prod"]
    assert {"id", "name", "files", "bytes", "packages", "seconds"} <= set(image)
    assert [one["name"] for one in image["packages"]] == ["dep", "shop"]
    assert main([*words, "--locked"]) == 0
    (project / "shop" / "__init__.py").write_text("main = len\n")
    assert main([*words, "--locked"]) == 3
    assert "shop: same version, another wheel" in capsys.readouterr().err
    assert main([*words, "--target", "prd"]) == 2
    assert main([*words, "--tag", "../x"]) == 2
    assert main([*words, "--jobs", "-1"]) == 2


@pytest.mark.row("W11", "L2")
def test_a_link_to_a_file_outside_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary")
    project = tmp_path / "project"
    (project / "demo").mkdir(parents=True)
    (project / "demo" / "inner.py").write_text("")
    (project / "demo" / "twin.py").symlink_to("inner.py")
    assert len(project_files(project)) == 2
    (project / "demo" / "data.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="link to a file outside the project"):
        copy_project(project, tmp_path / "copy", False)
    assert not list((tmp_path / "copy").rglob("data.txt"))
