"""Put a finished folder in the place of another in one step, and clean up what was cut short.

A folder is prepared beside the place it is meant for, under a name that says so. Then
``renameat2`` exchanges the two names: at every moment the place holds the old folder or the
new one, whole. Where the system has no exchange, two renames leave a gap of microseconds; a
crash inside it is repaired by whoever comes next.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256

from images.errors import WainError

_AT_FDCWD = -100
_NOREPLACE = 1
_EXCHANGE = 2
_NUMBERS = {"x86_64": 316, "aarch64": 276, "i686": 353, "armv7l": 382, "ppc64le": 357, "s390x": 347}
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


def rename_with(source: str, target: str, flags: int) -> None:
    """``renameat2`` with its flags. Raises OSError, ENOSYS where the system has none."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    names = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target))
    call = getattr(libc, "renameat2", None)
    if call is not None:
        status = call(*names, flags)
    else:
        number = _NUMBERS.get(os.uname().machine)
        if number is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), target)
        status = libc.syscall(number, *names, flags)
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def put_in_place(staged: str, place: str) -> str:
    """Let *place* be the folder *staged*; how: ``new``, ``exchanged`` or ``renamed``.

    After an exchange *staged* names the old folder, which the caller removes. Raises OSError.
    """
    if not os.path.lexists(place):
        # Nothing to keep: rename refuses by itself to replace a folder that is not empty.
        os.rename(staged, place)
        return "new"
    try:
        rename_with(staged, place, _EXCHANGE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _two_renames(staged, place)
        return "renamed"
    return "exchanged"


def _two_renames(staged: str, place: str) -> None:
    aside = f"{staged}{_ASIDE}"
    os.rename(place, aside)
    try:
        os.rename(staged, place)
    except OSError:
        os.rename(aside, place)
        raise
    os.rename(aside, staged)


_MARK = ".wain-new-"
_ASIDE = "-old"


@contextmanager
def staging(place: str) -> Iterator[str]:
    """A name beside *place* for a folder in the making; removed at the end if still there.

    The block creates the folder itself. Call it under :func:`alone` for the place: what is
    found there under such a name was left by somebody who died.
    """
    parent, name = os.path.split(place)
    clean_up(place)
    path = f"{parent}/.{name}{_MARK}{os.urandom(6).hex()}"
    try:
        yield path
    finally:
        if os.path.lexists(path):
            remove_tree(path)


@contextmanager
def alone(folder: str, place: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Only one process works on *place* while the block runs; the lock file is in *folder*.

    *on_wait* is called when another process holds it and this one waits.
    """
    import fcntl

    name = f"{folder}/{sha256(place.encode()).hexdigest()[:24]}.lock"
    try:
        os.makedirs(folder, 0o755, exist_ok=True)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise WainError(name, error.strerror or str(error)) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if on_wait:
                on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def set_aside(place: str) -> list[str]:
    """What a cut between two renames left of the folder at *place*. Raises OSError."""
    parent, name = os.path.split(place)
    found = [one for one in os.listdir(parent)
             if one.startswith(f".{name}{_MARK}") and one.endswith(_ASIDE)]  # fmt: skip
    return [f"{parent}/{one}" for one in sorted(found)]


def clean_up(place: str) -> list[str]:
    """Remove what makers that died left beside *place*; put back what a cut set aside."""
    parent, name = os.path.split(place)
    prefix = f".{name}{_MARK}"
    try:
        found = sorted(one for one in os.listdir(parent) if one.startswith(prefix))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise WainError(parent, error.strerror or str(error)) from None
    removed = []
    for one in found:
        path = f"{parent}/{one}"
        if one.endswith(_ASIDE) and not os.path.lexists(place):
            os.rename(path, place)
        elif remove_tree(path):
            removed.append(one)
    return removed


def remove_tree(path: str) -> bool:
    """Remove a folder that may have read-only parts; whether it is gone."""
    import shutil

    def loosen(function: object, name: str, _: object) -> None:
        try:
            os.chmod(os.path.dirname(name), 0o700)
            if os.path.isdir(name) and not os.path.islink(name):
                os.chmod(name, 0o700)
                shutil.rmtree(name, ignore_errors=True)
            else:
                os.unlink(name)
        except OSError:
            return

    shutil.rmtree(path, onerror=loosen)
    return not os.path.lexists(path)
