"""What a person or a program gets to read: text, tables, progress and JSON.

Commands report here and never print. With ``--json`` standard output carries one JSON document
and nothing else; text for people goes to standard error. rich is imported only for the live
display of something that takes longer than a second on a terminal.
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

# A step that ends sooner than this is not worth a progress display. Seconds.
_PATIENCE = 1.0
# Plain progress lines (no terminal) are at least this far apart. Seconds.
_PLAIN_INTERVAL = 5.0


def printable(text: str) -> str:
    """`text` with control and format characters escaped: host output must not drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class Output:
    """Where a command's words go. ``json``, ``quiet``, ``verbose`` are the global options."""

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.configure(json=json, quiet=quiet, verbose=verbose)
        self._document: Mapping[str, object] | None = None
        self._progress: _Progress | None = None

    def configure(self, *, json: bool, quiet: bool, verbose: bool) -> None:
        """Set the global options once they are parsed."""
        self.json = json
        self.quiet = quiet
        self.verbose = verbose

    @property
    def stream(self) -> TextIO:
        """Where text for people goes."""
        return sys.stderr if self.json else sys.stdout

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked and shown a live display."""
        return sys.stdin is not None and sys.stdin.isatty() and self.stream.isatty()

    def say(self, text: str = "") -> None:
        """A line for people; left out with ``-q``."""
        if not self.quiet:
            self._settle()
            print(printable(text), file=self.stream, flush=True)

    def detail(self, text: str) -> None:
        """A line for people who asked for more (``-v``)."""
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        """A warning, always shown, on standard error."""
        self._settle()
        print(f"wain: warning: {printable(text)}", file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """The one line of a failure, on standard error."""
        self._settle()
        line = printable(text.replace("\n", " "))
        print(f"wain: error: {line}", file=sys.stderr, flush=True)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table in aligned columns, the same on a terminal and in a log."""
        if self.quiet:
            return
        cells = [[printable(str(cell)) for cell in row] for row in [headers, *rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
        numeric = [
            bool(rows) and all(_is_number(row[i]) for row in cells[1:]) for i in range(len(headers))
        ]
        lines = []
        for row in cells:
            parts = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ]
            lines.append("  ".join(parts).rstrip())
        self.say("\n".join(lines))

    def progress(self, stage: str, done: int, total: int) -> None:
        """Report progress of a stage; ``total`` 0 when unknown. Shown once it takes a second."""
        if self.quiet:
            return
        if self._progress is None or self._progress.stage != stage:
            self._settle()
            self._progress = _Progress(stage, self.stream)
        self._progress.update(done, total)
        if total and done >= total:
            self._settle()

    def confirm(self, question: str) -> bool:
        """Ask a yes/no question on a terminal; False when nobody can be asked."""
        if not self.interactive:
            return False
        self._settle()
        print(f"{printable(question)} [y/N] ", end="", file=self.stream, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def result(self, document: Mapping[str, object]) -> None:
        """The command's JSON document; printed at the end when ``--json`` was given."""
        self._document = document

    def finish(self) -> None:
        """End any progress display and print the JSON document, once."""
        self._settle()
        if self.json and self._document is not None:
            import json

            document, self._document = self._document, None
            print(json.dumps(document, indent=2, sort_keys=True, default=str), flush=True)

    def _settle(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None


class _Progress:
    """One stage's progress: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, stage: str, stream: TextIO) -> None:
        self.stage = stage
        self._stream = stream
        self._begun = self._shown = time.monotonic()
        self._live = stream.isatty()
        self._drawn = False

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._begun < _PATIENCE:
            return
        interval = 0.1 if self._live else _PLAIN_INTERVAL
        if self._drawn and now - self._shown < interval:
            return
        self._shown, self._drawn = now, True
        count = f"{done}/{total}" if total else str(done)
        text = f"{self.stage} {count} ({now - self._begun:.0f} s)"
        if self._live:
            share = f"[{'#' * (24 * done // total):<24}] " if total else ""
            print(f"\r\x1b[K{share}{printable(text)}", end="", file=self._stream, flush=True)
        else:
            print(printable(text), file=self._stream, flush=True)

    def close(self) -> None:
        if self._drawn and self._live:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "", 1).replace("%", "").strip("-+ ").isdigit()


def human_bytes(count: int) -> str:
    """A byte count for people: ``1.4 MB`` (powers of ten)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
