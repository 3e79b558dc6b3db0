"""Rows I1, I2, I4 and L1 at the fetcher: from a lock to the wheelhouse over a real server."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder import download
from builder.fetch import Fetched, FetchError, fetch
from builder.pipconfig import PipSettings
from builder.sources import Sources
from builder.urls import file_url
from tests.support import httpserver as http
from tests.support.httpserver import Server
from tests.support.wheels import make_wheel
from wheelhouse.index import Wheelhouse
from wheelhouse.lock import Lock, LockedFile, LockedPackage
from wheelhouse.target import Target

TARGET = Target.running()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, own_pip: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.001)


def lock_of(*files: Path, **changed: object) -> Lock:
    packages = []
    for path in files:
        name, version = path.name.split("-")[:2]
        file = LockedFile(path.name, http.sha256(path), path.stat().st_size)
        packages.append(LockedPackage(name, version, file))
    return Lock(TARGET, tuple(packages))


def sources(url: str = "", **more: object) -> Sources:
    settings = PipSettings(index_url=url, timeout=2.0, retries=1, **more)  # type: ignore[arg-type]
    return Sources(settings)


def files_in(house: Wheelhouse) -> list[str]:
    return sorted(path.name for path in house.folder.glob("*.whl"))


@pytest.fixture
def house(tmp_path: Path) -> Wheelhouse:
    return Wheelhouse(tmp_path / "house")


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "made"
    folder.mkdir()
    return [make_wheel(folder, f"demo{n}", "1.0") for n in range(5)]


@pytest.mark.parametrize("as_json", [True, False])
def test_fetch_then_nothing_to_do(
    server: Server, house: Wheelhouse, made: list[Path], as_json: bool
) -> None:
    places = sources(server.index(*made, as_json=as_json))
    first = fetch(lock_of(*made), house, places)
    assert [(one.file, one.source) for one in first] == [(path.name, "index") for path in made]
    assert files_in(house) == [path.name for path in made]
    asked = len(server.requests)
    again = fetch(lock_of(*made), house, places)
    assert {one.source for one in again} == {"kept"}
    assert len(server.requests) == asked


def test_remembered_place_saves_the_search(
    server: Server, house: Wheelhouse, made: list[Path]
) -> None:
    url = server.put("/else/" + made[0].name, made[0].read_bytes())
    lock = lock_of(made[0])
    places = {lock.packages[0].file.sha256: url}
    assert fetch(lock, house, sources(server.url + "/simple"), places=places)[0].source == "index"
    assert [path for _, path, _ in server.requests] == ["/else/" + made[0].name]


def test_remembered_place_that_is_gone(server: Server, house: Wheelhouse, made: list[Path]) -> None:
    lock = lock_of(made[0])
    places = {lock.packages[0].file.sha256: server.url + "/gone/" + made[0].name}
    assert fetch(lock, house, sources(server.index(made[0])), places=places)[0].source == "index"


def test_file_index_and_find_links(tmp_path: Path, house: Wheelhouse, made: list[Path]) -> None:
    """A file: index, one that is not there, a folder of links and a missing one, like pip's."""
    index = tmp_path / "index"
    page = index / "demo0"
    page.mkdir(parents=True)
    page.joinpath("index.html").write_text(f'<a href="../../made/{made[0].name}">x</a>')
    links = tmp_path / "links"
    links.mkdir()
    os.link(made[1], links / made[1].name)
    places = sources(
        file_url(index),
        extra_index_urls=(file_url(tmp_path / "missing"),),
        find_links=(file_url(links), file_url(tmp_path / "no-links")),
    )
    fetched = fetch(lock_of(made[0], made[1]), house, places)
    assert [one.source for one in fetched] == ["index", "index"]


@pytest.mark.row("I1")
@pytest.mark.parametrize("code", [403, 404, 500])
@pytest.mark.parametrize("where", ["page", "file"])
def test_status(server: Server, house: Wheelhouse, made: list[Path], code: int, where: str) -> None:
    """The error names address and status; with the server well again, the same call finishes."""
    places = sources(server.index(made[0]))
    path = "/simple/demo0/" if where == "page" else f"/simple/files/{made[0].name}"
    server.behave[path] = http.status(code)
    with pytest.raises(FetchError) as caught:
        fetch(lock_of(made[0]), house, places)
    if (code, where) == (404, "page"):
        assert "is no longer on any of" in str(caught.value)
        assert server.url in str(caught.value)
    else:
        assert server.url + path in str(caught.value)
        assert str(code) in str(caught.value)
    assert files_in(house) == []
    del server.behave[path]
    assert fetch(lock_of(made[0]), house, places)[0].source == "index"


@pytest.mark.row("I1")
def test_redirect_loop(server: Server, house: Wheelhouse, made: list[Path]) -> None:
    places = sources(server.index(made[0]))
    path = f"/simple/files/{made[0].name}"
    server.behave[path] = http.redirect(path)
    with pytest.raises(FetchError, match=r"redirects more than 10 times"):
        fetch(lock_of(made[0]), house, places)
    assert len(server.asked(path)) <= 11


@pytest.mark.row("I1")
def test_few_redirects_are_followed(server: Server, house: Wheelhouse, made: list[Path]) -> None:
    places = sources(server.index(made[0]))
    server.put("/moved", made[0].read_bytes())
    server.behave[f"/simple/files/{made[0].name}"] = http.redirect("/moved")
    assert fetch(lock_of(made[0]), house, places)[0].source == "index"


@pytest.mark.row("I1")
def test_redirect_to_a_file_of_this_machine(
    server: Server, house: Wheelhouse, made: list[Path]
) -> None:
    places = sources(server.index(made[0]))
    server.behave[f"/simple/files/{made[0].name}"] = http.redirect(file_url(made[0]))
    with pytest.raises(FetchError, match=r"no web address"):
        fetch(lock_of(made[0]), house, places)


@pytest.mark.row("I1")
def test_nothing_listens(house: Wheelhouse, made: list[Path]) -> None:
    with http.serving() as gone:
        url = gone.url
    with pytest.raises(FetchError, match=r"cannot be reached.*refused"):
        fetch(lock_of(made[0]), house, sources(url + "/simple/"))


@pytest.mark.row("I1")
def test_unknown_host(house: Wheelhouse, made: list[Path]) -> None:
    with pytest.raises(FetchError, match=r"nowhere.invalid"):
        fetch(lock_of(made[0]), house, sources("http://nowhere.invalid/simple/"))


@pytest.mark.row("I1")
def test_tls_failure(server: Server, house: Wheelhouse, made: list[Path]) -> None:
    """A server that does not speak TLS where TLS is asked for."""
    url = server.index(made[0]).replace("http://", "https://")
    with pytest.raises(FetchError, match=r"TLS|cannot be reached"):
        fetch(lock_of(made[0]), house, sources(url))


@pytest.mark.row("I1")
def test_a_certificate_nobody_vouches_for(
    house: Wheelhouse, made: list[Path], tmp_path: Path
) -> None:
    certificate = tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "1",
               "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
               "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    certificate.write_text((tmp_path / "key").read_text() + (tmp_path / "cert").read_text())
    with http.serving(certificate) as server:
        url = server.index(made[0])
        with pytest.raises(FetchError) as caught:
            fetch(lock_of(made[0]), house, sources(url))
        assert server.url in str(caught.value)
        assert "certificate" in str(caught.value).lower()
        assert "\n" not in str(caught.value)
        assert server.requests == []
        assert files_in(house) == []
        # Vouched for in pip's configuration, the same call finishes.
        known = sources(url, cert=str(tmp_path / "cert"))
        assert fetch(lock_of(made[0]), house, known)[0].source == "index"


@pytest.mark.row("I1")
def test_yanked_release_is_still_fetched_by_hash(
    server: Server, house: Wheelhouse, made: list[Path]
) -> None:
    url = server.index(made[0], more={made[0].name: {"yanked": "bad"}})
    assert fetch(lock_of(made[0]), house, sources(url))[0].source == "index"


@pytest.mark.row("I4")
@pytest.mark.parametrize("page_says", [True, False])
def test_file_changed_under_the_same_name(
    server: Server, house: Wheelhouse, made: list[Path], tmp_path: Path, page_says: bool
) -> None:
    """Both hashes are named, whether the index tells the new one or hides it."""
    lock = lock_of(made[0])
    other = make_wheel(tmp_path, "demo0", "1.0", files={"demo0/__init__.py": b"evil = True\n"})
    url = server.index(other if page_says else made[0])
    server.put(f"/simple/files/{made[0].name}", other.read_bytes().ljust(made[0].stat().st_size))
    data = server.files[f"/simple/files/{made[0].name}"][0]
    if page_says:
        new = http.sha256(other)
    else:
        data = data[: made[0].stat().st_size]
        server.put(f"/simple/files/{made[0].name}", data)
        new = hashlib.sha256(data).hexdigest()
    with pytest.raises(FetchError) as caught:
        fetch(lock, house, sources(url))
    assert lock.packages[0].file.sha256 in str(caught.value)
    assert new in str(caught.value)
    assert files_in(house) == []
    assert list((house.folder / ".staging" / "partial").glob("*")) == []


@pytest.mark.row("I1")
def test_one_bad_file_leaves_the_others(
    server: Server, house: Wheelhouse, made: list[Path]
) -> None:
    places = sources(server.index(*made))
    server.behave[f"/simple/files/{made[2].name}"] = http.status(500)
    server.behave[f"/simple/files/{made[3].name}"] = http.status(404)
    with pytest.raises(FetchError) as caught:
        fetch(lock_of(*made), house, places)
    assert set(caught.value.failures) == {made[2].name, made[3].name}
    assert files_in(house) == [made[0].name, made[1].name, made[4].name]
    server.behave.clear()
    again = fetch(lock_of(*made), house, places)
    assert [one.source for one in again] == ["kept", "kept", "index", "index", "kept"]


@pytest.mark.row("I2")
def test_second_source_is_tried(
    server: Server, other_server: Server, house: Wheelhouse, made: list[Path]
) -> None:
    """A broken mirror does not matter while another one has the very bytes."""
    server.index(made[0])
    server.behave[f"/simple/files/{made[0].name}"] = http.truncate(made[0].read_bytes(), 100)
    places = sources(server.url + "/simple/", extra_index_urls=(other_server.index(made[0]),))
    assert fetch(lock_of(made[0]), house, places)[0].source == "index"


@pytest.mark.row("I2")
def test_partial_file_is_never_in_the_wheelhouse(
    server: Server, house: Wheelhouse, tmp_path: Path
) -> None:
    big = make_wheel(tmp_path, "big", "1.0", files={"big.py": os.urandom(1 << 20)})
    places = sources(server.index(big))
    server.behave[f"/simple/files/{big.name}"] = http.truncate(big.read_bytes(), 500_000)
    with pytest.raises(FetchError):
        fetch(lock_of(big), house, places)
    assert files_in(house) == []
    del server.behave[f"/simple/files/{big.name}"]
    assert fetch(lock_of(big), house, places)[0].source == "index"
    last = server.asked(f"/simple/files/{big.name}")[-1]
    assert last["Range"] == "bytes=500000-"


@pytest.mark.row("W13")
def test_wheel_the_wheelhouse_refuses(server: Server, house: Wheelhouse, tmp_path: Path) -> None:
    """The right hash is not enough: a file name that lies about its tags does not get in."""
    good = make_wheel(tmp_path, "demo", "1.0")
    liar = good.rename(tmp_path / "demo-1.0-cp311-cp311-manylinux_2_17_x86_64.whl")
    with pytest.raises(FetchError, match=r"W9|W13"):
        fetch(lock_of(liar), house, sources(server.index(liar)))
    assert files_in(house) == []


@pytest.mark.row("L1")
@pytest.mark.parametrize("way", ["url", "netrc"])
def test_login_is_used_and_never_shown(
    server: Server, house: Wheelhouse, made: list[Path], own_pip: pytest.MonkeyPatch, way: str
) -> None:
    """A good login reads; a wrong one is an error without it; no file holds either."""
    server.login = ("me", "c4n4ry")
    url = server.index(made[0])
    host = url.removeprefix("http://")
    if way == "netrc":
        Path(os.environ["NETRC"]).write_text("machine 127.0.0.1 login me password c4n4ry\n")
        Path(os.environ["NETRC"]).chmod(0o600)
        places = sources(url)
    else:
        places = sources(f"http://me:c4n4ry@{host}")
    assert fetch(lock_of(made[0]), house, places)[0].source == "index"
    server.login = ("me", "other")
    house = Wheelhouse(house.folder.parent / "second")
    with pytest.raises(FetchError) as caught:
        fetch(lock_of(made[0]), house, places)
    assert "401" in str(caught.value)
    assert "c4n4ry" not in repr(caught.value.args) + str(caught.value.failures)
    for path in house.folder.parent.rglob("*"):
        if path.is_file() and path.name != "netrc":
            assert b"c4n4ry" not in path.read_bytes()


@pytest.mark.row("L1")
def test_login_is_not_sent_to_another_host(
    server: Server, other_server: Server, house: Wheelhouse, made: list[Path]
) -> None:
    server.login = ("me", "c4n4ry")
    url = server.index(made[0])
    there = other_server.put("/" + made[0].name, made[0].read_bytes())
    server.behave[f"/simple/files/{made[0].name}"] = http.redirect(there)
    places = sources(url.replace("http://", "http://me:c4n4ry@"))
    assert fetch(lock_of(made[0]), house, places)[0].source == "index"
    sent = {name.lower() for _, _, headers in other_server.requests for name in headers}
    assert "user-agent" in sent
    assert "authorization" not in sent


def test_two_processes_at_once(server: Server, tmp_path: Path, made: list[Path]) -> None:
    """Both end well, and no unfinished file is left."""
    big = [
        make_wheel(tmp_path, f"big{n}", "1.0", files={f"big{n}.py": os.urandom(300_000)})
        for n in range(3)
    ]
    url = server.index(*big)
    script = (
        "import sys, json\n"
        "from builder.fetch import fetch\n"
        "from builder.pipconfig import PipSettings\n"
        "from builder.sources import Sources\n"
        "from wheelhouse.index import Wheelhouse\n"
        "from wheelhouse.lock import *\n"
        "from wheelhouse.target import Target\n"
        "house, url, files = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])\n"
        "packages = tuple(LockedPackage(f.split('-')[0], '1.0', LockedFile(f, s, n))\n"
        "                 for f, s, n in files)\n"
        "found = fetch(Lock(Target.running(), packages), Wheelhouse(house),\n"
        "              Sources(PipSettings(index_url=url)))\n"
        "print(json.dumps([one.source for one in found]))\n"
    )
    listed = json.dumps([[f.name, http.sha256(f), f.stat().st_size] for f in big])
    argv = [sys.executable, "-c", script, str(tmp_path / "house"), url, listed]
    running = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
        assert set(json.loads(out)) <= {"index", "kept"}
    assert files_in(Wheelhouse(tmp_path / "house")) == [path.name for path in big]
    assert list((tmp_path / "house" / ".staging" / "partial").glob("*")) == []


def test_part_file_of_another_process_is_left_alone(
    server: Server, house: Wheelhouse, made: list[Path]
) -> None:
    """While another process holds the part file of a hash, this one fetches into its own."""
    lock = lock_of(made[0])
    part = house.partial / f"{lock.packages[0].file.sha256}.part"
    with part.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("theirs")
        held.flush()
        assert fetch(lock, house, sources(server.index(made[0])))[0].source == "index"
        assert part.read_text() == "theirs"
    assert [path.name for path in house.partial.iterdir()] == [part.name]


def test_progress_counts_every_byte(server: Server, house: Wheelhouse, made: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    fetched: list[Fetched] = fetch(
        lock_of(*made),
        house,
        sources(server.index(*made)),
        on_progress=lambda stage, done, total: seen.append((done, total)),
    )
    assert len(fetched) == 5
    assert seen[-1][0] == seen[-1][1]
