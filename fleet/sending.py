"""Sending what a host lacks of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fleet.errors import HostError
from fleet.pack import Pack, SpoiledError
from fleet.packing import Key
from fleet.session import Session
from fleet.wanted import Comparisons
from images.manifest import Manifest


def send_missing(
    session: Session,
    manifest: Manifest,
    images: Comparisons,
    ask: Callable[[], list[Key]],
    pieces: Callable[[Pack], Iterable[bytes]] = lambda pack: pack.pieces(),
) -> int:
    """Send what ``ask`` says is missing; how many objects the host took.

    When a pack is refused that an earlier command has kept, once more with one made now. Raises
    HostError, and ObjectError when an object of this machine is to blame.
    """
    while missing := ask():
        pack = images.packs.get(manifest, missing, session.zstd)
        try:
            return session.send_pack(pieces(pack))
        except SpoiledError as error:
            # The stream ended within: on a new line, if anybody tries again.
            if not images.packs.drop(pack):
                raise
            raise HostError(session.name, "agent-died", str(error)) from None
        except HostError as error:
            if error.kind != "object" or not images.refused(pack, missing):
                raise
    return 0
