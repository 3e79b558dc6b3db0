"""What keeps images alive: projects, environments, exports and fleets that use this store.

Each user of a store writes one small file into ``<store>/roots/``; collection asks every one
of them what it still uses. A root whose project or environment is gone is dropped. Who adds a
root or a tag holds the roots lock shared, a collection holds it exclusively: so nothing
becomes live while the live ones are being counted.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from images import durable
from images.errors import LockedError, WainError
from images.staging import holders
from images.stamp import NAME, Stamp, parse_stamp
from images.store import Store
from images.swap import set_aside

KINDS = ("project", "environment", "export", "fleet")


class Roots:
    """The roots of one store. ``folder`` is ``<store>/roots``."""

    def __init__(self, store: Store) -> None:
        self.folder = f"{store.root}/roots"

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Hold collection away while something becomes live. Waits for a running one."""
        with self._locked(exclusive=False):
            yield

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Nobody adds a root meanwhile. Raises LockedError when somebody is at it."""
        with self._locked(exclusive=True):
            yield

    @contextmanager
    def _locked(self, exclusive: bool) -> Iterator[None]:
        import fcntl

        path = f"{self.folder}/lock"
        try:
            os.makedirs(self.folder, 0o755, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise WainError(path, error.strerror or str(error)) from None
        try:
            if exclusive:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    who = holders(path)
                    what = f"an image or an environment is being added{': ' + who if who else ''}"
                    raise LockedError(self.folder, what, "try again when it has ended") from None
            else:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def register(self, kind: str, path: str, images: tuple[str, ...] = ()) -> None:
        """Note that *path* (a project, an environment, a name) uses this store.

        Projects and environments say themselves which images they use, for ``export`` and
        ``fleet`` the ids are in *images*. Registering again replaces what was noted. Call it
        under :meth:`adding`.
        """
        document: dict[str, object] = {"format": 1, "kind": kind, "path": path}
        if kind in ("project", "environment"):
            document["mount"] = _mount_point(path)
        if images:
            document["images"] = sorted(images)
        data = (json.dumps(document, indent=1) + "\n").encode()
        target = self._file(kind, path)
        try:
            with open(target, "rb") as stream:
                if stream.read() == data:
                    return
        except OSError:
            pass
        try:
            os.makedirs(self.folder, 0o755, exist_ok=True)
            durable.write_file(target, data, f"{target}.{os.getpid()}")
        except OSError as error:
            raise WainError(target, error.strerror or str(error)) from None

    def forget(self, kind: str, path: str) -> bool:
        """Drop a root; whether there was one."""
        try:
            os.unlink(self._file(kind, path))
        except FileNotFoundError:
            return False
        return True

    def _file(self, kind: str, path: str) -> str:
        return f"{self.folder}/{kind}-{sha256(path.encode()).hexdigest()[:24]}.json"

    def all(self) -> list[dict[str, object]]:
        """Every root's document, sorted by file name; an unreadable one is an error.

        Leaving a root out would let collection take what it uses.
        """
        found = []
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        for name in names:
            if not name.endswith(".json"):
                continue
            path = f"{self.folder}/{name}"
            try:
                with open(path, "rb") as stream:
                    document = json.loads(stream.read())
                if document["format"] != 1 or document["kind"] not in KINDS:
                    raise WainError(path, "a root of an unknown format or kind")
                found.append({**document, "path": str(document["path"])})
            except (OSError, ValueError, KeyError, TypeError) as error:
                hint = "remove the file if nothing uses it"
                raise WainError(path, f"cannot be read: {error}", hint) from None
        return found

    def live(self) -> tuple[dict[str, list[str]], set[str]]:
        """Image ids in use, each with who uses it, and the shared checkouts in use.

        Roots whose project or environment is gone are dropped; one that cannot be looked at
        (no permission, a file system that is not mounted, a damaged disk) is an error: it may
        use what would be taken. Call under :meth:`collecting`.
        """
        users: dict[str, list[str]] = {}
        checkouts: set[str] = set()
        for root in self.all():
            kind, path = str(root["kind"]), str(root["path"])
            if kind in ("environment", "project"):
                try:
                    found = _look(kind, path, str(root.get("mount", "")))
                except _Unsure as unsure:
                    where, what = unsure.args
                    hint = f"if nothing there uses this store: rm {self._file(kind, path)}"
                    raise WainError(where, f"{what}; a {kind} there may use images", hint) from None
                if found is None:
                    self.forget(kind, path)
                    continue
                ids, names = found
                checkouts |= names
            else:
                listed = root.get("images", [])
                ids = [str(one) for one in listed] if isinstance(listed, list) else []
            for image_id in dict.fromkeys(ids):
                users.setdefault(image_id, []).append(f"{kind} {path}")
        checkouts.discard("")
        return users, checkouts


class _Unsure(Exception):
    """Whether something is still there cannot be told. ``args``: where, and why."""


def _look(kind: str, path: str, mount: str) -> tuple[list[str], set[str]] | None:
    """The image ids and shared checkouts that something uses; None when it is gone."""
    # Below a mount point without its file system everything looks removed.
    if mount and not os.path.ismount(mount):
        raise _Unsure(path, f"the file system at {mount} is not mounted")
    try:
        if kind == "project":
            if not stat.S_ISDIR(os.stat(path).st_mode):
                return None
            tags = read_tags(path)
            return [one for by_target in tags.values() for one in by_target.values()], set()
        stamp = _stamp(path)
        there = [stamp] if stamp else list(filter(None, map(_stamp, set_aside(path))))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except WainError as error:
        raise _Unsure(error.where, error.what) from None
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else path
        raise _Unsure(where, f"cannot be read: {error.strerror or error}") from None
    return ([one.image for one in there], {one.checkout for one in there}) if there else None


def _stamp(environment: str) -> Stamp | None:
    """The stamp of an environment; None for none, or a folder of somebody else. Raises OSError."""
    path = f"{environment}/{NAME}"
    try:
        with open(path, "rb") as stream:
            stamp = parse_stamp(stream.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stamp is None:
        raise _Unsure(path, "is damaged, or of another release of wain")
    return stamp


def _mount_point(path: str) -> str:
    """Where the file system begins that a path is on."""
    while not os.path.ismount(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def tags_path(project: str) -> str:
    """Where a project keeps its tags."""
    return f"{project}/.wain/tags.json"


def read_tags(project: str) -> dict[str, dict[str, str]]:
    """A project's tags: tag -> target -> image id. Raises WainError for a broken file."""
    path = tags_path(project)
    try:
        with open(path, "rb") as stream:
            document = json.loads(stream.read())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise WainError(path, f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise WainError(path, f"cannot be read: {error}", "restore or remove it") from None
    try:
        if document["format"] != 1:
            what = f"format {document['format']!r:.20} found, this wain knows 1"
            raise WainError(path, what, "use the release of wain that wrote it")
        return {
            str(tag): {str(target): str(image) for target, image in by_target.items()}
            for tag, by_target in document["tags"].items()
        }
    except (KeyError, TypeError, AttributeError):
        raise WainError(path, "is not a table of tags", "restore or remove it") from None
