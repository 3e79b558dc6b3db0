"""The folder a build may write to, and what is safely taken out of it afterwards.

A build can leave links, pipes and unreadable folders behind, aimed at whoever looks at them
next. Everything here opens what it left without following a link.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from images.errors import WainError

# What the build folder is called inside, so that no wheel holds a path of this machine.
INSIDE = "/build"
_PREFIX = "wain-build-"


class SandboxError(WainError):
    """The sandbox itself could not be made."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What keeps a build from the rest of this machine.

    ``level`` is "namespaces", "landlock" or "none"; ``uid`` and ``gid`` are the user the
    build runs as.
    """

    level: str
    uid: int
    gid: int

    @property
    def neutral_path(self) -> bool:
        """Whether the build folder has the same name inside on every machine."""
        return self.level == "namespaces"

    @property
    def other_user(self) -> bool:
        """Whether the build runs as another user than wain."""
        return self.uid != os.getuid()

    def describe(self) -> str:
        """One line for people and logs."""
        user = "as another user" if self.other_user else "as this user"
        if self.level == "namespaces":
            return f"own file system, processes and network (none), {user}"
        if self.level == "landlock":
            return f"file rules and no sockets (no namespaces on this machine), {user}"
        return (
            f"NOT isolated from this machine's files and network, {user}: "
            "neither namespaces nor Landlock are allowed here"
        )


class Workspace:
    """A folder for one build; ``build`` in it is all that the build can write to.

    A context manager: the folder is gone afterwards, and folders of builds that were killed
    are swept by the next one.
    """

    def __init__(self, isolation: Isolation) -> None:
        self.isolation = isolation
        _sweep()
        self._base = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        # Held before it has the name that others look for: they remove what nobody holds.
        unseen = self._base / "lock.new"
        self._lock = os.open(unseen, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unseen.rename(self._base / "lock")
        # Others may pass through, so that the build's user reaches its folder, not look.
        self._base.chmod(0o711)
        self.folder = self._base / "build"
        self.root = self._base / "root"
        self.kept = self._base / "kept"
        for folder in (self.folder, self.root, self.kept):
            folder.mkdir(mode=0o755)
        for name in ("home", "tmp", "out"):
            (self.folder / name).mkdir()

    def inside(self, *parts: str) -> str:
        """The path of something in the build folder as the build sees it."""
        base = INSIDE if self.isolation.neutral_path else str(self.folder)
        return "/".join((base, *parts))

    def hand_over(self) -> None:
        """Give the build folder to the build's user."""
        uid, gid = self.isolation.uid, self.isolation.gid
        if not self.isolation.other_user:
            return
        for base, folders, files in os.walk(self.folder):
            for name in (*folders, *files):
                os.chown(os.path.join(base, name), uid, gid, follow_symlinks=False)  # noqa: PTH118
        os.chown(self.folder, uid, gid)

    def fresh_folder(self) -> str:
        """A new empty folder for the build's user: for a /tmp that no earlier run prepared."""
        folder = tempfile.mkdtemp(dir=self._base, prefix="tmp-")
        os.chown(folder, self.isolation.uid, self.isolation.gid)
        return folder

    def take(self, folder: str, name: str, limit: int, place: Path | None = None) -> Path:
        """Copy a regular file the build left in ``build/<folder>`` to where it cannot reach.

        Links are not followed: what the build left may be aimed at this machine's files.
        Raises :class:`SandboxError`.
        """
        target = (place or self.kept) / name
        try:
            base = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=base)
            finally:
                os.close(base)
            try:
                handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inner)
            finally:
                os.close(inner)
        except OSError as error:
            raise SandboxError(ascii(name), f"cannot be taken: {error.strerror}") from None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
                raise SandboxError(
                    ascii(name), f"is no regular file of at most {limit} bytes ({status.st_size})"
                )
            with os.fdopen(handle, "rb", closefd=False) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        finally:
            os.close(handle)
        return target

    def listed(self, folder: str) -> list[str]:
        """The names in ``build/<folder>``, sorted; links are not followed."""
        try:
            base = os.open(self.folder / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return []
        try:
            return sorted(os.listdir(base))  # noqa: PTH208
        finally:
            os.close(base)

    def close(self) -> None:
        """Remove everything."""
        _remove(self._base)
        os.close(self._lock)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _remove(folder: Path) -> None:
    """Remove a workspace, also one that somebody else is removing or a build made unreadable.

    Only folders inside it get another mode: never what a link leads to, never its parent.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if folder.is_dir() and not folder.is_symlink():
        with contextlib.suppress(OSError):
            _open_up(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _open_up(folder: Path) -> None:
    folder.chmod(0o700)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _open_up(Path(entry.path))


def _sweep() -> None:
    """Remove the folders of builds whose process is gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            status = folder.lstat()
            if status.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
                continue
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            _remove(folder)
        finally:
            os.close(handle)
