"""`python -m bench [SECTION …]`: measure, print, and write docs/benchmarks.md.

Sections: environments, builds, fleets. With sections named, the page is left alone.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.report import Result, line, write

SECTIONS = {
    "environments": "Images and environments",
    "builds": "Locks, wheelhouse and builds",
    "fleets": "Fleets",
}


def main() -> int:
    """Measure; exit 1 when a figure misses its bound."""
    wanted = sys.argv[1:] or list(SECTIONS)
    measured: dict[str, Sequence[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="wain-bench-", dir=Path.cwd()) as folder:
        for name in wanted:
            module = importlib.import_module(f"bench.{name}")
            measured[SECTIONS[name]] = results = module.measure(Path(folder) / name)
            print(f"\n{SECTIONS[name]}")
            for result in results:
                print(line(result), flush=True)
    if not sys.argv[1:]:
        write(Path("docs"), measured)
    missed = [r.title for results in measured.values() for r in results if not r.holds]
    if missed:
        print("\nmissed: " + "; ".join(missed), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
