"""Names, tags, documents, and what collection takes and leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from images import swap
from images.catalog import Catalog, ImageDocument
from images.environment import recreate
from images.errors import LockedError, UsageError, WainError
from images.home import default_store, open_store
from images.interpreter import running_interpreter
from images.layout import StoreError
from images.store import Store
from tests.support import mounts
from tests.support.made_images import keep, make_document, make_image, module, regular

HERE = running_interpreter()[1]
V1 = [regular("alpha", "1.0"), module("beta", "1.0")]
V2 = [regular("alpha", "2.0"), module("beta", "1.0")]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    (tmp_path / "project").mkdir()
    return Catalog(Store(str(tmp_path / "store")), str(tmp_path / "project"))


def test_names(catalog: Catalog) -> None:
    one, two = keep(catalog, V1, "v1").image_id, keep(catalog, V2).image_id
    assert catalog.resolve("shop") == catalog.resolve("shop:latest") == two
    assert catalog.resolve("shop:v1") == one
    assert catalog.resolve(one[:8]) == one
    assert catalog.candidates("shop") == {"default": two}


@pytest.mark.parametrize(
    ("name", "error"),
    [("nobody", WainError), ("shop:v9", WainError), ("1234567", WainError), ("a b", UsageError),
     ("shop:", UsageError), ("../x", UsageError), ("", UsageError), ("ffffffffff", StoreError)],
)  # fmt: skip
def test_names_that_mean_nothing(catalog: Catalog, name: str, error: type[Exception]) -> None:
    keep(catalog, V1)
    with pytest.raises(error):
        catalog.resolve(name)


def test_a_tag_of_several_targets(catalog: Catalog) -> None:
    one = keep(catalog, V1, target="web").image_id
    two = keep(catalog, V2, target="worker").image_id
    assert catalog.candidates("shop") == {"web": one, "worker": two}
    assert catalog.resolve("shop", "worker") == two
    with pytest.raises(UsageError, match="--target: web, worker"):
        catalog.resolve("shop")
    with pytest.raises(WainError, match="it has web, worker"):
        catalog.resolve("shop", "other")
    assert catalog.untag("latest", "web") == [one]
    assert catalog.resolve("shop") == two
    with pytest.raises(WainError, match="no tag"):
        catalog.untag("gone")


def test_documents_round_trip(catalog: Catalog) -> None:
    document = make_document(keep(catalog, V1), V1)
    assert catalog.document(document.id) == document
    assert ImageDocument.from_json(document.to_json(), "x") == document


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"packages": 1}, {"target": {}}, {"id": None}, {"packages": [{"name": "x"}]}],
)
def test_documents_of_another_kind(catalog: Catalog, change: dict[str, object]) -> None:
    document = make_document(keep(catalog, V1), V1).to_json() | change
    with pytest.raises(WainError, match="doc"):
        ImageDocument.from_json(document, "doc")
    with pytest.raises(WainError):
        ImageDocument.from_json([], "doc")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1, "tags": 3}', '{"format": 9}'])
def test_a_broken_tags_file_is_one_error(catalog: Catalog, text: str) -> None:
    keep(catalog, V1)
    path = Path(catalog.project) / ".wain" / "tags.json"
    path.write_text(text)
    for action in (catalog.tags, catalog.collect, lambda: catalog.untag("latest")):
        with pytest.raises(WainError, match=r"tags\.json"):
            action()
    assert path.read_text() == text


def _tag(root: str, project: str, tag: str, image: str) -> None:
    Catalog(Store(root), project).tag(tag, image)


def test_many_tag_at_once(catalog: Catalog) -> None:
    image = keep(catalog, V1).image_id
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_tag, args=(catalog.store.root, catalog.project, f"t{n}", image))
        for n in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert set(catalog.tags()) == {"latest", *(f"t{n}" for n in range(6))}


# Collection


def present(catalog: Catalog, *images: str) -> list[bool]:
    """Whether each image is still there, and then whole."""
    found = []
    for image in images:
        there = image in catalog.store.manifests()
        if there:
            assert catalog.store.verify(catalog.store.manifest(image).objects()) == []
            assert catalog.document(image).id == image
        found.append(there)
    return found


def test_tags_keep_images(catalog: Catalog) -> None:
    one, two = keep(catalog, V1, "v1").image_id, keep(catalog, V2).image_id
    assert catalog.collect()[0].objects == 0
    catalog.untag("v1")
    dry, _ = catalog.collect(dry_run=True)
    assert present(catalog, one, two) == [True, True]
    freed, users = catalog.collect()
    assert (freed.objects, freed.size) == (dry.objects, dry.size)
    assert freed.objects > 0
    assert present(catalog, one, two) == [False, True]
    assert set(users) == {two}
    assert not os.path.exists(f"{catalog.store.root}/images/{one}.json")


@pytest.mark.parametrize("mode", ["thick", "thin"])
def test_an_environment_keeps_its_image_while_it_exists(
    catalog: Catalog, tmp_path: Path, mode: str
) -> None:
    image = keep(catalog, V1)
    path = tmp_path / "env"
    recreate(catalog.store, image, str(path), HERE, mode=mode)
    catalog.untag("latest")
    catalog.collect()
    assert present(catalog, image.image_id) == [True]
    subprocess.run([path / "bin" / "python", "-c", "import alpha.m1, beta"], check=True)
    shutil.rmtree(path)
    catalog.collect()
    assert present(catalog, image.image_id) == [False]
    assert list((tmp_path / "store").rglob("checkouts/*")) == []
    assert list(catalog.store.keys()) == []


def test_the_image_an_environment_had_before_is_let_go(catalog: Catalog, tmp_path: Path) -> None:
    one, two = keep(catalog, V1, "v1"), keep(catalog, V2)
    recreate(catalog.store, one, str(tmp_path / "env"), HERE, mode="thin")
    recreate(catalog.store, two, str(tmp_path / "env"), HERE, mode="thin")
    catalog.untag("v1")
    catalog.collect()
    assert present(catalog, one.image_id, two.image_id) == [False, True]
    assert os.listdir(tmp_path / "store" / "checkouts") == [two.image_id]


def test_exports_and_fleets_are_roots(catalog: Catalog) -> None:
    one, two = keep(catalog, V1, "v1").image_id, keep(catalog, V2, "v2").image_id
    with catalog.roots.adding():
        catalog.roots.register("fleet", "shop@fleet.toml", (one,))
        catalog.roots.register("export", f"shop {two}", (two,))
    catalog.untag("v1")
    catalog.untag("v2")
    catalog.collect()
    assert present(catalog, one, two) == [True, True]
    assert catalog.roots.forget("fleet", "shop@fleet.toml")
    catalog.collect()
    assert present(catalog, one, two) == [False, True]


def test_a_removed_project_is_no_root(catalog: Catalog) -> None:
    image = keep(catalog, V1).image_id
    other = Catalog(catalog.store, f"{catalog.project}2")
    os.mkdir(other.project)
    shutil.rmtree(catalog.project)
    other.collect()
    assert present(other, image) == [False]


def test_an_unreadable_root_stops_collection(catalog: Catalog) -> None:
    image = keep(catalog, V1).image_id
    Path(catalog.roots.folder, "export-0.json").write_text("{")
    with pytest.raises(WainError, match="export-0"):
        catalog.collect()
    assert present(catalog, image) == [True]


def _no_permission(path: Path) -> None:
    path.chmod(0)


def _damaged_stamp(path: Path) -> None:
    (path / ".wain-env").write_bytes(b"")


def _stamp_is_a_folder(path: Path) -> None:
    (path / ".wain-env").unlink()
    (path / ".wain-env").mkdir()


def _link_to_itself(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(path)


def _removed(path: Path) -> None:
    shutil.rmtree(path)


def _file_above(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("")


def _another_tools(path: Path) -> None:
    (path / ".wain-env").unlink()


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[None]:
    """Permissions count: root may read anything, so it puts its power down for a moment."""
    if os.geteuid() == 0:
        for folder, names, files in os.walk(tmp_path):
            for name in [".", *names, *files]:
                os.chown(os.path.join(folder, name), 65534, 65534, follow_symlinks=False)
        for parent in tmp_path.parents:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(0o755)
        os.seteuid(65534)
    yield
    os.seteuid(os.getuid())


@pytest.mark.row("S3")
@pytest.mark.parametrize(
    ("change", "gone", "what"),
    [(_damaged_stamp, False, "environment"), (_stamp_is_a_folder, False, "environment"),
     (_another_tools, True, "environment"),
     *[(change, gone, what) for what in ("environment", "project")
       for change, gone in ((_no_permission, False), (_link_to_itself, False), (_removed, True),
                            (_file_above, True))]],
)  # fmt: skip
def test_only_what_is_surely_gone_is_let_go(
    catalog: Catalog, tmp_path: Path, request: pytest.FixtureRequest,
    what: str, change: Callable[[Path], None], gone: bool,
) -> None:  # fmt: skip
    """A root that cannot be looked at for a moment must not cost what it uses."""
    image = keep(catalog, V1).image_id
    path = tmp_path / "place" / "env"
    if what == "environment":
        recreate(catalog.store, image, str(path), HERE, mode="thin")
        catalog.untag("latest")
    else:
        os.mkdir(path.parent)
        os.rename(catalog.project, path)
        catalog.project = str(path)
        catalog.tag("latest", image)
    other = Catalog(catalog.store, str(tmp_path))
    request.getfixturevalue("as_nobody")
    change(path)
    if gone:
        other.collect()
        assert present(other, image) == [False]
        return
    with pytest.raises(WainError, match=f"{path}.*; a {what} there may use images .*rm ") as error:
        other.collect()
    assert present(other, image) == [True]
    # The hint is true.
    os.unlink(error.value.hint.rpartition("rm ")[2])
    other.collect()


@pytest.mark.root
@pytest.mark.row("S3")
@pytest.mark.parametrize("what", ["environment", "project"])
def test_what_is_not_mounted_is_not_gone(catalog: Catalog, tmp_path: Path, what: str) -> None:
    image = keep(catalog, V1).image_id
    with mounts.tmpfs(tmp_path) as disk:
        if what == "environment":
            recreate(catalog.store, image, str(disk / "env"), HERE)
        else:
            Catalog(catalog.store, str(disk)).tag("v1", image)
        catalog.untag("latest")
        catalog.collect()
        aside = tmp_path / "aside"
        aside.mkdir()
        subprocess.run(["mount", "--move", disk, aside], check=True)
        try:
            with pytest.raises(WainError, match=f"file system at {disk} is not mounted"):
                catalog.collect()
        finally:
            subprocess.run(["mount", "--move", aside, disk], check=True)
        assert present(catalog, image) == [True]


def test_an_environment_that_a_cut_set_aside_is_a_root(catalog: Catalog, tmp_path: Path) -> None:
    image = keep(catalog, V1).image_id
    recreate(catalog.store, image, str(tmp_path / "env"), HERE, mode="thin")
    catalog.untag("latest")
    (tmp_path / "env").rename(tmp_path / ".env.wain-new-0123-old")
    catalog.collect()
    assert present(catalog, image) == [True]
    swap.clean_up(str(tmp_path / "env"))
    subprocess.run([tmp_path / "env" / "bin" / "python", "-c", "import alpha.m1"], check=True)


@pytest.mark.row("S3")
def test_collection_waits_for_nobody_and_takes_nothing_from_a_writer(catalog: Catalog) -> None:
    with catalog.store.writing():
        image = make_image(catalog.store, V1)
        with pytest.raises(LockedError):
            catalog.collect()
        catalog.put_document(make_document(image, V1))
        catalog.tag("latest", image.image_id)
    catalog.collect()
    assert present(catalog, image.image_id) == [True]
    with catalog.roots.adding(), pytest.raises(LockedError, match="being added"):
        catalog.collect()


@pytest.mark.row("S3")
def test_what_becomes_live_while_the_live_are_counted_stays(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(catalog, V1)
    count = catalog.roots.live
    made: list[str] = []
    thread = threading.Thread(target=lambda: made.append(keep(catalog, V2, "v2").image_id))

    def counted() -> object:
        found = count()
        thread.start()
        # It may do all it can; what it cannot is to tag, and it holds the store meanwhile.
        thread.join(0.5)
        return found

    monkeypatch.setattr(catalog.roots, "live", counted)
    with pytest.raises(LockedError):
        catalog.collect()
    thread.join(60)
    assert present(catalog, *made) == [True]


@pytest.mark.row("S3")
def test_nobody_writes_before_all_of_a_collection_is_done(catalog: Catalog) -> None:
    """The documents too: those of an image that is built again must not go with the old ones."""
    image = keep(catalog, V1)
    catalog.untag("latest")
    held = []

    def try_to_write() -> None:
        assert not os.path.exists(f"{catalog.store.root}/images/{image.image_id}.json")
        with suppress(LockedError), catalog.store.exclusive():
            held.append("free")

    catalog.collect(then=try_to_write)
    assert held == []
    with catalog.store.exclusive():
        pass


def _collect_forever(root: str, project: str) -> None:
    other = Catalog(Store(root), project)
    while True:
        try:
            other.collect()
        except LockedError:
            continue


@pytest.fixture
def collector(catalog: Catalog) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=_collect_forever, args=(catalog.store.root, catalog.project), daemon=True
    )
    process.start()
    yield
    process.kill()
    process.join()


@pytest.mark.row("S3")
@pytest.mark.usefixtures("collector")
def test_a_collector_in_a_loop_never_takes_a_live_object(catalog: Catalog, tmp_path: Path) -> None:
    """Row S3: build, tag, recreate and untag while another process collects all the time."""
    for number in range(12):
        packages = [regular("alpha", f"{number}.0", 5), module("beta", "1.0")]
        image = keep(catalog, packages)
        mode = "thin" if number % 2 else "thick"
        recreate(catalog.store, image.image_id, str(tmp_path / "env"), HERE, mode=mode)
        assert catalog.store.verify(image.objects()) == []
        code = "import alpha.m4, beta; print(alpha.VERSION)"
        done = subprocess.run(
            [tmp_path / "env" / "bin" / "python", "-c", code], capture_output=True, text=True
        )
        assert done.stdout == f"{number}.0\n", done.stderr


def test_json_of_the_tags_file(catalog: Catalog) -> None:
    image = keep(catalog, V1).image_id
    document = json.loads((Path(catalog.project) / ".wain" / "tags.json").read_text())
    assert document == {"format": 1, "tags": {"latest": {"default": image}}}
    assert (Path(catalog.project) / ".wain" / ".gitignore").read_text() == "*\n"


def test_a_store_is_never_made_among_other_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home folder as the store: what no image names would be removed from ~/tmp, ~/images."""
    for name, victim in (("home", "images/mine.jpg"), ("part", "tmp/work/mine"), ("hex", "tmp/x")):
        root = tmp_path / name
        (root / victim).parent.mkdir(parents=True)
        (root / victim).write_text("mine")
        before = sorted(root.rglob("*"))
        monkeypatch.setenv("WAIN_STORE", str(root))
        with pytest.raises(StoreError, match=r"holds other things \('(images|work|x)'\)"):
            open_store()
        assert sorted(root.rglob("*")) == before
    # What a cut left of a store in the making is one.
    (tmp_path / "cut" / "tmp" / ("0" * 16)).mkdir(parents=True)
    monkeypatch.setenv("WAIN_STORE", str(tmp_path / "cut"))
    assert open_store().manifests() == []
    (tmp_path / "cut").chmod(0o777)
    with pytest.raises(StoreError, match="writable by everybody"):
        open_store()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WAIN_STORE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="Not a directory"):
        open_store()


def test_the_store_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAIN_STORE", "/elsewhere")
    assert default_store() == "/elsewhere"
    monkeypatch.delenv("WAIN_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_store() == "/data/wain"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_store() == "/home/me/.local/share/wain"
