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
from images.errors import LockedError, WainError
from images.manifest import Manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import NamedTuple, Protocol

    Key = tuple[str, bool]
    Progress = Callable[[str, int, int], None]

    class Readable(Protocol):
        """What object bytes are read from."""

        def read(self, size: int, /) -> bytes:
            """Up to ``size`` bytes; none at the end."""

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

FORMAT = b"wain-store 1\n"
# 1980-01-02 00:00 UTC, seconds. Every object has it, so any write in place shows. After 1980
# in every time zone: a zip file cannot hold an earlier time.
FIXED_MTIME = 315_619_200
FIXED_NS = FIXED_MTIME * 1_000_000_000
FILE_MODE = 0o444
EXECUTABLE_MODE = 0o555
MAX_MANIFEST = 256 << 20  # bytes, unpacked

_HEX = frozenset("0123456789abcdef")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class StoreError(WainError):
    """A store that cannot be used, or a write to it that failed."""


class ObjectError(StoreError):
    """An object that is missing or not what its name says. ``key`` names it."""

    def __init__(self, key: Key, path: str, what: str, hint: str = "") -> None:
        self.key = key
        super().__init__(path, what, hint or "wain store verify --repair")


def is_sound(status: os.stat_result, executable: bool, size: int | None = None) -> bool:
    """Whether an object's stat is still what the store wrote."""
    mode = EXECUTABLE_MODE if executable else FILE_MODE
    return (
        status.st_mode == stat.S_IFREG | mode
        and status.st_mtime_ns == FIXED_NS
        and (size is None or status.st_size == size)
    )


def _failed(path: str, error: OSError) -> StoreError:
    return StoreError(path, error.strerror or str(error))


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
        self._lock = os.path.join(self.root, "store.lock")
        self._prepare()

    def _prepare(self) -> None:
        marker = os.path.join(self.root, "format")
        try:
            with open(marker, "rb") as file:
                found = file.read(100)
        except FileNotFoundError:
            found = b""
        except OSError as error:
            raise _failed(marker, error) from None
        if found and found != FORMAT:
            raise StoreError(
                marker,
                f"store format {ascii(found.decode('latin-1').strip())[1:-1]} found, "
                f"expected {FORMAT.decode().strip()}",
                "use the release of wain that wrote it, or another WAIN_STORE",
            )
        if found:
            return
        try:
            for folder in (self.root, self.objects, self.manifest_folder, self.tmp):
                os.makedirs(folder, 0o755, exist_ok=True)
            durable.write_file(marker, FORMAT, f"{marker}.{os.urandom(6).hex()}")
        except OSError as error:
            raise _failed(error.filename or self.root, error) from None

    # Objects

    def object_path(self, sha256: str, executable: bool = False) -> str:
        """Where an object is, or would be."""
        name = f"{self.objects}/{sha256[:2]}/{sha256[2:]}"
        return name + ".x" if executable else name

    def is_present(self, key: Key, size: int | None = None) -> bool:
        """Whether an object is there and looks as it was written."""
        try:
            status = os.lstat(self.object_path(*key))
        except OSError:
            return False
        return is_sound(status, key[1], size)

    def missing(self, keys: Iterable[Key] | Mapping[Key, int]) -> list[Key]:
        """Those that are not there, or do not look as they were written.

        With a mapping to sizes, as Manifest.objects() gives it, the size counts as well.
        """
        sizes = keys if hasattr(keys, "get") else {}
        return [key for key in keys if not self.is_present(key, sizes.get(key))]

    def read(self, sha256: str, executable: bool = False) -> bytes:
        """An object's bytes, checked against its name. Raises ObjectError."""
        path = self.object_path(sha256, executable)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise ObjectError((sha256, executable), path, error.strerror or "?") from None
        if _sha256(data).hexdigest() != sha256:
            raise ObjectError((sha256, executable), path, "the object's bytes were changed")
        return data

    def keys(self) -> Iterator[Key]:
        """Every object there is."""
        for prefix in sorted(_names(self.objects)):
            if len(prefix) == 2 and _HEX.issuperset(prefix):
                for name in sorted(_names(f"{self.objects}/{prefix}")):
                    plain = name[:-2] if name.endswith(".x") else name
                    if len(plain) == 62 and _HEX.issuperset(plain):
                        yield prefix + plain, plain is not name

    def verify(
        self,
        keys: Iterable[Key] | None = None,
        on_progress: Progress | None = None,
    ) -> list[Bad]:
        """Hash objects again, all of them or these, on all cores."""
        wanted = list(self.keys() if keys is None else keys)

        def report(done: int) -> None:
            if on_progress:
                on_progress("Verifying objects", done, len(wanted))

        found = hashing.parallel(self._check, wanted, report)
        report(len(wanted))
        return [bad for bad in found if bad]

    def _check(self, key: Key) -> Bad | None:
        path = self.object_path(*key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return Bad(key, "missing", path)
        except OSError as error:
            return Bad(key, error.strerror or "unreadable", path)
        try:
            if hashing.hash_descriptor(descriptor)[0] != key[0]:
                return Bad(key, "content", path)
            status = os.fstat(descriptor)
        except OSError as error:
            return Bad(key, error.strerror or "unreadable", path)
        finally:
            os.close(descriptor)
        if stat.S_IMODE(status.st_mode) != (EXECUTABLE_MODE if key[1] else FILE_MODE):
            return Bad(key, "mode", path)
        if status.st_mtime_ns != FIXED_NS:
            return Bad(key, "time", path)
        return None

    def heal(self, keys: Iterable[Key]) -> list[Bad]:
        """Replace objects whose bytes are right but whose mode or time was changed.

        A fresh copy is renamed over the old one: whoever changed that through a hard link
        still holds it. Returns those that stay bad: missing, or with other bytes.
        """
        bad = self.verify(keys)
        intact = [one for one in bad if one.what in ("mode", "time")]
        if intact:
            with self.batch() as batch:
                for one in intact:
                    batch.put(self.read(*one.key), one.key[1])
        return [one for one in bad if one.what not in ("mode", "time")]

    def remove_bad(self, bad: Iterable[Bad]) -> None:
        """Remove objects found bad, so that they count as missing."""
        with self.writing():
            for one in bad:
                try:
                    os.unlink(one.path)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise _failed(one.path, error) from None

    # Manifests

    def put_manifest(self, data: bytes) -> str:
        """Keep a manifest and return its image id. Publish its objects first.

        Raises ManifestError when it is none, StoreError when it cannot be written.
        """
        image_id = Manifest.parse(data).image_id
        path = f"{self.manifest_folder}/{image_id}"
        with self.writing(), _staging(self.tmp) as (folder, _):
            try:
                durable.write_file(path, zlib.compress(data, 6), f"{folder}/manifest", 0o444)
            except OSError as error:
                raise _failed(path, error) from None
        return image_id

    def manifest_bytes(self, image_id: str) -> bytes:
        """A manifest's canonical bytes, checked against its id. Raises StoreError."""
        path = f"{self.manifest_folder}/{image_id}"
        try:
            with open(path, "rb") as file:
                packed = file.read(MAX_MANIFEST)
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(packed, MAX_MANIFEST)
        except FileNotFoundError:
            raise StoreError(self.root, f"no image {image_id[:12]}") from None
        except OSError as error:
            raise _failed(path, error) from None
        except zlib.error:
            data = b""
        if _sha256(data).hexdigest() != image_id:
            raise StoreError(path, "the manifest was changed", "wain store verify --repair")
        return data

    def manifest(self, image_id: str) -> Manifest:
        """A manifest that was kept. Raises StoreError."""
        return Manifest.parse(self.manifest_bytes(image_id), f"manifest {image_id[:12]}")

    def manifests(self) -> list[str]:
        """The ids of all images, sorted."""
        return sorted(
            name for name in _names(self.manifest_folder)
            if len(name) == 64 and _HEX.issuperset(name)
        )  # fmt: skip

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
        """Keep collection away. Nests, and several processes may hold it."""
        import fcntl

        descriptor = self._open_lock()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        try:
            return os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _failed(self._lock, error) from None

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Collect objects and publish them together when the block ends without an error."""
        with self.writing(), _staging(self.tmp) as (folder, descriptor):
            batch = Batch(self, folder, descriptor)
            yield batch
            batch.publish()

    def collect(self, live_keys: Iterable[Key], live_ids: Iterable[str]) -> Freed:
        """Remove every object and manifest that is not named. Raises LockedError.

        The caller has found the live ones while nobody could add any: it holds whatever
        guards its own roots, and this holds the store's exclusive lock while it removes.
        """
        import fcntl

        keep, ids = set(live_keys), set(live_ids)
        descriptor = self._open_lock()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise LockedError(self.root, "another process is using the store") from None
            return self._remove(keep, ids)
        except OSError as error:
            raise _failed(error.filename or self.root, error) from None
        finally:
            os.close(descriptor)

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


class Batch:
    """Objects on their way into the store: nothing of them is visible before publish()."""

    def __init__(self, store: Store, folder: str, descriptor: int) -> None:
        self._store = store
        self._folder = folder
        self._descriptor = descriptor
        self._staged: dict[Key, str] = {}
        self._count = 0

    def put(self, data: bytes, executable: bool = False) -> tuple[str, int]:
        """Add an object; returns its sha256 and size. Raises StoreError."""
        sha256 = _sha256(data).hexdigest()
        key = (sha256, executable)
        if key not in self._staged and not self._store.is_present(key, len(data)):
            name = self._create(executable, lambda fd: durable.write_all(fd, data))
            self._keep(key, name)
        return sha256, len(data)

    def put_file(
        self,
        file: Readable,
        executable: bool = False,
        sha256: str | None = None,
        size: int | None = None,
    ) -> tuple[str, int]:
        """Add an object from a stream, hashed as it is written; returns sha256 and size.

        Reads ``size`` bytes, or to the end when it is None. Raises ObjectError when the bytes
        are not the ones announced; then nothing of them is kept.
        """
        digest = _sha256()
        left = -1 if size is None else size

        def copy(descriptor: int) -> None:
            nonlocal left
            while left:
                block = file.read(hashing.BLOCK if left < 0 else min(left, hashing.BLOCK))
                if not block:
                    break
                digest.update(block)
                durable.write_all(descriptor, block)
                copied[0] += len(block)
                if left > 0:
                    left -= len(block)

        copied = [0]
        name = self._create(executable, copy)
        found = digest.hexdigest()
        if left > 0 or (sha256 is not None and found != sha256):
            durable.discard(name)
            wanted = (sha256 or found, executable)
            what = "the stream ended too early" if left > 0 else f"received bytes of {found}"
            raise ObjectError(wanted, self._store.object_path(*wanted), what, "send it again")
        key = (found, executable)
        if key in self._staged or self._store.is_present(key, copied[0]):
            durable.discard(name)
        else:
            self._keep(key, name)
        return found, copied[0]

    def _create(self, executable: bool, fill: Callable[[int], None]) -> str:
        self._count += 1
        name = f"{self._folder}/{self._count}-{os.urandom(4).hex()}"
        try:
            descriptor = os.open(name, _CREATE, 0o600)
            try:
                fill(descriptor)
                os.fchmod(descriptor, EXECUTABLE_MODE if executable else FILE_MODE)
                os.utime(descriptor, ns=(FIXED_NS, FIXED_NS))
            finally:
                os.close(descriptor)
        except OSError as error:
            durable.discard(name)
            raise _failed(self._store.objects, error) from None
        return name

    def _keep(self, key: Key, name: str) -> None:
        if self._staged.setdefault(key, name) is not name:
            durable.discard(name)

    def publish(self) -> None:
        """Barrier, renames, barrier. Raises StoreError; what was not renamed is discarded."""
        if not self._staged:
            return
        objects = self._store.objects
        try:
            self._barrier(list(self._staged.values()), durable.sync_file)
            touched = set()
            for key, name in self._staged.items():
                path = self._store.object_path(*key)
                try:
                    os.rename(name, path)
                except FileNotFoundError:
                    os.mkdir(os.path.dirname(path), 0o755)
                    os.rename(name, path)
                    touched.add(objects)
                touched.add(os.path.dirname(path))
            self._barrier(sorted(touched), durable.sync_folder)
        except OSError as error:
            raise _failed(objects, error) from None
        self._staged.clear()

    def _barrier(self, paths: list[str], each: Callable[[str], None]) -> None:
        if len(paths) > durable.FEW and durable.sync_filesystem(self._descriptor):
            return
        for path in paths:
            each(path)


@contextmanager
def _staging(tmp: str) -> Iterator[tuple[str, int]]:
    """A fresh folder below tmp/ that lives as long as the block; yields path and descriptor.

    Its holder keeps a lock on the folder itself. What a dead process left is not locked, and
    is removed by whoever comes next.
    """
    import fcntl

    clean_staging(tmp)
    try:
        while True:
            folder = f"{tmp}/{os.urandom(8).hex()}"
            os.mkdir(folder, 0o700)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Somebody who cleaned up may have been faster than the lock.
            if os.path.isdir(folder):
                break
            os.close(descriptor)
    except OSError as error:
        raise _failed(tmp, error) from None
    try:
        yield folder, descriptor
    finally:
        _remove_folder(folder)
        os.close(descriptor)


def clean_staging(tmp: str) -> None:
    """Remove the staging folders whose process is gone."""
    import fcntl

    for name in _names(tmp):
        folder = f"{tmp}/{name}"
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_folder(folder)
        except OSError:
            continue
        finally:
            os.close(descriptor)


def _remove_folder(folder: str) -> None:
    for name in _names(folder):
        durable.discard(f"{folder}/{name}")
    try:
        os.rmdir(folder)
    except OSError:
        return


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
