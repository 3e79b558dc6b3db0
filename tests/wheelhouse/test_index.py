"""The wheelhouse: whole at every moment, cheap to open, and true after any interruption."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.wheels import draft, make_sdist, make_wheel
from wheelhouse import notes as notes_module
from wheelhouse.errors import UsageError, WheelhouseError
from wheelhouse.index import HashMismatch, Wheelhouse
from wheelhouse.target import Target
from wheelhouse.wheel import WheelError

PROD = Target("prod", "3.12", "manylinux_2_28_x86_64")


def page(house: Wheelhouse, project: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(
        (house.folder / "simple" / project / "index.json").read_bytes()
    )
    return document


def leftovers(house: Wheelhouse) -> list[str]:
    return sorted(path.name for path in (house.folder / ".staging").iterdir())


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- adding ----------------------------------------------------------------------------------


def test_a_wheel_goes_in(tmp_path: Path, house: Wheelhouse) -> None:
    path = make_wheel(tmp_path, "Demo-App", "1.0", requires_python=">=3.8")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    moment = datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)
    entry = house.add(path, sha256=digest, upload_time=moment)
    assert (entry.filename, entry.sha256, entry.size) == (path.name, digest, path.stat().st_size)
    assert (entry.name, str(entry.version), entry.kind) == ("demo-app", "1.0", "wheel")
    assert path.exists()
    assert house.has(path.name, digest)
    assert not house.has(path.name, "0" * 64)
    assert house.path(path.name).read_bytes() == path.read_bytes()
    assert house.files() == (entry,) == house.files("demo-app")
    assert house.files("other") == ()
    assert oct(house.path(path.name).stat().st_mode & 0o777) == "0o644"
    assert leftovers(house) == []


def test_from_a_stream_and_by_moving(tmp_path: Path, house: Wheelhouse) -> None:
    path = make_wheel(tmp_path)
    house.add(io.BytesIO(path.read_bytes()), filename=path.name)
    assert house.path(path.name).read_bytes() == path.read_bytes()
    other = make_wheel(tmp_path, "other")
    house.add(other, move=True)
    assert not other.exists()
    assert [entry.name for entry in house.files()] == ["demo", "other"]


def test_a_link_is_never_moved_in(tmp_path: Path, house: Wheelhouse) -> None:
    (tmp_path / "in").mkdir()
    path = make_wheel(tmp_path)
    link = tmp_path / "in" / path.name
    link.symlink_to(path)
    entry = house.add(link, move=True)
    assert not house.path(entry.filename).is_symlink()
    assert path.exists()
    assert not link.exists()


def test_a_refused_file_that_was_to_be_moved_is_gone(tmp_path: Path, house: Wheelhouse) -> None:
    bad = tmp_path / "demo-1.0-py3-none-any.whl"
    bad.write_bytes(b"no wheel")
    with pytest.raises(WheelError):
        house.add(bad, move=True)
    assert not bad.exists()
    assert house.files() == ()


def test_the_same_file_again_changes_nothing(tmp_path: Path, house: Wheelhouse) -> None:
    path = make_wheel(tmp_path)
    first = house.add(path)
    before = house.path(path.name).stat()
    assert house.add(path) == first
    assert house.add(path, sha256=first.sha256) == first
    assert house.path(path.name).stat() == before


def test_the_file_itself_can_be_taken_in(tmp_path: Path, house: Wheelhouse) -> None:
    house.folder.mkdir()
    path = make_wheel(house.folder)
    assert [problem.what for problem in house.verify()] == ["unlisted"]
    house.add(path)
    assert house.verify() == ()


@pytest.mark.row("I4")
def test_another_file_of_the_same_name_is_refused(tmp_path: Path, house: Wheelhouse) -> None:
    first = house.add(make_wheel(tmp_path))
    other = make_wheel(tmp_path, files={"demo/__init__.py": b"other = 1\n"})
    with pytest.raises(HashMismatch, match="another file of this name") as caught:
        house.add(other)
    assert caught.value.expected == first.sha256
    assert caught.value.found == hashlib.sha256(other.read_bytes()).hexdigest()
    assert house.has(other.name, first.sha256)
    assert leftovers(house) == []


def test_other_bytes_than_expected(tmp_path: Path, house: Wheelhouse) -> None:
    path = make_wheel(tmp_path)
    with pytest.raises(HashMismatch, match="expected 0000"):
        house.add(path, sha256="0" * 64)
    assert house.files() == ()
    assert leftovers(house) == []


def test_a_corrupt_file_is_replaced(tmp_path: Path, house: Wheelhouse) -> None:
    path = make_wheel(tmp_path)
    entry = house.add(path)
    flip_a_bit(house.path(path.name))
    assert not house.has(path.name, entry.sha256)
    assert house.files() == ()
    with pytest.raises(WheelhouseError, match="is not in the wheelhouse"):
        house.path(path.name)
    again = house.add(path, sha256=entry.sha256)
    assert again.sha256 == entry.sha256
    assert house.verify() == ()


@pytest.mark.parametrize("name", ["x.whl", "../demo-1.0-py3-none-any.whl", "demo-1.0.zip.exe", ""])
def test_names_that_are_no_files_of_a_wheelhouse(
    name: str, tmp_path: Path, house: Wheelhouse
) -> None:
    with pytest.raises(WheelError, match="W9"):
        house.add(io.BytesIO(make_wheel(tmp_path).read_bytes()), filename=name or None)


@pytest.mark.parametrize("what", ["missing", "folder", "fifo"])
def test_a_source_that_is_no_file(what: str, tmp_path: Path, house: Wheelhouse) -> None:
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    with pytest.raises(WheelhouseError, match="cannot be taken in"):
        house.add(path)
    assert leftovers(house) == []


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WheelhouseError, match="cannot be created"):
        Wheelhouse(tmp_path / "file" / "house").add(make_wheel(tmp_path))


def test_an_sdist_goes_in(tmp_path: Path, house: Wheelhouse) -> None:
    entry = house.add(make_sdist(tmp_path, "demo", "1.0"))
    assert (entry.kind, entry.name, str(entry.version)) == ("sdist", "demo", "1.0")
    assert page(house, "demo")["files"][0]["core-metadata"] is False  # type: ignore[index]


def test_a_wheelhouse_elsewhere_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    house = Wheelhouse(tmp_path / "link")
    entry = house.add(make_wheel(tmp_path))
    assert Wheelhouse(tmp_path / "real").files() == (entry,)


def test_umask_does_not_matter(tmp_path: Path, house: Wheelhouse) -> None:
    old = os.umask(0o077)
    try:
        entry = house.add(make_wheel(tmp_path))
    finally:
        os.umask(old)
    for path in (house.path(entry.filename), house.folder / "simple" / "index.html"):
        assert path.stat().st_mode & 0o777 == 0o644


# --- pages -----------------------------------------------------------------------------------


def test_the_json_page(tmp_path: Path, house: Wheelhouse) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)
    entry = house.add(make_wheel(tmp_path, requires_python=">=3.8"), upload_time=moment)
    house.add(make_wheel(tmp_path, version="1.1", build="2"))
    document = page(house, "demo")
    assert document["meta"] == {"api-version": "1.1"}
    assert document["name"] == "demo"
    assert document["versions"] == ["1.0", "1.1"]
    metadata = (house.folder / (entry.filename + ".metadata")).read_bytes()
    digest = {"sha256": hashlib.sha256(metadata).hexdigest()}
    assert document["files"][0] == {  # type: ignore[index]
        "filename": entry.filename,
        "url": f"../../{entry.filename}",
        "hashes": {"sha256": entry.sha256},
        "size": entry.size,
        "upload-time": "2026-01-02T03:04:05.000600Z",
        "requires-python": ">=3.8",
        "core-metadata": digest,
        "dist-info-metadata": digest,
        "yanked": False,
    }
    root = json.loads((house.folder / "simple" / "index.json").read_bytes())
    assert root == {"meta": {"api-version": "1.1"}, "projects": [{"name": "demo"}]}


def test_the_html_page(tmp_path: Path, house: Wheelhouse) -> None:
    entry = house.add(make_wheel(tmp_path, version="1.0+local", requires_python=">=3.8,<4"))
    text = (house.folder / "simple" / "demo" / "index.html").read_text()
    assert f'href="../../demo-1.0%2Blocal-py3-none-any.whl#sha256={entry.sha256}"' in text
    assert 'data-requires-python="&gt;=3.8,&lt;4"' in text
    assert f'data-core-metadata="sha256={entry.metadata_sha256}"' in text
    assert ">demo-1.0+local-py3-none-any.whl</a>" in text
    assert '<a href="demo/">demo</a>' in (house.folder / "simple" / "index.html").read_text()


def test_the_metadata_is_an_exact_copy(tmp_path: Path, house: Wheelhouse) -> None:
    wheel = draft()
    wheel.get("METADATA").data += "\r\nodd bytes: é\n".encode()
    entry = house.add(wheel.write(tmp_path))
    copy = (house.folder / (entry.filename + ".metadata")).read_bytes()
    assert copy == wheel.get("METADATA").data
    assert hashlib.sha256(copy).hexdigest() == entry.metadata_sha256


def test_pages_can_be_written_anew(tmp_path: Path, house: Wheelhouse) -> None:
    house.add(make_wheel(tmp_path))
    before = {p: p.read_bytes() for p in (house.folder / "simple").rglob("*") if p.is_file()}
    (house.folder / "simple" / "demo" / "index.html").write_text("?")
    (house.folder / "simple" / "ghost").mkdir()
    (house.folder / "simple" / "ghost" / "index.json").write_text("{}")
    assert {p.what for p in house.verify()} == {"page"}
    house.write_pages()
    after = {p: p.read_bytes() for p in (house.folder / "simple").rglob("*") if p.is_file()}
    assert after == before
    assert house.verify() == ()


# --- choosing --------------------------------------------------------------------------------


def candidates(house: Wheelhouse, folder: Path) -> None:
    for version, tag in [
        ("1.0", "py3-none-any"),
        ("2.0", "py3-none-any"),
        ("2.0", "cp312-cp312-manylinux_2_17_x86_64"),
        ("2.0", "cp312-cp312-manylinux_2_28_x86_64"),
        ("2.0", "cp312-cp312-manylinux_2_34_x86_64"),
        ("2.0", "cp312-cp312-manylinux_2_28_aarch64"),
        ("2.0", "cp312-cp312-linux_x86_64"),
        ("2.0", "cp311-cp311-manylinux_2_28_x86_64"),
        ("3.0rc1", "py3-none-any"),
    ]:
        house.add(make_wheel(folder, "demo", version, tag=tag))
    tag = "cp312-cp312-manylinux_2_28_x86_64"
    house.add(make_wheel(folder, "demo", "2.0", tag=tag, build="1"))
    house.add(make_wheel(folder, "demo", "4.0", requires_python=">=3.13"))
    house.add(make_sdist(folder, "demo", "2.0"))


def test_why_names_every_candidate_and_its_reason(tmp_path: Path, house: Wheelhouse) -> None:
    candidates(house, tmp_path)
    verdicts = house.why("Demo>=2", PROD)
    assert len(verdicts) == len(house.files()) == 12
    reasons = {verdict.entry.filename: verdict.reason for verdict in verdicts}
    assert [v.entry.filename for v in verdicts if v.taken] == [
        "demo-2.0-1-cp312-cp312-manylinux_2_28_x86_64.whl"
    ]
    assert verdicts[0].taken
    for filename, reason in {
        "demo-2.0-1-cp312-cp312-manylinux_2_28_x86_64.whl": "the best match: as cp312-cp312",
        "demo-2.0-cp312-cp312-manylinux_2_28_x86_64.whl": "its build tag is lower",
        "demo-2.0-cp312-cp312-manylinux_2_17_x86_64.whl": "ranks below",
        "demo-2.0-py3-none-any.whl": "py3-none-any ranks below cp312-cp312-manylinux_2_28_x86_64",
        "demo-2.0-cp312-cp312-manylinux_2_34_x86_64.whl": "needs glibc 2.34, the target has 2.28",
        "demo-2.0-cp312-cp312-manylinux_2_28_aarch64.whl": "is for manylinux_2_28_aarch64",
        "demo-2.0-cp312-cp312-linux_x86_64.whl": "plain linux",
        "demo-2.0-cp311-cp311-manylinux_2_28_x86_64.whl": "is for the ABI cp311-cp311",
        "demo-1.0-py3-none-any.whl": "version 1.0 is not >=2",
        "demo-3.0rc1-py3-none-any.whl": "is a pre-release",
        "demo-4.0-py3-none-any.whl": "needs Python >=3.13, the target has 3.12.0",
        "demo-2.0.tar.gz": "there is a wheel of this version",
    }.items():
        assert reason in reasons[filename], filename


def test_best(tmp_path: Path, house: Wheelhouse) -> None:
    candidates(house, tmp_path)

    def best(requirement: str, target: Target = PROD) -> str | None:
        entry = house.best(requirement, target)
        return entry.filename if entry else None

    assert best("demo<2") == "demo-1.0-py3-none-any.whl"
    assert best("demo==3.0rc1") == "demo-3.0rc1-py3-none-any.whl"
    assert best("demo>=3.0rc1") == "demo-3.0rc1-py3-none-any.whl"
    assert best("demo", Target("t", "3.13", PROD.platform)) == "demo-4.0-py3-none-any.whl"
    assert best("demo", Target("t", "3.12", "musllinux_1_2_x86_64")) == "demo-2.0-py3-none-any.whl"
    assert best("demo>9") is None
    assert best("other") is None
    with pytest.raises(UsageError, match="is no requirement"):
        best("demo >> 1")


def test_an_sdist_of_a_higher_version_is_taken(tmp_path: Path, house: Wheelhouse) -> None:
    house.add(make_wheel(tmp_path, "demo", "1.0"))
    house.add(make_sdist(tmp_path, "demo", "1.1"))
    verdicts = house.why("demo", PROD)
    assert verdicts[0].entry.filename == "demo-1.1.tar.gz"
    assert "to be built" in verdicts[0].reason
    assert verdicts[1].reason == "version 1.1 is higher"


# --- cost ------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors of files that were hashed whole."""
    calls: list[int] = []
    real = notes_module.file_sha256

    def counting(handle: int) -> str:
        calls.append(handle)
        return real(handle)

    monkeypatch.setattr(notes_module, "file_sha256", counting)
    return calls


def test_an_unchanged_wheelhouse_is_never_hashed_again(
    tmp_path: Path, house: Wheelhouse, hashed: list[int]
) -> None:
    entries = [house.add(make_wheel(tmp_path, f"demo-{n}")) for n in range(20)]
    again = Wheelhouse(house.folder)
    assert len(again.files()) == 20
    assert all(again.has(entry.filename, entry.sha256) for entry in entries)
    again.add(make_wheel(tmp_path, "one-more"))
    assert hashed == []


@pytest.mark.parametrize("how", ["copied", "touched"])
def test_a_copied_wheelhouse_is_hashed_once(
    how: str, tmp_path: Path, house: Wheelhouse, hashed: list[int]
) -> None:
    house.add(make_wheel(tmp_path))
    folder = tmp_path / "copy"
    shutil.copytree(house.folder, folder)
    copy = Wheelhouse(folder)
    if how == "touched":
        os.utime(folder / copy.files()[0].filename, (1, 1))
    hashed.clear()
    assert len(copy.files()) == 1
    assert len(copy.files()) == 1
    assert len(hashed) <= 1
    assert copy.verify() == ()


def test_a_thousand_wheels_open_in_far_under_a_second(tmp_path: Path, house: Wheelhouse) -> None:
    """Made by hand in the wheelhouse's own form: what counts is the reading."""
    first = house.add(make_wheel(tmp_path, "demo-0"))
    note = house.folder / ".meta" / "files" / "demo-0" / f"{first.filename}.json"
    for number in range(1, 1000):
        name = first.filename.replace("demo_0", f"demo_{number}")
        shutil.copy(house.folder / first.filename, house.folder / name)
        status = (house.folder / name).stat()
        document = json.loads(note.read_bytes())
        document.update(filename=name, inode=status.st_ino)
        document["mtime-ns"] = status.st_mtime_ns
        target = house.folder / ".meta" / "files" / f"demo-{number}" / f"{name}.json"
        target.parent.mkdir()
        target.write_text(json.dumps(document))
    begun = time.perf_counter()
    opened = Wheelhouse(house.folder)
    entries = opened.files()
    assert all(opened.has(entry.filename, entry.sha256) for entry in entries)
    seconds = time.perf_counter() - begun
    assert len(entries) == 1000
    # Some 0.1 s on a quiet machine; the promise is one second.
    assert seconds < 1.0
    begun = time.perf_counter()
    opened.add(make_wheel(tmp_path, "one-more"))
    assert time.perf_counter() - begun < 1.0


# --- removing --------------------------------------------------------------------------------


def test_prune(tmp_path: Path, house: Wheelhouse) -> None:
    keep = house.add(make_wheel(tmp_path, "demo", "1.0"))
    house.add(make_wheel(tmp_path, "demo", "2.0"))
    house.add(make_sdist(tmp_path, "gone", "1.0"))
    removed = house.prune({keep.filename})
    assert [entry.filename for entry in removed] == [
        "demo-2.0-py3-none-any.whl",
        "gone-1.0.tar.gz",
    ]
    assert house.files() == (keep,)
    assert house.verify() == ()
    visible = {path.name for path in house.folder.iterdir() if not path.name.startswith(".")}
    assert visible == {keep.filename, keep.filename + ".metadata", "simple"}
    assert {path.name for path in (house.folder / "simple").iterdir()} == {
        "demo", "index.html", "index.json",
    }  # fmt: skip
    assert house.prune({keep.filename}) == ()


# --- verifying -------------------------------------------------------------------------------


@pytest.mark.row("I5")
def test_verify_lists_everything_at_once(tmp_path: Path, house: Wheelhouse) -> None:
    entries = [house.add(make_wheel(tmp_path, f"demo-{n}")) for n in range(6)]
    names = [entry.filename for entry in entries]
    flip_a_bit(house.folder / names[0])
    (house.folder / names[1]).unlink()
    (house.folder / (names[2] + ".metadata")).unlink()
    flip_a_bit(house.folder / (names[3] + ".metadata"))
    # The same size and time: only the bytes tell.
    path = house.folder / names[4]
    status = path.stat()
    flip_a_bit(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (house.folder / "other-1.0-py3-none-any.whl").write_bytes(b"x")
    (house.folder / "notes.txt").write_text("x")
    seen: list[tuple[str, int, int]] = []
    problems = house.verify(lambda *step: seen.append(step))
    assert [(problem.file, problem.what) for problem in problems] == [
        (names[0], "corrupt"),
        (names[1], "missing"),
        (names[2] + ".metadata", "missing"),
        (names[3] + ".metadata", "corrupt"),
        (names[4], "corrupt"),
        ("notes.txt", "unlisted"),
        ("other-1.0-py3-none-any.whl", "unlisted"),
    ]
    assert entries[0].sha256 in problems[0].detail
    assert seen[-1] == ("verifying", 6, 6)
    # A look changes nothing: the second one finds the same.
    assert house.verify() == problems


def test_an_empty_or_absent_wheelhouse_is_fine(tmp_path: Path) -> None:
    house = Wheelhouse(tmp_path / "none")
    assert house.verify() == ()
    assert house.files() == ()
    assert not house.folder.exists()


def test_unreadable_notes_are_as_good_as_none(tmp_path: Path, house: Wheelhouse) -> None:
    entry = house.add(make_wheel(tmp_path))
    note = next((house.folder / ".meta" / "files").rglob("*.json"))
    for text in ("", "{", "[]", '{"format": 99}', note.read_text().replace("Z", "X")):
        note.write_text(text)
        assert house.files() == ()
        assert [problem.what for problem in house.verify()][:1] == ["unlisted"]
    house.add(house.folder / entry.filename)
    assert house.verify() == ()


@pytest.mark.parametrize("found", ["wain-wheelhouse 2\n", "wain-wheelhouse 0\n", "", "\x1b[2J"])
def test_another_format_is_one_clear_error(found: str, tmp_path: Path, house: Wheelhouse) -> None:
    path = make_wheel(tmp_path)
    house.add(path)
    (house.folder / ".meta" / "format").write_text(found)
    other = Wheelhouse(house.folder)
    for use in (other.files, other.verify, other.write_pages, lambda: other.add(path)):
        with pytest.raises(WheelhouseError, match="is a wheelhouse of the form") as caught:
            use()
        assert str(caught.value).isprintable()
    with pytest.raises(WheelhouseError, match="expected 'wain-wheelhouse 1'"):
        other.has(path.name, "0" * 64)


# --- others at the same time, and interruptions ----------------------------------------------

_ADDER = """
import sys
from pathlib import Path
from wheelhouse.index import Wheelhouse
house = Wheelhouse(Path(sys.argv[1]))
for name in sys.argv[2:]:
    house.add(Path(name))
"""


def adder(house: Wheelhouse, *files: Path, code: str = _ADDER) -> subprocess.Popen[bytes]:
    arguments = [str(house.folder), *map(str, files)]
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments])


def test_processes_that_add_at_once(tmp_path: Path, house: Wheelhouse) -> None:
    files = [make_wheel(tmp_path, f"demo-{n % 5}", f"1.{n}") for n in range(20)]
    running = [adder(house, *files[n:], *files[:n]) for n in (0, 7, 14)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(house.files()) == 20
    assert house.verify() == ()
    assert leftovers(house) == []


def test_readers_never_see_a_page_that_names_a_missing_file(
    tmp_path: Path, house: Wheelhouse
) -> None:
    files = [make_wheel(tmp_path, "demo", f"1.{n}") for n in range(30)]
    house.add(files[0])
    process = adder(house, *files)
    looks = 0
    while process.poll() is None:
        for entry in page(house, "demo")["files"]:  # type: ignore[attr-defined]
            assert (house.folder / entry["filename"]).exists()
            assert (house.folder / (entry["filename"] + ".metadata")).exists()
            looks += 1
    assert process.returncode == 0
    assert looks > 0


_NO_SPACE = """
import resource, signal, sys
from pathlib import Path
from wheelhouse.errors import WheelhouseError
from wheelhouse.index import Wheelhouse
house = Wheelhouse(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    house.add(Path(sys.argv[3]))
except WheelhouseError as error:
    sys.exit(str(error))
"""


@pytest.mark.row("D1")
@pytest.mark.parametrize("limit", [0, 100, 500, 700, 1200])
def test_a_disk_that_takes_no_more(limit: int, tmp_path: Path, house: Wheelhouse) -> None:
    """Writes fail at several sizes: one line, nothing half done, and the same again works."""
    kept = house.add(make_wheel(tmp_path, "kept"))
    path = make_wheel(tmp_path, files={"demo/big.bin": random.Random(1).randbytes(600)})
    command = [sys.executable, "-c", _NO_SPACE, str(house.folder), str(limit), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == f"{path.name}: cannot be taken in: File too large\n"
    assert house.verify() == ()
    assert leftovers(house) == []
    assert set(house.files()) >= {kept}
    house.add(path)
    assert house.verify() == ()
    assert len(house.files()) == 2


@pytest.mark.row("D1")
def test_a_disk_that_is_full_when_the_page_is_written(tmp_path: Path, house: Wheelhouse) -> None:
    """The file is in, its page is not: the next command writes it, and pruning is possible."""
    for number in range(8):
        house.add(make_wheel(tmp_path, version=f"1.{number}"))
    path = make_wheel(tmp_path, version="2.0")
    limit = path.stat().st_size + 10
    assert (house.folder / "simple" / "demo" / "index.html").stat().st_size > limit
    command = [sys.executable, "-c", _NO_SPACE, str(house.folder), str(limit), str(path)]
    for _ in range(2):
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.stderr in ("", f"{path.name}: cannot be taken in: File too large\n")
        assert len(page(house, "demo")["files"]) == 8  # type: ignore[arg-type]
    assert house.verify() == ()
    assert len(house.files()) == len(page(house, "demo")["files"]) == 9  # type: ignore[arg-type]
    assert leftovers(house) == []


# Kills the process just before the n-th call that changes something visible.
_KILLED = """
import os, signal, sys
from pathlib import Path
from wheelhouse.index import Wheelhouse

left = [int(sys.argv[3])]
def trap(module, name):
    real = getattr(module, name)
    def call(*args, **options):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    setattr(module, name, call)

for name in ("open", "mkdir", "replace", "rename", "unlink", "rmdir", "fsync"):
    trap(os, name)
house = Wheelhouse(Path(sys.argv[1]))
if sys.argv[2] == "prune":
    house.prune({"demo-1.0-py3-none-any.whl"})
else:
    house.add(Path(sys.argv[2]))
print("done")
"""


def killed_at(point: int, house: Wheelhouse, what: str) -> bool:
    """Run a change and kill it at a point; whether the point lay before its end."""
    command = [sys.executable, "-c", textwrap.dedent(_KILLED), str(house.folder), what, str(point)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode in (0, -signal.SIGKILL), result.stderr
    return result.returncode != 0


@pytest.mark.row("I5")
@pytest.mark.parametrize("what", ["add", "prune"])
def test_killed_at_every_point(
    what: str, tmp_path: Path, sample: Callable[[Sequence[int], int], Sequence[int]]
) -> None:
    """Whatever the moment: the pages are whole, and the next command makes it good."""
    kept, moved = make_wheel(tmp_path, version="1.0"), make_wheel(tmp_path, version="2.0")
    original = Wheelhouse(tmp_path / "original")
    original.add(kept)
    if what == "prune":
        original.add(moved)
    points = 1
    while True:
        house = Wheelhouse(tmp_path / f"count-{points}")
        shutil.copytree(original.folder, house.folder)
        house.files()
        if not killed_at(points, house, "prune" if what == "prune" else str(moved)):
            break
        points *= 2
    for point in sample(range(points), 12):
        house = Wheelhouse(tmp_path / f"{what}-{point}")
        shutil.copytree(original.folder, house.folder)
        house.files()
        killed = killed_at(point, house, "prune" if what == "prune" else str(moved))
        for entry in page(house, "demo")["files"]:  # type: ignore[attr-defined]
            assert (house.folder / entry["filename"]).exists()
        # The next look settles what was begun: in or out, and nothing between.
        assert house.verify() == (), point
        assert leftovers(house) == []
        versions = [str(entry.version) for entry in house.files()]
        assert versions in (["1.0"], ["1.0", "2.0"])
        if not killed:
            assert versions == (["1.0", "2.0"] if what == "add" else ["1.0"])
        if what == "add":
            house.add(moved)
            assert len(house.files()) == 2
        else:
            house.prune({kept.name})
            assert len(house.files()) == 1
        assert house.verify() == ()
