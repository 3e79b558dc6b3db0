"""The store: objects named by their sha256, manifests named by theirs. Travels to hosts.

Write order, so that a cut at any moment leaves a store that is whole:

1. Objects are written to a folder of their own below ``tmp/``, each with its final mode and
   the one fixed time; one barrier makes them last.
2. They are renamed into ``objects/``, and the names are made to last.
3. Only then a manifest that needs them is written, in the same way.

An object whose size, mode or time is not what was written was changed in place, through a
hard link: it is *suspect*, counts as missing, and a new copy replaces it.
"""

from __future__ import annotations

import os
import stat
import zlib
from contextlib import contextmanager
from hashlib import sha256 as _sha256

from images import durable, hashing
from images.batch import Batch
from images.errors import LockedError
from images.layout import (
    CHANGED,
    EXECUTABLE_MODE,
    FILE_MODE,
    FIXED_MTIME,
    FIXED_NS,
    ObjectError,
    StoreError,
    SuspectError,
    failed,
    is_sound,
    object_name,
)
from images.manifest import Manifest
from images.parallel import parallel
from images.staging import clean_staging, holders, names, staging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import NamedTuple

    from images.manifest import Key

    Progress = Callable[[str, int, int], None]

    class Bad(NamedTuple):
        """An object that is not what its name says; what: missing, content, mode, time."""

        key: Key
        what: str
        path: str

    class Freed(NamedTuple):
        """What a collection removed; size in bytes."""

        objects: int
        size: int
        manifests: int
else:
    from collections import namedtuple

    Bad = namedtuple("Bad", "key what path")
    Freed = namedtuple("Freed", "objects size manifests")

__all__ = [
    "FIXED_MTIME",
    "Bad",
    "Batch",
    "Freed",
    "ObjectError",
    "Store",
    "StoreError",
    "SuspectError",
]

FORMAT = b"wain-store 1\n"
MAX_MANIFEST = 256 << 20  # bytes, unpacked
_HEX = frozenset("0123456789abcdef")


class Store:
    """One user's objects and manifests below a root folder, made when it is missing.

    Raises StoreError for a folder of another format. Processes share a store: writers hold a
    shared lock, a collection an exclusive one.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.objects = os.path.join(self.root, "objects")
        self.manifest_folder = os.path.join(self.root, "manifests")
        self.tmp = os.path.join(self.root, "tmp")
        # Not "lock": on a host the root is shared with the agent, whose own lock that is.
        self._lock = os.path.join(self.root, "store.lock")
        self._prepare()

    def _prepare(self) -> None:
        marker = os.path.join(self.root, "format")
        try:
            with open(marker, "rb") as file:
                found = file.read(100)
        except FileNotFoundError:
            found = None
        except OSError as error:
            raise failed(marker, error) from None
        if found == FORMAT:
            return
        if found is not None:
            raise StoreError(
                marker,
                f"found {found.decode('latin-1').strip()!a}, "
                f"this wain reads '{FORMAT.decode().strip()}'",
                "use the release of wain that wrote it, or another WAIN_STORE",
            )
        try:
            for folder, length in ((self.objects, 2), (self.manifest_folder, 64), (self.tmp, 16)):
                # Never take somebody's folder for ours: what is not known is removed from it.
                for name in names(folder):
                    if len(name) != length or not _HEX.issuperset(name):
                        what = f"this is no store, and '{folder}' holds other things ({name!a:.60})"
                        raise StoreError(self.root, what, "name a new folder")
            for folder in (self.root, self.objects, self.manifest_folder, self.tmp):
                os.makedirs(folder, 0o755, exist_ok=True)
            with staging(self.tmp) as (folder, _):
                durable.write_file(marker, FORMAT, f"{folder}/format")
        except OSError as error:
            raise failed(error.filename or self.root, error) from None

    # Objects

    def object_path(self, sha256: str, executable: bool = False) -> str:
        """Where an object is, or would be."""
        return f"{self.objects}/{object_name(sha256, executable)}"

    def with_objects_in(self, folder: str) -> Store:
        """This store as it will be once the objects staged in a folder have their names."""
        import copy

        found = copy.copy(self)
        found.objects = folder
        return found

    def is_present(self, key: Key, size: int | None = None) -> bool:
        """Whether an object is there and looks as it was written."""
        try:
            return is_sound(os.lstat(self.object_path(*key)), key[1], size)
        except OSError:
            return False

    def missing(self, keys: Iterable[Key] | Mapping[Key, int]) -> list[Key]:
        """Those that are not there, or do not look as they were written.

        With a mapping to sizes, as Manifest.objects() gives it, the size counts as well.
        """
        sizes = keys if hasattr(keys, "get") else {}
        there = set(self._names(self.objects))
        return [
            key
            for key in keys
            if key[0][:2] not in there or not self.is_present(key, sizes.get(key))
        ]

    def read(self, sha256: str, executable: bool = False) -> bytes:
        """An object's bytes, checked against its name. Raises ObjectError."""
        path = self.object_path(sha256, executable)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = _all(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            what = error.strerror or "cannot be read"
            raise ObjectError((sha256, executable), path, what) from None
        if _sha256(data).hexdigest() != sha256:
            raise ObjectError((sha256, executable), path, CHANGED)
        return data

    def keys(self) -> Iterator[Key]:
        """Every object there is."""
        for prefix in sorted(self._names(self.objects)):
            if len(prefix) == 2 and _HEX.issuperset(prefix):
                for name in sorted(self._names(f"{self.objects}/{prefix}")):
                    plain = name[:-2] if name.endswith(".x") else name
                    if len(plain) == 62 and _HEX.issuperset(plain):
                        yield prefix + plain, plain is not name

    def verify(
        self, keys: Iterable[Key] | None = None, on_progress: Progress | None = None
    ) -> list[Bad]:
        """Hash objects again, all of them or these, on all cores. Changes nothing."""
        wanted = list(self.keys() if keys is None else keys)

        def report(done: int) -> None:
            if on_progress:
                on_progress("Verifying objects", done, len(wanted))

        found = parallel(self._check, wanted, report)
        report(len(wanted))
        return [bad for bad in found if bad]

    def _check(self, key: Key) -> Bad | None:
        path = self.object_path(*key)
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                return Bad(key, "content", path)
            if hashing.hash_file(path)[0] != key[0]:
                return Bad(key, "content", path)
            status = os.lstat(path)
        except FileNotFoundError:
            return Bad(key, "missing", path)
        except OSError as error:
            return Bad(key, f"unreadable: {error.strerror}", path)
        if stat.S_IMODE(status.st_mode) != (EXECUTABLE_MODE if key[1] else FILE_MODE):
            return Bad(key, "mode", path)
        if status.st_uid not in (0, os.lstat(self.objects).st_uid):
            return Bad(key, "owner", path)
        return Bad(key, "time", path) if status.st_mtime_ns != FIXED_NS else None

    def heal(self, keys: Iterable[Key]) -> list[Bad]:
        """Replace objects whose bytes are right but whose mode, owner or time was changed.

        A fresh copy is renamed over the old one: whoever changed that through a hard link
        still holds it. Returns those that stay bad: missing, unreadable, or of other bytes.
        """
        bad = self.verify(keys)
        intact = [one for one in bad if one.what in ("mode", "owner", "time")]
        if intact:
            with self.batch() as batch:
                for one in intact:
                    batch.put_known(one.key, self.read(*one.key))
        return [one for one in bad if one.what not in ("mode", "owner", "time")]

    def remove_bad(self, bad: Iterable[Bad]) -> None:
        """Remove objects found bad, so that they count as missing. Raises StoreError."""
        with self.writing():
            for one in bad:
                try:
                    os.unlink(one.path)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise failed(one.path, error) from None

    # Manifests

    def put_manifest(self, manifest: bytes | Manifest, packed: bytes | None = None) -> str:
        """Keep a manifest and return its image id. Publish its objects first.

        ``packed``: its canonical bytes as zlib, if somebody has them already.
        Raises ManifestError when it is none, StoreError when it cannot be written.
        """
        if isinstance(manifest, bytes):
            manifest = Manifest.parse(manifest)
        image_id = manifest.image_id
        path = f"{self.manifest_folder}/{image_id}"
        with self.writing():
            try:
                with staging(self.tmp) as (folder, _):
                    packed = packed or zlib.compress(manifest.to_bytes(), 3)
                    durable.write_file(path, packed, f"{folder}/manifest", FILE_MODE)
            except OSError as error:
                raise failed(path, error) from None
        return image_id

    def manifest_bytes(self, image_id: str) -> bytes:
        """A manifest's canonical bytes, checked against its id. Raises StoreError."""
        path = f"{self.manifest_folder}/{image_id}"
        try:
            with open(path, "rb") as file:
                packed = file.read(MAX_MANIFEST)
            data = zlib.decompressobj().decompress(packed, MAX_MANIFEST)
        except FileNotFoundError:
            raise StoreError(self.root, f"no image {ascii(image_id[:12])[1:-1]}") from None
        except OSError as error:
            raise failed(path, error) from None
        except zlib.error:
            data = b""
        if _sha256(data).hexdigest() != image_id:
            raise StoreError(path, "the manifest's bytes were changed", "build or fetch it again")
        return data

    def manifest_size(self, image_id: str) -> int:
        """How many bytes a manifest takes here, packed; none where `manifest_bytes` has none."""
        try:
            return os.stat(f"{self.manifest_folder}/{image_id}").st_size
        except OSError:
            return 0

    def manifest(self, image_id: str) -> Manifest:
        """A manifest that was kept. Raises StoreError."""
        return Manifest.parse(self.manifest_bytes(image_id), f"manifest {image_id[:12]}")

    def manifests(self) -> list[str]:
        """The ids of all images, sorted."""
        found = self._names(self.manifest_folder)
        return sorted(name for name in found if len(name) == 64 and _HEX.issuperset(name))

    def _names(self, folder: str) -> list[str]:
        try:
            return names(folder)
        except OSError as error:
            raise failed(folder, error) from None

    def resolve_id(self, prefix: str) -> str:
        """The one image id that begins so. Raises StoreError for none or several."""
        found = [image_id for image_id in self.manifests() if image_id.startswith(prefix)]
        if len(found) != 1:
            what = "several images begin" if found else "no image begins"
            raise StoreError(self.root, f"{what} with {prefix[:64]!a}")
        return found[0]

    # Writing and collecting

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep collection away for the length of the block. Nests; processes share it.

        Waits while a collection runs. Raises StoreError.
        """
        import fcntl

        descriptor = self._open_lock()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            except OSError as error:
                raise failed(self._lock, error) from None
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        try:
            return os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise failed(self._lock, error) from None

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Collect objects and publish them together when the block ends without an error.

        After an error in the block, or when their bytes cannot be made to last, none of them
        is in the store but what the block itself published before. Raises StoreError.
        """
        with self.writing():
            area = staging(self.tmp)
            try:
                folder, descriptor = area.__enter__()
            except OSError as error:
                raise failed(self.tmp, error) from None
            try:
                batch = Batch(self, folder, descriptor)
                yield batch
                batch.publish()
            finally:
                area.__exit__(None, None, None)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every writer away for the length of the block. Raises LockedError at once."""
        import fcntl

        descriptor = self._open_lock()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                who = holders(self._lock) or "another process"
                raise LockedError(self.root, f"the store is used by {who}") from None
            except OSError as error:
                raise failed(self._lock, error) from None
            yield
        finally:
            os.close(descriptor)

    def collect(
        self,
        live_keys: Iterable[Key],
        live_ids: Iterable[str],
        then: Callable[[], None] | None = None,
    ) -> Freed:
        """Remove every object and manifest that is not named, under the exclusive lock.

        Raises LockedError while somebody writes. The arguments may be generators: they are
        read after the lock is held, so that what they look up cannot change any more. *then*
        runs before the lock is freed, for what else only the removed ones needed.
        """
        with self.exclusive():
            keep, ids = set(live_keys), set(live_ids)
            try:
                freed = self._remove(keep, ids)
                if then:
                    then()
                return freed
            except OSError as error:
                raise failed(error.filename or self.root, error) from None

    def _remove(self, keep: set[Key], ids: set[str]) -> Freed:
        clean_staging(self.tmp)
        gone = [image_id for image_id in self.manifests() if image_id not in ids]
        # Manifests first: after a cut there is no manifest whose objects are gone.
        for image_id in gone:
            os.unlink(f"{self.manifest_folder}/{image_id}")
        if gone:
            durable.sync_folder(self.manifest_folder)
        count = size = 0
        for key in list(self.keys()):
            if key not in keep:
                path = self.object_path(*key)
                size += os.lstat(path).st_size
                os.unlink(path)
                count += 1
        return Freed(count, size, len(gone))


def _all(descriptor: int) -> bytes:
    """A file to its end; nearly always with one read."""
    size = os.fstat(descriptor).st_size
    data = os.read(descriptor, size + 1)
    if len(data) == size:
        return data
    parts = [data]
    while data:
        data = os.read(descriptor, hashing.BLOCK)
        parts.append(data)
    return b"".join(parts)
