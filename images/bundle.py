"""One file that carries an image to where there is no network.

A gzip-compressed tar, so any tool can look into it. Members, in this order: ``wain-bundle``
(JSON: format, image id, name, target, tag, since), ``manifest``, ``image.json``,
``signatures/<fleet>.json``, then ``objects/<sha256>[.x]`` sorted. With ``since``, only objects
that the other image does not have. The bytes depend on the image alone, not on time or user.

Nothing is unpacked by the names in it: the manifest is checked first, then exactly its
objects are taken, each by its size and its hash. What is cut short or altered leaves nothing.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, NamedTuple

from images import claims, durable
from images.catalog import Catalog, ImageDocument, check_tag
from images.errors import WainError
from images.layout import ObjectError
from images.manifest import Manifest
from images.signature import put_signature, read_signatures, stored_statement

if TYPE_CHECKING:
    from images.manifest import Key

Progress = Callable[[str, int, int], None]
_HEADER = "wain-bundle"
_MAX_SMALL = 64 << 20  # bytes of any member that is not an object
_MAX_SIGNATURES = 64
# Members that describe the next one; their bytes are read at once.
_HEADERS = frozenset(b"xgXLK"[i : i + 1] for i in range(5))
_MAX_HEADER = 1 << 20
_LEVEL = 1  # more costs minutes on a large image and saves a few per cent


class Bundle(NamedTuple):
    """What a bundle holds; ``objects`` and ``size`` (bytes, unpacked) count what it carries."""

    image: str
    name: str
    tag: str
    since: str
    objects: int
    size: int


class BundleError(WainError):
    """A file that is no bundle, is damaged, or does not fit here."""


def export_image(
    catalog: Catalog,
    image_id: str,
    path: str,
    *,
    since: str = "",
    tag: str = "",
    on_progress: Progress | None = None,
) -> Bundle:
    """Write an image to *path*, in one step; *since* is the id of an image the reader has.

    Raises WainError; a file that was there before is replaced only by a whole one.
    """
    store = catalog.store
    manifest, document = store.manifest(image_id), catalog.document(image_id)
    objects = manifest.objects()
    if since:
        for key in store.manifest(since).objects():
            objects.pop(key, None)
    header = {
        "format": 1,
        "image": image_id,
        "name": document.name,
        "target": document.target.name,
        "tag": tag,
        "since": since,
        "objects": len(objects),
    }
    folder, name = os.path.split(os.path.abspath(path))
    temporary = f"{folder}/.{name}.{os.urandom(6).hex()}"
    with store.writing():
        try:
            with open(temporary, "xb") as raw:
                with (
                    gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed,
                    tarfile.open(mode="w|", fileobj=packed, format=tarfile.PAX_FORMAT) as tar,
                ):
                    _add(tar, _HEADER, json.dumps(header, indent=1).encode())
                    _add(tar, "manifest", manifest.to_bytes())
                    _add(tar, "image.json", json.dumps(document.to_json(), indent=1).encode())
                    for fleet, data in read_signatures(store, image_id).items():
                        _add(tar, f"signatures/{fleet}.json", data)
                    for done, key in enumerate(objects):
                        _add(tar, _object_name(key), store.read(*key))
                        if on_progress and done % 64 == 0:
                            on_progress("Exporting", done, len(objects))
                raw.flush()
                os.fsync(raw.fileno())
            os.rename(temporary, path)
            durable.sync_folder(folder)
        except OSError as error:
            raise WainError(path, error.strerror or str(error)) from None
        finally:
            durable.discard(temporary)
    with catalog.roots.adding():
        catalog.roots.register("export", f"{document.name} {image_id}", (image_id,))
    return Bundle(image_id, document.name, tag, since, len(objects), sum(objects.values()))


def _object_name(key: Key) -> str:
    return f"objects/{key[0]}{'.x' if key[1] else ''}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))


class _Bounded(tarfile.TarInfo):
    """A tar member whose extended headers, which are read into memory, are short."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        special = self.type in _HEADERS
        if special and self.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes (endless data)")
        done: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return done


def import_image(
    catalog: Catalog, path: str, *, tag: str = "", on_progress: Progress | None = None
) -> Bundle:
    """Read a bundle into the store and tag it (*tag*, else the bundle's, else ``latest``).

    Raises BundleError naming what is wrong with the file; then nothing was added.
    """
    try:
        # One lock from the first object to the tag: no collection comes between.
        with (
            catalog.store.writing(),
            open(path, "rb") as raw,
            gzip.GzipFile(fileobj=raw) as packed,
        ):
            with tarfile.open(mode="r|", fileobj=packed, tarinfo=_Bounded) as tar:
                done = _read(catalog, path, tar, tag, on_progress)
            if packed.read(1):
                raise BundleError(path, "has data after its end")
            return done()
    except RecursionError:
        raise BundleError(path, "is damaged: JSON nested without an end") from None
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise BundleError(path, f"is damaged or no bundle: {error or 'cut short'}") from None
    except ObjectError as error:
        raise BundleError(path, f"is damaged: object {error.key[0][:16]}: {error.what}") from None
    except OSError as error:
        raise BundleError(path, error.strerror or str(error)) from None


def _read(
    catalog: Catalog, path: str, tar: tarfile.TarFile, tag: str, on_progress: Progress | None
) -> Callable[[], Bundle]:
    store = catalog.store
    members = iter(tar)
    header = _header(path, _small(path, tar, members, _HEADER))
    image_id, since = header["image"], header["since"]
    manifest = Manifest.parse(_small(path, tar, members, "manifest"), f"{path}: manifest")
    if manifest.image_id != image_id:
        what = f"says image {image_id[:12]!a}, its manifest is {manifest.image_id[:12]}"
        raise BundleError(path, what)
    document = ImageDocument.from_json(
        json.loads(_small(path, tar, members, "image.json")), f"{path}: image.json"
    )
    if document.id != image_id:
        raise BundleError(path, f"its document is of image {document.id[:12]!a}")
    problem = claims.shape_problem(document, manifest)
    if problem:
        raise BundleError(path, f"its document is not of its files: {problem}")
    check_tag(tag or header["tag"] or "latest")
    expected = manifest.objects()
    absent = store.missing(expected)
    free = os.statvfs(store.objects)
    needed = sum(expected[key] for key in absent)
    if needed > free.f_bavail * free.f_frsize:
        what = f"unpacks to {needed} bytes, {free.f_bavail * free.f_frsize} are free"
        raise BundleError(path, what, store.root)
    got: set[Key] = set()
    signatures: list[bytes] = []
    with store.batch() as batch:
        for member in members:
            name = member.name
            if name.startswith("signatures/"):
                signatures.append(_bytes(path, tar, member))
                stored_statement(signatures[-1], image_id)
                if len(signatures) > _MAX_SIGNATURES:
                    raise BundleError(path, f"has more than {_MAX_SIGNATURES} signatures")
                continue
            key = (name[8:72], name.endswith(".x"))
            if not member.isfile() or name != _object_name(key) or key not in expected:
                raise BundleError(path, f"has {name[:100]!a}, which the image does not")
            if key in got or member.size != expected[key]:
                raise BundleError(path, f"has {name[:100]!a} twice or with another size")
            stream = tar.extractfile(member)
            if stream is None:
                raise BundleError(path, f"{name[:100]!a} cannot be read")
            batch.put_file(stream, key[1], key[0], member.size)
            got.add(key)
            if on_progress and len(got) % 64 == 0:
                on_progress("Importing", len(got), int(header["objects"]))
        missing = store.missing({key: expected[key] for key in expected if key not in got})
        if missing:
            what = f"{len(missing)} of {len(expected)} objects are in neither"
            hint = f"import image {since[:12]} first" if since else "export it again"
            raise BundleError(path, f"{what} the file nor the store", hint)

    def finish() -> Bundle:
        problem = claims.version_problem(document, manifest, lambda entry: store.read(*entry.key))
        if problem:
            raise BundleError(path, f"its document is not of its files: {problem}")
        store.put_manifest(manifest.to_bytes())
        catalog.put_document(document)
        for data in signatures:
            put_signature(store, data, image_id)
        catalog.tag(tag or header["tag"] or "latest", image_id)
        size = sum(expected[key] for key in got)
        return Bundle(image_id, document.name, tag or header["tag"], since, len(got), size)

    return finish


def _header(path: str, data: bytes) -> dict[str, str]:
    header = json.loads(data)
    if not isinstance(header, dict) or header.get("format") != 1:
        found = header.get("format") if isinstance(header, dict) else None
        hint = "use the release of wain that wrote it"
        raise BundleError(path, f"bundle format {found!r:.20} found, this wain knows 1", hint)
    for key in ("image", "since", "tag"):
        if not isinstance(header.get(key), str):
            raise BundleError(path, f"its header has no {key}")
    if not isinstance(header.get("objects"), int):
        raise BundleError(path, "its header has no count of objects")
    return header


def _small(path: str, tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo], name: str) -> bytes:
    member = next(members, None)
    if member is None or member.name != name or not member.isfile():
        raise BundleError(path, f"is no bundle: expected the member {name}")
    return _bytes(path, tar, member)


def _bytes(path: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _MAX_SMALL:
        raise BundleError(path, f"{member.name[:100]!a} has {member.size} bytes (endless data)")
    stream: IO[bytes] | None = tar.extractfile(member)
    if stream is None:
        raise BundleError(path, f"{member.name[:100]!a} is no file")
    data = stream.read()
    if len(data) != member.size:
        raise BundleError(path, "is cut short")
    return data
