"""Hashing files. Travels to hosts."""

from __future__ import annotations

import os
from hashlib import sha256

BLOCK = 1 << 18


def hash_descriptor(descriptor: int) -> tuple[str, int]:
    """The sha256 (hex) and the size in bytes of the rest of an open file. Raises OSError."""
    block = os.read(descriptor, BLOCK)
    digest = sha256(block)
    size = len(block)
    while block:
        block = os.read(descriptor, BLOCK)
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def hash_file(path: str) -> tuple[str, int]:
    """The sha256 (hex) and the size of a file, never through a symlink. Raises OSError."""
    # Without O_NONBLOCK, a pipe planted in the place of a file would hold us for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags)
    try:
        return hash_descriptor(descriptor)
    finally:
        os.close(descriptor)
