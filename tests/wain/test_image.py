"""`wain image …` and `wain store verify`, as a user and a program see them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from images.catalog import Catalog
from images.home import default_store
from images.manifest import Manifest
from images.store import Store
from tests.support.made_images import (
    SITE,
    Made,
    keep,
    make_document,
    make_image,
    module,
    namespaced,
    regular,
)
from wain.cli import main

V1 = [regular("alpha", "1.0"), module("beta", "1.0"), namespaced("gamma", "one", "1.0")]
V2 = [regular("alpha", "1.1", 4), module("beta", "1.0")]
Run = Callable[..., tuple[int, dict[str, object]]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    return folder


@pytest.fixture
def catalog(project: Path) -> Catalog:
    return Catalog(Store(default_store()), str(project))


@pytest.fixture
def images(catalog: Catalog) -> tuple[Manifest, Manifest]:
    return keep(catalog, V1, "v1"), keep(catalog, V2)


@pytest.fixture
def wain(project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, dict[str, object]]:
        capsys.readouterr()
        code = main(["-C", str(project), "--json", *words])
        text = capsys.readouterr().out
        return code, json.loads(text) if text else {}

    return run


@pytest.fixture
def text(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: str) -> str:
        capsys.readouterr()
        assert main(["-C", str(project), *words]) == 0
        return capsys.readouterr().out

    return run


def test_list_and_show(
    images: tuple[Manifest, Manifest], wain: Run, text: Callable[..., str]
) -> None:
    code, document = wain("image", "list")
    assert code == 0
    listed = {tuple(one["tags"]): one for one in document["images"]}  # type: ignore[attr-defined]
    assert set(listed) == {("v1",), ("latest",)}
    one = listed[("v1",)]
    assert one["id"] == images[0].image_id
    assert (one["name"], one["packages"], one["files"]) == ("shop", 3, len(images[0].entries))
    code, shown = wain("image", "show", "shop:v1")
    assert (shown["id"], shown["files"]) == (one["id"], one["files"])
    assert [package["name"] for package in shown["packages"]] == ["alpha", "beta", "gamma-one"]  # type: ignore[attr-defined]
    assert text("image", "show", "shop:v1", "--manifest") == images[0].to_bytes().decode()
    assert "gamma-one" in text("image", "show", images[0].image_id[:8])


def test_tag_untag_gc(images: tuple[Manifest, Manifest], wain: Run) -> None:
    assert wain("image", "tag", "shop:v1", "stable")[0] == 0
    assert wain("image", "untag", "shop:v1")[1]["removed"] == [images[0].image_id]
    assert wain("image", "gc")[1]["images"] == 0
    assert wain("image", "untag", "stable")[0] == 0
    code, dry = wain("image", "gc", "--dry-run")
    assert (code, dry["images"]) == (0, 1)
    code, freed = wain("image", "gc")
    assert (freed["images"], freed["objects"], freed["bytes"]) == (1, dry["objects"], dry["bytes"])
    assert list(freed["kept"]) == [images[1].image_id]  # type: ignore[call-overload]
    assert wain("image", "show", "shop:v1")[0] == 1


def test_gc_while_somebody_writes_says_who(
    images: tuple[Manifest, Manifest], catalog: Catalog, wain: Run
) -> None:
    with catalog.store.writing():
        assert wain("image", "gc")[0] == 6


def test_diff_by_package_then_file(
    images: tuple[Manifest, Manifest], wain: Run, text: Callable[..., str]
) -> None:
    code, document = wain("image", "diff", "shop:v1", "shop", "--text")
    assert code == 0
    packages = document["packages"]
    assert packages == {
        "added": [],
        "changed": [{"name": "alpha", "from": "1.0", "to": "1.1", "files": 19}],
        "removed": [{"name": "gamma-one", "version": "1.0", "files": 6}],
    }
    files = document["files"]
    changed = {item["path"]: item for item in files["changed"]}  # type: ignore[call-overload,index]
    assert "+VERSION = '1.1'" in changed[f"{SITE}/alpha/__init__.py"]["text"]
    assert document["bytes"] == sum(
        size for key, size in images[1].objects().items() if key not in images[0].objects()
    )
    by_package = text("image", "diff", "shop:v1", "shop")
    assert "alpha" in by_package
    assert "__init__" not in by_package
    by_file = text("image", "diff", "shop:v1", "shop", "--files")
    assert f"{SITE}/alpha/m3.py" in by_file
    assert ".pyc" not in by_file
    assert "bytecode" in by_file
    assert "same image" in text("image", "diff", "shop", "shop")


def test_verify_names_file_and_package(
    images: tuple[Manifest, Manifest], catalog: Catalog, wain: Run
) -> None:
    """Rows S1 and S2: bytes, size, mode and time, each by its file and package."""
    assert wain("image", "verify", "shop:v1") == (0, {"ok": True, "bad": []})
    damage: dict[str, Callable[[str], object]] = {
        f"{SITE}/alpha/m0.py": lambda path: Path(path).write_bytes(b"N = 9\nV = '1.0'\n"),
        f"{SITE}/beta.py": lambda path: Path(path).write_bytes(b""),
        f"{SITE}/gamma/one/__init__.py": os.unlink,
        "bin/alpha-say": lambda path: os.chmod(path, 0o600),
    }
    entries = {entry.path: entry for entry in images[0].entries}
    for name, break_it in damage.items():
        path = catalog.store.object_path(*entries[name].key)
        os.chmod(path, 0o644)
        break_it(path)
    code, document = wain("image", "verify", "shop:v1")
    assert code == 3
    bad = {(one["path"], one["package"]) for one in document["bad"]}  # type: ignore[attr-defined]
    assert bad >= {
        (f"{SITE}/alpha/m0.py", "alpha"),
        (f"{SITE}/beta.py", "beta"),
        (f"{SITE}/gamma/one/__init__.py", "gamma-one"),
        ("bin/alpha-say", "alpha"),
    }
    code, document = wain("store", "verify")
    assert code == 3
    assert {one["object"] for one in document["bad"]} == {  # type: ignore[attr-defined]
        entries[name].sha256 for name in damage
    }
    # No wheel is at hand: what needs none (the mode) is repaired, the rest stays bad.
    code, document = wain("image", "verify", "shop:v1", "--repair")
    assert code == 3
    repaired = {one["path"] for one in document["bad"] if one["repaired"]}  # type: ignore[attr-defined]
    assert repaired == {"bin/alpha-say"}


def test_export_import(images: tuple[Manifest, Manifest], wain: Run, tmp_path: Path,
                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    code, done = wain("image", "export", "shop:v1", "v1.wain")
    assert (code, done["image"], done["since"]) == (0, images[0].image_id, None)
    assert wain("image", "export", "shop", "next.wain", "--since", "shop:v1")[0] == 0
    monkeypatch.setenv("WAIN_STORE", str(tmp_path / "far"))
    assert wain("image", "import", "next.wain")[0] == 1
    code, done = wain("image", "import", "v1.wain", "--tag", "arrived")
    assert (code, done["tag"], done["image"]) == (0, "arrived", images[0].image_id)
    assert wain("image", "import", "next.wain")[0] == 0


def test_sbom(catalog: Catalog, wain: Run, text: Callable[..., str], project: Path) -> None:
    carried = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "components": [
            {"type": "library", "name": "zlib", "version": "1.3", "bom-ref": "z",
             "purl": "pkg:generic/zlib@1.3"},
        ],
    }  # fmt: skip
    files = dict(V1[0].files) | {
        "alpha-1.0.dist-info/sboms/auditwheel.cdx.json": json.dumps(carried).encode(),
        "alpha-1.0.dist-info/sboms/other.spdx.json": b'{"spdxVersion": "SPDX-2.3"}',
        "alpha-1.0.dist-info/sboms/broken.cdx.json": b"{",
    }
    packages = [Made("alpha", "1.0", files), module("beta", "1.0")]
    image = keep(catalog, packages)
    code, document = wain("image", "sbom", "shop")
    assert (code, document["bomFormat"], document["specVersion"]) == (0, "CycloneDX", "1.6")
    components = {one["name"]: one for one in document["components"]}  # type: ignore[attr-defined]
    assert set(components) == {"alpha", "beta"}
    assert components["alpha"]["purl"] == "pkg:pypi/alpha@1.0"
    assert [one["name"] for one in components["alpha"]["components"]] == ["zlib"]
    assert [one["type"] for one in components["alpha"]["externalReferences"]] == ["bom"] * 3
    metadata = document["metadata"]
    assert metadata["component"]["bom-ref"] == f"image:{image.image_id}"  # type: ignore[index,call-overload]
    assert "timestamp" not in metadata  # type: ignore[operator]
    first = text("image", "sbom", "shop")
    time.sleep(1.1)
    assert text("image", "sbom", "shop") == first
    text("image", "sbom", "shop", "-o", "sbom.json")
    assert (project / "sbom.json").read_text() == first


def test_sbom_is_valid_against_the_schema(catalog: Catalog, text: Callable[..., str]) -> None:
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    keep(catalog, V1)
    try:
        error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text("image", "sbom", "shop"))
    except MissingOptionalDependencyException:
        pytest.skip("the schema validator is not installed")
    assert error is None


@pytest.fixture
def keys(project: Path) -> list[str]:
    for name in ("ann", "bob", "eve"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(project / name)]
        subprocess.run(command, check=True)
    return [str(project / name) for name in ("ann", "bob", "eve")]


@pytest.mark.row("G6")
def test_sign_and_trust(images: tuple[Manifest, Manifest], wain: Run, keys: list[str]) -> None:
    ann, bob, eve = keys
    code, document = wain(
        "image", "trust", "--init", "web", "--name", "shop", "--threshold", "2",
        "--add", f"ann={ann}.pub", "--add", f"bob={bob}.pub",
    )  # fmt: skip
    assert (code, document["valid"]) == (0, False)
    assert wain("image", "trust", "--sign", ann)[1]["valid"] is False
    assert wain("image", "trust", "--sign", bob)[1]["valid"] is True
    code, document = wain("image", "sign", "shop", "--key", ann)
    assert (document["fleet"], document["counter"], document["signatures"]) == ("web", 1, 1)
    assert wain("image", "sign", "shop", "--key", bob)[1]["signatures"] == 2
    assert wain("image", "sign", "shop:v1", "--key", ann)[1]["counter"] == 2
    assert wain("image", "sign", "shop", "--key", eve)[0] == 2
    # Bob's key is replaced: a new version, signed by the old signers and the new.
    code, document = wain("image", "trust", "--remove", "bob", "--add", f"eve={eve}.pub")
    assert (code, document["version"], document["valid"]) == (0, 2, False)
    for key, valid in ((ann, False), (eve, False), (bob, True)):
        assert wain("image", "trust", "--sign", key)[1]["valid"] is valid
    assert wain("image", "trust", "--init", "web")[0] == 2
    assert wain("image", "trust", "--remove", "nobody")[0] == 2


def test_many_files_are_compared_in_half_a_second(catalog: Catalog, wain: Run) -> None:
    """The figure of the issue, with room for a busy machine."""
    before = [regular(f"p{n}", "1.0", 600) for n in range(10)]
    after = [regular("p0", "2.0", 600), *before[1:]]
    first, second = make_image(catalog.store, before), make_image(catalog.store, after)
    assert len(first.entries) > 12_000
    for manifest, packages, tag in ((first, before, "a"), (second, after, "b")):
        catalog.put_document(make_document(manifest, packages))
        catalog.tag(tag, manifest.image_id)
    began = time.perf_counter()
    code, document = wain("image", "diff", "shop:a", "shop:b")
    assert code == 0
    assert time.perf_counter() - began < 2
    assert [one["name"] for one in document["packages"]["changed"]] == ["p0"]  # type: ignore[call-overload,index]


@pytest.mark.parametrize(
    "words",
    [["image", "nothing"], ["image", "show"], ["image", "diff", "a"], ["store"],
     ["image", "tag", "shop", "a b"], ["image", "show", "a/b"]],
)  # fmt: skip
def test_wrong_usage(
    project: Path, images: object, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["-C", str(project), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("wain: error:")
    assert error.count("\n") == 1


def test_help_of_an_action(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-C", str(project), "image", "diff", "--help"]) == 0
    assert "--text" in capsys.readouterr().out
    assert main(["image"]) == 2
    assert "export" in capsys.readouterr().out
