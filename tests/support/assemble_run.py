"""One assembly in a process of its own: ``STORE WHEELS PYTHON JOBS ORDER``; prints the id."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from builder.assemble import Options, assemble
from builder.interpreter import find
from images.store import Store
from tests.support.handmade import wheel_at
from wheelhouse.target import Target


def main(store: str, wheels: str, python: str, jobs: str, order: str) -> None:
    found = sorted(Path(wheels).glob("*.whl"))
    if order != "sorted":
        random.Random(order).shuffle(found)
    image = assemble(
        Target("prod", python, "manylinux_2_28_x86_64"),
        [wheel_at(path, direct=path.name.startswith("cffi")) for path in found],
        Store(store),
        Options(),
        find(python),
        jobs=int(jobs),
    )
    print(image.id)


if __name__ == "__main__":
    main(*sys.argv[1:])
