"""What is shipped, and how it stands on a host."""

from __future__ import annotations

import ast
import hashlib
import marshal
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet import agent_loader, payload
from fleet.session import HostError
from tests.support.hosts import Host

OLDEST = os.path.expanduser("~/.pyenv/versions/3.9.18/bin/python3.9")


def test_the_archive_depends_on_nothing_but_the_sources(tmp_path: Path) -> None:
    shipped = payload.payload()
    assert hashlib.sha256(shipped.data).hexdigest() == shipped.digest
    code = "from fleet import payload; print(payload.payload().digest)"
    again = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        cwd=Path(payload.__file__).parent.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert again.stdout.strip() == shipped.digest
    with zipfile.ZipFile(__import__("io").BytesIO(shipped.data)) as archive:
        names = archive.namelist()
    assert names == sorted(names)
    assert {"fleet/agent.py", "fleet/agent_timer.py", "images/store.py"} <= set(names)
    assert not {"fleet/session.py", "fleet/agent_first.py", "images/catalog.py"} & set(names)


def test_what_travels_is_the_agent_and_all_it_imports_of_ours() -> None:
    top = Path(payload.__file__).parent.parent
    sources = payload.sources()
    needed = set()
    for path in sources:
        for node in ast.walk(ast.parse((top / path).read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                needed |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    modules = {
        name.replace(".", "/") + ".py" for name in needed if name[:6] in ("fleet.", "images")
    }
    imported = {path for path in modules if (top / path).is_file()}
    agent = {path for path in sources if path.startswith("fleet/agent")}
    assert imported | agent | {"fleet/__init__.py", "images/__init__.py"} == set(sources)


def test_the_first_stage_needs_no_quoting_by_any_shell() -> None:
    assert not set("'!$`\\\n") & set(payload.first_stage())
    assert len(payload.first_stage()) < 4000


def agent_files(host: Host) -> list[str]:
    return sorted(os.listdir(f"{host.root}/agent"))


def modules_of(path: Path) -> set[str]:
    """The modules in a file of bytecode on a host, which its hash vouches for."""
    digest, packed = path.read_bytes()[:64], path.read_bytes()[64:]
    assert digest.decode() == hashlib.sha256(packed).hexdigest()
    return set(marshal.loads(packed))


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Forgets what this process knows of compiled modules, which are kept where nobody has any."""
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "bytecode"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    payload._modules.cache_clear()
    yield payload._modules.cache_clear
    payload._modules.cache_clear()


def bytecode(host: Host) -> Path:
    (cached,) = (path for path in (Path(host.root) / "agent").iterdir() if path.suffix != ".pyz")
    return cached


def test_a_host_of_the_same_interpreter_is_sent_its_bytecode(host: Host) -> None:
    with host.open() as session:
        assert session.bytes_overhead > len(payload.shipment(payload.TAG))
    sent = payload.shipment(payload.TAG)[4 + len(payload.payload().deflated) :]
    assert bytecode(host).read_bytes() == zlib.decompress(sent)
    assert modules_of(bytecode(host)) >= {"fleet.agent", "fleet.agent_timer", "images.store"}


def test_others_and_those_that_keep_nothing_compile_it(host: Host) -> None:
    plain = bytes(4) + payload.payload().deflated
    assert payload.shipment("cpython-39-30912f0") == payload.shipment("") == plain
    with host.open(keep=False) as session:
        assert session.bytes_overhead < len(plain) + 8000


@pytest.mark.row("T6")
def test_damaged_bytecode_that_is_sent_is_compiled_there(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = payload.shipment(payload.TAG)
    deflated = payload.payload().deflated
    modules = zlib.decompress(real[4 + len(deflated) :])
    bad = zlib.compress(modules[:-1] + b"!")
    shipped = len(bad).to_bytes(4, "big") + deflated + bad
    monkeypatch.setattr(payload, "shipment", lambda tag: shipped)
    host.open().close()
    assert modules_of(bytecode(host)) == set(marshal.loads(modules[64:]))


def test_the_controller_compiles_once(
    monkeypatch: pytest.MonkeyPatch, forgotten: Callable[[], None]
) -> None:
    compiled = []
    real = agent_loader.compile_all

    def compile_all(archive: zipfile.ZipFile) -> agent_loader.Modules:
        compiled.append(archive)
        return real(archive)

    monkeypatch.setattr(agent_loader, "compile_all", compile_all)
    kept = payload._place()
    kept.parent.mkdir(parents=True)
    first = payload.shipment(payload.TAG)
    for _ in range(3):
        forgotten()
        assert payload.shipment(payload.TAG) == first
    assert len(compiled) == 1
    good = kept.read_bytes()
    other = b"0" * 64 + good[64:]
    for at, bad in enumerate((b"", good[:-1], good[:200] + b"!" + good[201:], other), 2):
        kept.write_bytes(bad)
        forgotten()
        assert len(payload.shipment(payload.TAG)) > len(payload.shipment(""))
        assert len(compiled) == at
        assert kept.read_bytes()[:64] == good[:64]


@pytest.mark.parametrize("why", ["told not to", "no room"])
def test_where_nothing_may_be_kept_it_is_compiled_each_time(
    monkeypatch: pytest.MonkeyPatch, forgotten: Callable[[], None], why: str
) -> None:
    if why == "told not to":
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
    else:
        payload._place().parent.parent.mkdir(parents=True)
        payload._place().parent.write_bytes(b"in its place")
    assert len(payload.shipment(payload.TAG)) > len(payload.shipment(""))
    assert not payload._place().exists()


def test_it_is_sent_once_and_compiled_once(host: Host) -> None:
    with host.open() as session:
        assert session.bytes_overhead > len(payload.payload().deflated)
    first = agent_files(host)
    with host.open() as session:
        assert session.bytes_overhead < 8000
    assert agent_files(host) == first
    assert len(first) == 2


@pytest.mark.row("T6")
def test_a_tampered_agent_is_replaced(host: Host) -> None:
    host.open().close()
    path = Path(host.root) / "agent" / f"{payload.payload().digest}.pyz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    host.open().close()
    assert path.read_bytes() == payload.payload().data


def test_damaged_bytecode_is_compiled_anew(host: Host) -> None:
    host.open().close()
    cached = bytecode(host)
    good, modules = cached.read_bytes(), modules_of(cached)
    for bad in (b"", good[:-1], b"0" * len(good), good[:64] + b"!" + good[65:]):
        cached.write_bytes(bad)
        host.open().close()
        assert modules_of(cached) == modules


def test_looking_writes_nothing(host: Host) -> None:
    with host.open(keep=False) as session:
        assert not session.facts.root_exists
    assert not os.path.exists(host.root)
    host.open().close()
    shutil.rmtree(f"{host.root}/agent")
    host.open(keep=False).close()
    assert not os.path.exists(f"{host.root}/agent")


@pytest.mark.skipif(not os.path.exists(OLDEST), reason="no Python 3.9 here")
def test_the_oldest_python(host: Host) -> None:
    host.python = OLDEST
    with host.open() as session:
        assert session.facts.python_version.startswith("3.9.")
        assert session.facts.abi == "cp39"
        assert session.facts.executable == os.path.realpath(OLDEST)


def test_a_python_that_is_too_old_says_so(host: Host) -> None:
    old = os.path.expanduser("~/.pyenv/versions/3.6.15/bin/python3.6")
    if not os.path.exists(old):
        pytest.skip("no Python 3.6 here")
    host.python = old
    with pytest.raises(HostError, match=r"Python 3\.6\.15 found, 3\.9 or newer needed") as caught:
        host.open()
    assert caught.value.kind == "no-python"


@pytest.mark.row("T6")
@pytest.mark.parametrize("python", ["/nowhere/python3", "/bin/false", "/bin/true", "/bin/cat"])
def test_what_is_no_python_is_named(host: Host, python: str) -> None:
    host.python = python
    with pytest.raises(HostError) as caught:
        host.open(timeout=5)
    assert caught.value.kind in ("no-python", "protocol")
    assert python in str(caught.value) or "ended the session" in str(caught.value)


@pytest.mark.row("T6")
def test_a_shim_is_resolved_on_the_host(host: Host, tmp_path: Path) -> None:
    shim = tmp_path / "python-shim"
    shim.write_text(f'#!/bin/sh\necho "welcome to this host"\nexec {sys.executable} "$@"\n')
    shim.chmod(0o755)
    host.python = str(shim)
    with host.open() as session:
        assert session.facts.executable == os.path.realpath(sys.executable)


def test_many_threads_build_it_once_and_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 32 hosts ask for at once is computed by one of them."""
    payload._payload.cache_clear()
    counted: list[int] = []
    real = payload.sources

    def counting() -> list[str]:
        counted.append(1)
        return real()

    monkeypatch.setattr(payload, "sources", counting)
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: payload.payload().digest, range(32)))
    assert (len(set(found)), len(counted)) == (1, 1)
