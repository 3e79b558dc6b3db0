from __future__ import annotations
import __future__

import ftplib
import functools
import hashlib
import importlib.util
import marshal
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import images.forks
from builder import compilers
from builder.bytecode import Bytecode, pyc_path
from builder.compilers import CompileError, cache_tag
from images.render import Interpreter
from images.store import Store

WORKER = Path(compilers.__file__).with_name("bytecode_worker.py").read_text()

# Constants whose order in memory is not the order in the file, shared names, annotations.
TRICKY = [
    b"",
    b"def f(x):\n    return x in {None, 1, 'a', ..., b'q', 'zz', ('t', 2)}\n",
    b"class A:\n    x: int = 1\n    def f(self, *a, k=1 << 70, **kw):\n"
    b"        return [y for y in a if y in {'s', None}]\n",
    b"import os.path as p\nfrom a import (b, c)\n"
    b"name = 'name'; other = 'a b'; t = ('a b', 'name', 1.5, 2j)\n",
    b"def g():\n    inner = 1\n    def h():\n        nonlocal inner\n        inner += 1\n"
    b"    return h\n",
    b"# -*- coding: latin-1 -*-\ns = '\xe9'\n",
    "s = 'é\U0001f600'\n".encode(),
    b"x = [1, 2, 3][0:2]\n",
]
FUTURE = Path(__future__.__file__).read_bytes()
# 3.12 finds two sets in it to be one constant, or not, as its memory lies.
FTPLIB = Path(ftplib.__file__).read_bytes()
BROKEN = [b"def f(:\n", b"x = '\0'\n", b"print 'python 2'\n", b"\xff\xfe\n"]


def sources() -> list[bytes]:
    """Some real code besides: what this Python's own library has."""
    folder = Path(random.__file__).parent
    return [*TRICKY, FTPLIB, *(path.read_bytes() for path in sorted(folder.glob("[a-d]*.py")))]


def compile_all(
    interpreter: Interpreter, given: list[bytes], *, seed: str = "0", mode: str = "shared"
) -> list[bytes | None]:
    """What the worker answers for each source, in order; three of them in a group."""
    requests = b"".join(
        bytes([number % 3 == 2 or number == len(given) - 1])
        + len(source).to_bytes(4, "big")
        + source
        for number, source in enumerate(given)
    )
    done = subprocess.run(
        [interpreter.executable, "-S", "-s", "-B", "-W", "ignore", "-c", WORKER, mode],
        input=requests, capture_output=True, check=True, env={"PYTHONHASHSEED": seed},
    )  # fmt: skip
    data = done.stdout[done.stdout.index(b"\n") + 1 :]
    replies: list[bytes | None] = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        replies.append(None if data[0] else data[5 : 5 + size])
        data = data[5 + size :]
    return replies


def test_bytes_depend_on_nothing_but_the_source(interpreters: dict[str, Interpreter]) -> None:
    given = sources()
    for python, interpreter in interpreters.items():
        mode = "forked" if python == "3.14" else "shared"
        first = compile_all(interpreter, given, mode=mode)
        order = list(range(len(given)))
        random.Random(python).shuffle(order)
        shuffled = compile_all(interpreter, [given[at] for at in order], seed="7", mode=mode)
        assert [shuffled[order.index(at)] for at in range(len(given))] == first, python
        # Each as the very first one, and again after another.
        for source in [*TRICKY, FTPLIB]:
            answers = compile_all(interpreter, [source, FUTURE, source], seed="1", mode=mode)
            assert answers[0] == answers[2] == first[given.index(source)], python


def test_a_child_for_each_file_gives_the_same_too(interpreters: dict[str, Interpreter]) -> None:
    given = sources()[:60]
    for python, interpreter in interpreters.items():
        if python < "3.11" and len(python) == 3:
            continue
        first = compile_all(interpreter, given, mode="forked")
        again = compile_all(interpreter, given[::-1], mode="forked")
        assert first == again[::-1], python


def test_what_is_compiled_is_what_python_compiles(interpreter: Interpreter) -> None:
    source = TRICKY[2]
    data = compile_all(interpreter, [source])[0]
    assert data is not None
    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(data[4:8], "little") == 1, "unchecked hash (PEP 552)"
    assert data[8:16] == importlib.util.source_hash(source)
    code = marshal.loads(data[16:])
    own = compile(source, "<image>", "exec", dont_inherit=True)
    assert code == own


def test_a_source_that_does_not_compile_is_an_answer(interpreters: dict[str, Interpreter]) -> None:
    for interpreter in interpreters.values():
        replies = compile_all(interpreter, [*BROKEN, b"x = 1\n"])
        assert replies[:-1] == [None] * len(BROKEN)
        assert replies[-1]


def test_paths_of_bytecode() -> None:
    assert pyc_path("lib/a/x.y.py", "3.12") == "lib/a/__pycache__/x.y.cpython-312.pyc"
    assert pyc_path("m.py", "3.13t") == "__pycache__/m.cpython-313.pyc"
    assert cache_tag(".".join(map(str, sys.version_info[:2]))) == sys.implementation.cache_tag


def quiet(stage: str, done: int, total: int) -> None:
    pass


def run(store: Store, interpreter: Interpreter, given: list[bytes]) -> tuple[Bytecode, list[str]]:
    names = [hashlib.sha256(source).hexdigest() for source in given]
    with store.batch() as batch:
        work = Bytecode(store, batch, interpreter, 2)
        try:
            for name, source in zip(names, given, strict=True):
                work.want(name, lambda source=source: source)
            work.finish(quiet)
        finally:
            work.stop()
    work.keep()
    return work, names


def test_results_are_kept_and_only_what_is_new_is_compiled(
    store: Store, interpreter: Interpreter
) -> None:
    given = [*TRICKY, *BROKEN]
    first, names = run(store, interpreter, given)
    assert first.compiled == len(given)
    again, _ = run(store, interpreter, [*given, b"new = 1\n"])
    assert again.compiled == 1
    assert [again.result(name) for name in names] == [first.result(name) for name in names]
    assert first.result(names[-1]) is None
    # An object that is gone or was touched is made anew.
    result = first.result(names[1])
    assert result
    Path(store.object_path(result[0])).unlink()
    third, _ = run(store, interpreter, given)
    assert third.compiled == 1
    assert third.result(names[1]) == result
    assert store.read(result[0])


@pytest.mark.parametrize("damage", ["cut", "other release", "garbage"])
def test_a_damaged_record_costs_only_work(
    store: Store, interpreter: Interpreter, damage: str
) -> None:
    first, names = run(store, interpreter, TRICKY)
    (record,) = Path(store.root, "bytecode").iterdir()
    text = record.read_bytes()
    if damage == "cut":
        record.write_bytes(text[:-30])
    elif damage == "garbage":
        record.write_bytes(b"\0" * len(text))
    else:
        record.write_bytes(text.replace(b"wain-bytecode 1", b"wain-bytecode 0"))
    again, _ = run(store, interpreter, TRICKY)
    assert again.compiled == (1 if damage == "cut" else len(TRICKY))
    assert [again.result(name) for name in names] == [first.result(name) for name in names]
    third, _ = run(store, interpreter, TRICKY)
    assert third.compiled == 0


def test_an_interpreter_of_another_release_is_refused(
    store: Store, interpreter: Interpreter
) -> None:
    with pytest.raises(CompileError, match="expected CPython"):
        run(store, interpreter._replace(version="3.8.0"), [b"x = 1\n"])


def test_an_interpreter_that_dies_is_an_error_of_its_own(
    store: Store, interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilers, "_start", _dying(interpreter))
    with pytest.raises(CompileError, match="ended early"):
        run(store, interpreter, [b"x = 1\n"] * 3)


def _dying(
    interpreter: Interpreter,
) -> Callable[[Interpreter], tuple[subprocess.Popen[bytes], int]]:
    def start(_: Interpreter) -> tuple[subprocess.Popen[bytes], int]:
        text = WORKER.replace("status, data =", "os._exit(7); status, data =")
        process = subprocess.Popen(
            [interpreter.executable, "-S", "-c", text, "shared"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return process, 1 << 16

    return start


@pytest.mark.parametrize("wide", [True, False])
def test_large_sources_and_small_pipes_never_wait_for_each_other(
    interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    """Sources and bytecode larger than a pipe, both ways at once; small ones between them."""
    if not wide:
        monkeypatch.setattr(images.forks, "_SET_PIPE_SIZE", -1)
    given = [b"x = '%d%s'\n" % (n, b"y" * (n % 5) * 300_000) for n in range(40)]
    answers: dict[bytes, bytes | None] = {}
    pool = compilers.CompilePool(interpreter, 2)
    try:
        for source in given:
            pool.submit(source, functools.partial(answers.__setitem__, source))
        pool.finish(lambda: None)
    finally:
        pool.stop()
    assert [answers[source] for source in given] == compile_all(interpreter, given)
    assert None not in answers.values()


def test_no_more_waits_than_fits(interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever submits waits for room, and then each source is answered, with its own bytecode."""
    monkeypatch.setattr(compilers, "_WAITING", 1)
    given = [b"x = %d\n" % number * (number + 1) for number in range(60)]
    answers: dict[bytes, bytes | None] = {}
    pool = compilers.CompilePool(interpreter, 2)

    def submit(mine: list[bytes]) -> None:
        for source in mine:
            pool.submit(source, functools.partial(answers.__setitem__, source))

    try:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(submit, (given[:20], given[20:40], given[40:])))
        pool.finish(lambda: None)
    finally:
        pool.stop()
    expected = compile_all(interpreter, given)
    assert [answers[source] for source in given] == expected
    assert None not in expected
