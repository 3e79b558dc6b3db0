"""A package index on loopback, for the time of one resolution, that holds the project's rules.

pip cannot pin names to indexes, uv does it in its own way only, and neither can cut off at a
date where an index gives no upload times. So both ask this index, and it asks the real ones:
names by the rules of ``sources``, files by the cut-off. It listens on 127.0.0.1 under a path no
one can guess, since it may carry the logins of the places behind it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import quote, unquote, urlsplit

from packaging.utils import canonicalize_name

from builder.client import IndexClient
from builder.cutoff import CutOff
from builder.pages import IndexFile
from builder.urls import is_file_url, path_of
from images.errors import WainError

_JSON = "application/vnd.pypi.simple.v1+json"
# The address of this index never comes again.
_NOT_KEPT = {"Cache-Control": "no-store"}
_PASSED = ("content-length", "content-range", "accept-ranges", "last-modified", "etag")


class Gateway:
    """Serves while it is entered. ``client`` asks the real places.

    ``notes`` are things to tell the user; ``errors`` what went wrong for which project.
    """

    def __init__(self, client: IndexClient, cutoff: CutOff | None = None) -> None:
        self._client = client
        self._cutoff = cutoff
        self._token = secrets.token_urlsafe(16)
        self._pages: dict[str, bytes] = {}
        self._files: dict[str, str] = {}
        self._listed: dict[str, IndexFile] = {}
        self._lock = threading.Lock()
        self.errors: dict[str, WainError] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> Gateway:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The address of the index, as pip and uv take it."""
        return f"{self._base}simple/"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the cut-off."""
        return self._cutoff.notes() if self._cutoff else ()

    @property
    def _base(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{self._token}/"

    def original(self, file: IndexFile) -> IndexFile:
        """A file of an answer as its own index lists it, at its own address."""
        url = file.url
        if url.startswith(self._base):
            url = self._files[url.removeprefix(self._base).split("/")[1]]
        listed = self._listed.get(url, file)
        return file._replace(
            url=url,
            sha256=listed.sha256 or file.sha256,
            size=listed.size or file.size,
            upload_time=listed.upload_time,
        )

    def page(self, name: str) -> bytes | None:
        """The JSON page of a project; None when no place has it. Raises WainError."""
        with self._lock:
            known = self._pages.get(name)
        if known is not None:
            return known
        try:
            listing = self._client.project(name)
            if listing.problems:
                raise listing.problems[0]
        except WainError as error:
            self.errors[name] = error
            raise
        files = listing.files
        with self._lock:
            self._listed.update({file.url: file for file in files})
        if self._cutoff is not None:
            files = self._cutoff.filter(name, files)
        page = json.dumps(
            {
                "meta": {"api-version": "1.0"},
                "name": name,
                "files": [self._entry(file) for file in files],
            }
        ).encode()
        with self._lock:
            self._pages[name] = page
        return page if listing.files else None

    def _entry(self, file: IndexFile) -> dict[str, object]:
        entry: dict[str, object] = {
            "filename": file.filename,
            "url": self._address(file),
            "hashes": {"sha256": file.sha256} if file.sha256 else {},
        }
        if file.size is not None:
            entry["size"] = file.size
        if file.requires_python:
            entry["requires-python"] = file.requires_python
        if file.yanked is not None:
            entry["yanked"] = file.yanked or True
        if file.upload_time is not None:
            entry["upload-time"] = file.upload_time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if file.metadata is not None:
            entry["core-metadata"] = {"sha256": file.metadata} if file.metadata else True
        return entry

    def _address(self, file: IndexFile) -> str:
        """The file's own address, or one here when only this process can read it."""
        if not is_file_url(file.url) and not self._client.web.has_login(file.url):
            return file.url
        key = hashlib.sha256(file.url.encode()).hexdigest()[:24]
        self._files[key] = file.url
        return f"{self._base}file/{key}/{quote(file.filename)}"

    def serve(self, handler: _Handler, method: str) -> None:
        """Answer one request."""
        path = urlsplit(handler.path).path
        if not path.startswith(f"/{self._token}/"):
            handler.send_error(404)
            return
        parts = [unquote(part) for part in path.split("/")[2:]]
        if parts[0] == "simple" and len(parts) >= 2 and parts[1]:
            self._serve_page(handler, canonicalize_name(parts[1]), method)
        elif parts[0] == "file" and len(parts) == 3 and parts[1] in self._files:
            url = self._files[parts[1]]
            suffix = ".metadata" if parts[2].endswith(".metadata") else ""
            self._serve_file(handler, url + suffix, method)
        else:
            handler.send_error(404)

    def _serve_page(self, handler: _Handler, name: str, method: str) -> None:
        try:
            page = self.page(name)
        except WainError:
            # The resolver may do without this project; whoever runs it looks at `errors`. An
            # answer such as 502 would only be asked for again and again.
            page = None
        if page is None:
            handler.send_error(404)
            return
        headers = {"Content-Type": _JSON, "Content-Length": str(len(page))}
        handler.answer(200, headers | _NOT_KEPT)
        if method == "GET":
            handler.wfile.write(page)

    def _serve_file(self, handler: _Handler, url: str, method: str) -> None:
        if is_file_url(url):
            self._serve_local(handler, url, method)
            return
        wanted = handler.headers.get("Range")
        try:
            sent = {"Range": wanted} if wanted else {}
            with self._client.web.open(url, sent, method) as answer:
                got: Mapping[str, str] = answer.response.headers
                kept = {name: got[name] for name in _PASSED if name in got}
                handler.answer(answer.response.status, kept | _NOT_KEPT)
                if method == "GET":
                    for block in answer.response.stream(1 << 16, decode_content=False):
                        handler.wfile.write(block)
        except WainError as error:
            handler.send_error(getattr(error, "status", 0) or 502)

    def _serve_local(self, handler: _Handler, url: str, method: str) -> None:
        path = path_of(url)
        try:
            stream = path.open("rb")
        except OSError:
            handler.send_error(404)
            return
        with stream:
            found = path.stat()
            begin, end = _range(handler.headers.get("Range"), found.st_size)
            modified = datetime.fromtimestamp(found.st_mtime, UTC)
            headers = {
                "Content-Length": str(end - begin),
                "Accept-Ranges": "bytes",
                "Last-Modified": modified.strftime("%a, %d %b %Y %H:%M:%S GMT"),
                **_NOT_KEPT,
            }
            partial = (begin, end) != (0, found.st_size)
            if partial:
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{found.st_size}"
            handler.answer(206 if partial else 200, headers)
            if method == "GET" and partial:
                stream.seek(begin)
                handler.wfile.write(stream.read(end - begin))
            elif method == "GET":
                shutil.copyfileobj(stream, handler.wfile, 1 << 20)


def _range(header: str | None, size: int) -> tuple[int, int]:
    """(begin, end) of a ``Range`` header's one range; the whole file when there is none."""
    unit, _, spec = (header or "").partition("=")
    first, dash, last = spec.partition("-")
    if unit != "bytes" or not dash or not (first.isdigit() or last.isdigit()):
        return 0, size
    if not first:
        return max(0, size - int(last)), size
    begin = min(int(first), size)
    end = min(int(last) + 1, size) if last.isdigit() else size
    return (begin, end) if begin < end else (0, size)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gateway: Gateway

    def answer(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status and these headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self.gateway.serve(self, "GET")

    def do_HEAD(self) -> None:
        self.gateway.serve(self, "HEAD")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests hold the token."""

    def handle(self) -> None:
        """A client that goes away is no event."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True


def _handler_for(gateway: Gateway) -> type[_Handler]:
    return type("_BoundHandler", (_Handler,), {"gateway": gateway})
