"""The line between controller and agent: length-prefixed frames. Travels to hosts.

The agent's first bytes are ``MAGIC`` (a mark no login banner holds) and the protocol version.
What comes before the mark is noise of the host's shell and is skipped. Then frames, in both
directions: one byte of kind, four bytes of length (big endian), the payload.

========  ==========================================================================
``J``     a request, or the answer that ends one: JSON
``X``     the answer that ends a failed one: JSON with ``kind`` and ``what``
``P``     progress, and a sign of life: JSON
``B``     bytes that belong to the request or the answer before it, at most 1 MiB
``E``     the end of those bytes
``N``     the first stage lacks the agent: the peer sends it, bare
========  ==========================================================================

A request is ``J``, or ``J B* E`` when its JSON says ``"bytes": true``; an answer likewise, when
its JSON says ``"body": true``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROTOCOL = 1
MAGIC = b"\x00\xffWAIN"
MARK = MAGIC + bytes([PROTOCOL]) + b"\n"

CHUNK = 1 << 20  # bytes: the most one B frame holds
CONTROL = 1 << 24  # bytes: the most any other frame holds
BANNER = 1 << 16  # bytes of noise that are skipped before the mark
HEAD = 5


class FrameError(Exception):
    """The bytes are no frames; ``args[0]`` says why."""


class Closed(Exception):
    """The stream ended where a frame was expected, or within one."""


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    return kind + len(payload).to_bytes(4, "big") + payload


class Reader:
    """Frames out of a stream. ``source(n)`` returns up to n bytes, and b"" at the end."""

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source
        self._buffer = bytearray()
        self._left = 0  # bytes of a B frame that body() has still to give
        self.received = 0

    def fill(self) -> bool:
        """Take what one read gives; False at the end of the stream."""
        data = self._source(1 << 18)
        self.received += len(data)
        self._buffer += data
        return bool(data)

    def mark(self) -> bytes:
        """Skip to the mark and behind it; the noise before it.

        Raises Closed with the noise as its argument when the stream ends first, FrameError
        when there is too much noise or the mark names another protocol.
        """
        while True:
            at = self._buffer.find(MAGIC)
            if at >= 0 and len(self._buffer) >= at + len(MARK):
                break
            if at < 0 and len(self._buffer) > BANNER:
                raise FrameError(f"no mark of the agent in the first {BANNER} bytes")
            if not self.fill():
                raise Closed(bytes(self._buffer))
        noise, mark = bytes(self._buffer[:at]), bytes(self._buffer[at : at + len(MARK)])
        del self._buffer[: at + len(MARK)]
        if mark != MARK:
            raise FrameError(f"protocol {mark[-2]} found, this wain speaks protocol {PROTOCOL}")
        return noise

    def next(self) -> tuple[bytes, bytes]:
        """The next frame, as kind and payload. Raises Closed at the end of the stream."""
        kind, size = self._head()
        return kind, self._take(size)

    def body(self) -> Iterator[bytes]:
        """What the B frames up to the next E hold, in pieces as they arrive.

        Not frame by frame: when the line breaks within one, what came of it has been given.
        May be left and called again. Raises Closed, FrameError.
        """
        while True:
            while self._left:
                if self._buffer:
                    piece = bytes(self._buffer[: self._left])
                    del self._buffer[: len(piece)]
                else:
                    piece = self._piece()
                self._left -= len(piece)
                yield piece
            kind, size = self._head()
            if kind == b"E":
                self._take(size)
                return
            if kind != b"B":
                raise FrameError("expected bytes or their end")
            self._left = size

    def _piece(self) -> bytes:
        """What one read gives of a frame, which is not copied where the frame goes on."""
        data = self._source(1 << 18)
        if not data:
            raise Closed(b"")
        self.received += len(data)
        self._buffer += data[self._left :]
        return data[: self._left]

    def _head(self) -> tuple[bytes, int]:
        head = self._take(HEAD)
        kind, size = head[:1], int.from_bytes(head[1:], "big")
        limit = CHUNK if kind == b"B" else CONTROL
        if kind not in (b"J", b"X", b"P", b"B", b"E", b"N") or size > limit:
            raise FrameError(f"expected a frame, found {bytes(head)!r}")
        return kind, size

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self.fill():
                raise Closed(b"")
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
