"""Decompressing zstd with the system's library, which nearly every Linux has. Travels to hosts.

Python learnt it in 3.14; the library itself comes with the package managers of Debian, Fedora
and their relatives. It takes a fifth of the time of inflating.
"""

from __future__ import annotations

import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 18  # bytes of output at a time
_WINDOW = 23  # log2 of the most memory a frame may ask for: 8 MiB
_WINDOW_PARAMETER = 100  # ZSTD_d_windowLogMax


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("position", ctypes.c_size_t),
    )


_found: list[ctypes.CDLL | None] = []


def library() -> ctypes.CDLL | None:
    """The system's libzstd of version 1.4 or newer, else None. Looked for once."""
    if not _found:
        _found.append(_library())
    return _found[0]


def _library() -> ctypes.CDLL | None:
    try:
        lib = ctypes.CDLL("libzstd.so.1")
        for name in ("ZSTD_createDCtx", "ZSTD_decompressStream", "ZSTD_DCtx_setParameter"):
            getattr(lib, name).restype = ctypes.c_size_t
        lib.ZSTD_createDCtx.restype = ctypes.c_void_p
        if lib.ZSTD_versionNumber() < 10400:
            return None
    except (OSError, AttributeError):
        return None
    return lib


class Zstd:
    """One frame, decompressed as its bytes arrive."""

    def __init__(self, lib: ctypes.CDLL) -> None:
        self._lib = lib
        self._context = ctypes.c_void_p(lib.ZSTD_createDCtx())
        if not self._context:
            raise MemoryError("no memory for zstd")
        lib.ZSTD_DCtx_setParameter(self._context, _WINDOW_PARAMETER, _WINDOW)
        self._out = ctypes.create_string_buffer(PIECE)

    def decompress(self, data: bytes, limit: int) -> Iterator[bytes]:
        """What these bytes make, cut off soon after ``limit``. Raises ValueError for no zstd."""
        # Not copied: "data" stays where it is, and is not changed, for as long as this runs.
        into = _Buffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), 0)
        total = 0
        while total <= limit:
            out = _Buffer(ctypes.addressof(self._out), PIECE, 0)
            code = self._lib.ZSTD_decompressStream(
                self._context, ctypes.byref(out), ctypes.byref(into)
            )
            if self._lib.ZSTD_isError(ctypes.c_size_t(code)):
                raise ValueError("no zstd frame")
            if out.position:
                total += out.position
                yield ctypes.string_at(self._out, out.position)
            # A full buffer may have more behind it; so may input that was not yet taken.
            if out.position < PIECE and (into.position == into.size or code == 0):
                break
        if into.position < into.size and total <= limit:
            raise ValueError("bytes behind the end of a frame")

    def __del__(self) -> None:
        self._lib.ZSTD_freeDCtx(self._context)
