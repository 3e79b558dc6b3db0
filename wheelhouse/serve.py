"""Serving the wheelhouse as an index for pip, uv and other installers.

The folder is static: any web server does. This one adds the content types of the simple API,
chosen from the request's ``Accept``, and keeps the working folders to itself.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import socket
import stat
import urllib.parse
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from wheelhouse.entry import parse_filename
from wheelhouse.errors import WheelhouseError
from wheelhouse.pages import HTML_TYPE, JSON_TYPE
from wheelhouse.text import bare
from wheelhouse.verify import METADATA_SUFFIX
from wheelhouse.zipcheck import Refused

# A client that says nothing for this long is let go. Seconds.
_IDLE = 30.0
_MAX_THREADS_BACKLOG = 128
Log = Callable[[str], None]


def choose_type(accept: str) -> str:
    """The content type for a page: JSON where the client ranks it no lower than HTML.

    ``text/html`` and ``*/*`` mean HTML, which browsers and old clients read.
    """
    quality: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        rank = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                with contextlib.suppress(ValueError):
                    rank = float(parameter[2:])
        quality[name.lower()] = max(rank, quality.get(name.lower(), 0.0))
    json_rank = quality.get(JSON_TYPE, 0.0)
    html_rank = quality.get(HTML_TYPE, 0.0)
    plain_rank = max(quality.get("text/html", 0.0), quality.get("*/*", 0.0))
    if json_rank and json_rank >= max(html_rank, plain_rank):
        return JSON_TYPE
    if html_rank and html_rank >= plain_rank:
        return HTML_TYPE
    return "text/html; charset=utf-8"


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection. Reads only; every path is looked up by name, never joined blindly."""

    protocol_version = "HTTP/1.1"
    server_version = "wainwright"
    sys_version = ""
    timeout = _IDLE
    server: IndexServer

    def do_GET(self) -> None:
        """Answer with a page or a file."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        parts = path.split("/")[1:]
        if parts in ([""], ["simple"]):
            self._redirect("/simple/")
        elif parts == ["simple", ""]:
            self._page(self.server.folder / "simple", with_body=with_body)
        elif parts[0] == "simple" and len(parts) in (2, 3) and parts[2:] in ([], [""]):
            name = canonicalize_name(parts[1])
            if len(parts) == 2 or name != parts[1]:
                self._redirect(f"/simple/{urllib.parse.quote(name, safe='')}/")
            elif name in (".", "..", ""):
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                self._page(self.server.folder / "simple" / name, with_body=with_body)
        elif len(parts) == 1 and _is_file_name(parts[0]):
            kind = "application/octet-stream"
            if parts[0].endswith(METADATA_SUFFIX):
                kind = "text/plain; charset=utf-8"
            self._send(self.server.folder / parts[0], kind, "max-age=31536000", with_body=with_body)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _redirect(self, where: str) -> None:
        self.send_response(HTTPStatus.MOVED_PERMANENTLY)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _page(self, folder: Path, *, with_body: bool) -> None:
        kind = choose_type(self.headers.get("Accept", "*/*"))
        name = "index.json" if kind == JSON_TYPE else "index.html"
        self._send(folder / name, kind, "no-cache", with_body=with_body)

    def _send(self, path: Path, kind: str, cache: str, *, with_body: bool) -> None:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(status.st_size))
            self.send_header("Last-Modified", formatdate(status.st_mtime, usegmt=True))
            self.send_header("Cache-Control", cache)
            self.send_header("Vary", "Accept")
            self.end_headers()
            if with_body:
                shutil.copyfileobj(stream, self.wfile, 1 << 20)

    def log_message(self, format: str, *args: Any) -> None:
        """Hand a request's line to whoever listens, escaped."""
        if self.server.on_request is not None:
            self.server.on_request(bare(f"{self.client_address[0]} {format % args}"))


def _is_file_name(name: str) -> bool:
    try:
        parse_filename(name.removesuffix(METADATA_SUFFIX))
    except Refused:
        return False
    return True


class IndexServer(http.server.ThreadingHTTPServer):
    """A server of one wheelhouse: ``with IndexServer(folder) as server: server.serve_forever()``.

    Port 0 takes a free one; :attr:`url` is the index's address. Raises
    :class:`WheelhouseError` when it cannot listen.
    """

    daemon_threads = True
    request_queue_size = _MAX_THREADS_BACKLOG

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        on_request: Log | None = None,
    ) -> None:
        self.folder = folder
        self.on_request = on_request
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise WheelhouseError(bare(f"{host}:{port}"), f"cannot listen: {reason}") from None

    @property
    def url(self) -> str:
        """The address of the index."""
        host, port = self.server_address[:2]
        name = f"[{host!s}]" if self.address_family == socket.AF_INET6 else str(host)
        return f"http://{name}:{port}/simple/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no error of ours."""
        if self.on_request is not None:
            self.on_request(bare(f"{client_address}: connection lost"))
