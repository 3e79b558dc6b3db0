"""Bytecode whose bytes depend on the source and the interpreter's release, nothing else.

The target's own interpreter compiles, in workers that live as long as an image is built; what
makes the bytes the same is told in bytecode_worker.py. Results are objects of the store; which
source gave which is kept in ``<store>/bytecode/<tag>-<release>.txt``, so that a second image
compiles only what is new:

    wain-bytecode 1 <release> <tag>
    <sha256 of the source> <sha256 of the .pyc> <its size>
    <sha256 of the source> - 0            this source does not compile

Lines are appended after the objects they name were published. A line whose object is gone, or
that was cut short, counts as absent.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

from builder.compilers import CompileError, CompilePool, cache_tag
from images.errors import WainError
from images.render import Interpreter
from images.store import Batch, Store

# Raised when the recipe changes the bytes: older results are then not looked at.
RECIPE = 1
_LINE = re.compile(r"([0-9a-f]{64}) (?:([0-9a-f]{64}) ([1-9][0-9]*)|- 0)\n")

Result = tuple[str, int] | None  # sha256 and size of the .pyc; None: does not compile


def pyc_path(source: str, python: str) -> str:
    """Where the bytecode of a source file stands, both relative to the image."""
    folder, slash, name = source.rpartition("/")
    return f"{folder}{slash}__pycache__/{name.removesuffix('.py')}.{cache_tag(python)}.pyc"


class Bytecode:
    """What the sources of one image compile to.

    Call `want` for each source, from any thread, then `finish` once, then `result`. After the
    batch was published, `keep` remembers the new results. `stop` in any case.
    """

    def __init__(self, store: Store, batch: Batch, interpreter: Interpreter, jobs: int) -> None:
        self._store = store
        self._batch = batch
        self._interpreter = interpreter
        self._jobs = jobs
        self._tag = cache_tag(".".join(interpreter.version.split(".")[:2]))
        self._record = Path(store.root) / "bytecode" / f"{self._tag}-{interpreter.version}.txt"
        self._header = f"wain-bytecode {RECIPE} {interpreter.version} {self._tag}\n"
        self._known = self._load()
        self._results: dict[str, Result] = {}
        self._new: list[str] = []
        self._lock = threading.Lock()
        self._pool: CompilePool | None = None
        self._asked = 0
        self._stopped = False

    @property
    def compiled(self) -> int:
        """How many sources were compiled, not found in the store."""
        return len(self._new)

    def want(self, sha256: str, source: Callable[[], bytes]) -> None:
        """Ask for the bytecode of a source; ``source`` is called only when it is not known."""
        with self._lock:
            if sha256 in self._results:
                return
            self._results[sha256] = None
            if sha256 in self._known:
                known = self._known[sha256]
                if known is None or self._store.is_present((known[0], False), known[1]):
                    self._results[sha256] = known
                    return
            if self._stopped:
                raise CompileError("bytecode", "stopped")
            if self._pool is None:
                self._pool = CompilePool(self._interpreter, self._jobs)
            self._asked += 1
            pool = self._pool
        pool.submit(source(), lambda data: self._done(sha256, data))

    def _done(self, sha256: str, data: bytes | None) -> None:
        result = None if data is None else self._batch.put(data)
        self._results[sha256] = result
        self._new.append(sha256)

    def finish(self, on_progress: Callable[[str, int, int], None]) -> None:
        """Wait for all that was asked for, telling every now and then. Raises CompileError."""
        if self._pool is not None:
            total = self._asked
            self._pool.finish(lambda: on_progress("Compiling", len(self._new), total))
            on_progress("Compiling", total, total)

    def stop(self) -> None:
        """End the workers, whatever they are doing; does no harm twice."""
        with self._lock:
            self._stopped = True
            pool = self._pool
        if pool is not None:
            pool.stop()

    def result(self, sha256: str) -> Result:
        """The object of a source's .pyc, None when the source does not compile."""
        return self._results[sha256]

    def keep(self) -> None:
        """Remember the new results for the next image. Raises WainError."""
        if not self._new:
            return
        lines = [write_line(sha256, self._results[sha256]) for sha256 in sorted(self._new)]
        try:
            self._record.parent.mkdir(exist_ok=True)
            head = "" if self._known or self._begins_right() else self._header
            if head:
                self._record.unlink(missing_ok=True)
            with self._record.open("ab") as file:
                # A line that was cut short by a crash must not swallow the next one.
                file.write((head or "\n").encode() + "".join(lines).encode())
        except OSError as error:
            raise WainError(str(self._record), error.strerror or "cannot be written") from None

    def _begins_right(self) -> bool:
        try:
            with self._record.open("rb") as file:
                return file.readline(200) == self._header.encode()
        except OSError:
            return False

    def _load(self) -> dict[str, Result]:
        header, results = read_record(self._record)
        return results if header == self._header else {}


def read_record(path: Path) -> tuple[str, dict[str, Result]]:
    """The first line of a record and its results; nothing of a file that cannot be read."""
    try:
        text = path.read_text("ascii", "replace")
    except OSError:
        return "", {}
    head, newline, body = text.partition("\n")
    return head + newline, {
        match[1]: (match[2], int(match[3])) if match[2] else None for match in _LINE.finditer(body)
    }


def write_line(source: str, result: Result) -> str:
    """One line of a record."""
    return f"{source} {result[0]} {result[1]}\n" if result else f"{source} - 0\n"
