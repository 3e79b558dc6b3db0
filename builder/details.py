"""What a resolver leaves out of a file: its hash and its size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from builder.pages import IndexFile
from builder.sources import Sources
from builder.urls import is_file_url, path_of
from wheelhouse.lock import Lock

if TYPE_CHECKING:
    from builder.web import Web


def ready_web(sources: Sources) -> Callable[[], Web]:
    """What will make requests when the resolver is done; it gets ready while that works."""

    def make() -> Web:
        from builder.web import Web

        return Web(sources.settings, sources.addresses()).prepare()

    pool = ThreadPoolExecutor(1)
    ready = pool.submit(make)
    pool.shutdown(wait=False)
    return ready.result


def complete(
    files: list[IndexFile], previous: Lock | None, web: Callable[[], Web]
) -> list[IndexFile]:
    """The files with hash and size: from the previous lock where it knows them, else asked for."""
    from builder.client import sizes_of

    known = {p.file.sha256: p.file for p in previous.packages} if previous else {}
    hashed = [file if file.sha256 else file._replace(sha256=_hash(file, web)) for file in files]
    sizes = sizes_of(
        web,
        [
            file.url
            for file in hashed
            if file.size is None and (file.sha256 not in known or not known[file.sha256].size)
        ],
    )
    done = []
    for file in hashed:
        old = known.get(file.sha256 or "")
        done.append(
            file._replace(
                size=file.size or (old.size if old else None) or sizes.get(file.url),
                upload_time=file.upload_time or (old.upload_time if old else None),
            )
        )
    return done


def _hash(file: IndexFile, web: Callable[[], Web]) -> str:
    """The sha256 of a file whose place gives none: a find-links folder, an old index."""
    digest = hashlib.sha256()
    if is_file_url(file.url):
        with path_of(file.url).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    with web().open(file.url) as answer:
        for block in answer.response.stream(1 << 20, decode_content=False):
            digest.update(block)
    return digest.hexdigest()
