"""The work of a check-out, divided into pieces that need nothing of each other. Travels to hosts.

A work list is made from a manifest, and says the same in the order in which it is done. As a
text it can be kept beside the manifest: reading that takes a tenth of the time of reading and
checking the manifest again, and each process reads only the pieces it takes. A piece is lines,
``/<folder>`` to make and ``<object> <size> <path>`` to place, a folder before what is in it.
"""

from __future__ import annotations

from hashlib import sha256

from images.layout import object_name
from images.manifest import Manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from images.manifest import Entry

WORK_LISTS = "worklists"
"""The folder of a store where the work lists of images are kept."""

_MAGIC = b"wain-worklist 1 "
# A folder with more than this below it is divided, so that no process waits long for another.
PIECE = 200


class WorkList:
    """``first``: folders that are made before any piece, in order. ``pieces``: largest first.

    ``files`` counts all of the image's, ``rest`` has its header and the entries that are no
    plain files. ``manifest`` is what it was made from, None when it was read.
    """

    __slots__ = ("files", "first", "manifest", "pieces", "rest")

    def __init__(
        self,
        files: int,
        first: list[str],
        pieces: list[str],
        rest: Manifest,
        manifest: Manifest | None = None,
    ) -> None:
        self.files = files
        self.first = first
        self.pieces = pieces
        self.rest = rest
        self.manifest = manifest

    @classmethod
    def of(cls, manifest: Manifest) -> WorkList:
        """The work for a manifest."""
        first, pieces = _divided(manifest.entries)
        rest = manifest.part([entry for entry in manifest.entries if entry.kind != "file"])
        return cls(len(manifest.entries), first, pieces, rest, manifest)

    def to_bytes(self) -> bytes:
        """As it is kept, with a digest against damage."""
        parts = [str(self.files), "\n".join(["first", *self.first]), *self.pieces]
        data = "\n\n".join(parts).encode() + b"\n\n\n" + self.rest.to_bytes()
        return _MAGIC + sha256(data).hexdigest().encode() + b"\n" + data

    @classmethod
    def parse(cls, kept: bytes) -> WorkList | None:
        """Read what :meth:`to_bytes` made; None for anything else."""
        head, _, data = kept.partition(b"\n")
        if head != _MAGIC + sha256(data).hexdigest().encode():
            return None
        work, _, rest = data.partition(b"\n\n\n")
        files, first, *pieces = work.decode().split("\n\n")
        return cls(int(files), first.split("\n")[1:], pieces, Manifest.parse(rest, "work list"))


def _divided(entries: Iterable[Entry]) -> tuple[list[str], list[str]]:
    inside: dict[str, list[str]] = {}
    for kind, executable, digest, size, _, path in entries:
        files = inside.setdefault(path.rpartition("/")[0], [])
        if kind == "file":
            files.append(f"{object_name(digest, executable)} {size} {path}")
    below: dict[str, int] = {}  # what a folder costs, with all in it
    for folder in sorted(inside, reverse=True):
        cost = len(inside[folder]) + 3  # a folder costs about as much as three links
        while True:
            below[folder] = below.get(folder, 0) + cost
            if not folder:
                break
            folder = folder.rpartition("/")[0]
    first: list[str] = []
    pieces: dict[str, list[str]] = {}
    roots: dict[str, str] = {}  # folder -> the one its piece begins with; none: made first
    for folder in sorted(below):
        root = roots.get(folder.rpartition("/")[0]) if folder else None
        if root is None and folder and below[folder] <= PIECE:
            root = folder
        if root is not None:
            roots[folder] = root
            pieces.setdefault(root, []).append(f"/{folder}")
            pieces[root] += inside.get(folder, ())
        else:
            if folder:
                first.append(folder)
            if inside.get(folder):
                pieces[f"{folder}/"] = inside[folder]
    # The largest first: the last one running decides how long it takes.
    ordered = sorted(pieces.values(), key=len, reverse=True)
    return first, ["\n".join(lines) for lines in ordered]
