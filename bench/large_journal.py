"""A journal as a large fleet leaves it, for the figure of `wain fleet query`."""

from __future__ import annotations

from pathlib import Path

from fleet.journal import Journal
from fleet.reported import ImageRecord, Report, remember_images, report

PACKAGES = 150


def fill(path: Path, *, hosts: int, images: int) -> None:
    """Fill the journal at `path` with hosts spread over images of 150 packages each.

    Four fifths of the images carry a `requests` below 2.32.
    """
    with Journal.open(path) as journal:
        remember_images(journal, [_image(number, images) for number in range(images)])
        report(
            journal,
            (
                Report(
                    host=f"host{number:05}",
                    image=f"{number % images:064x}",
                    previous=None,
                    generation=1,
                    python="3.11.7",
                    machine="x86_64",
                    libc="glibc 2.36",
                    releases=(f"{number % images:064x}",),
                )
                for number in range(hosts)
            ),
        )


def _image(number: int, images: int) -> ImageRecord:
    requests = "2.31.0" if number < images * 4 // 5 else "2.32.3"
    others = tuple((f"package-{at}", f"{number}.{at}") for at in range(PACKAGES - 1))
    return ImageRecord(
        f"{number:064x}", f"set-{number}", "3.11", "manylinux_2_28_x86_64",
        (("requests", requests), *others),
    )  # fmt: skip
