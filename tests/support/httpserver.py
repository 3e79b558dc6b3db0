"""A real HTTP server on loopback that serves files, and misbehaves where it is told to.

A page or file is served by :class:`Server`; ``server.behave[path]`` replaces what happens at a
path by a function over the raw handler, so that a test can lie, stall, truncate or redirect with
real bytes on a real socket.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "text/html"

Behaviour = Callable[["Handler"], None]


@dataclass
class Server:
    """What is served. ``files``: path → bytes; ``behave``: path → what to do instead.

    ``requests`` are (method, path, headers) in the order they came. ``login`` asks every
    request for that user and password. ``closing`` is set when the test ends: a stalling
    behaviour waits for it.
    """

    url: str = ""
    files: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    behave: dict[str, Behaviour] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    login: tuple[str, str] | None = None
    closing: threading.Event = field(default_factory=threading.Event)

    def put(self, path: str, data: bytes, kind: str = "application/octet-stream") -> str:
        """Serve bytes; the whole address."""
        self.files[path] = (data, kind)
        return self.url + path

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers of the requests for a path."""
        return [headers for _, asked, headers in self.requests if asked == path]

    def index(
        self,
        *files: Path,
        root: str = "/simple/",
        as_json: bool = True,
        more: dict[str, dict[str, object]] | None = None,
    ) -> str:
        """Serve these wheels and sdists as an index below ``root``; its address.

        ``more``: file name → further keys of its JSON entry, such as ``upload-time``.
        """
        projects: dict[str, list[Path]] = {}
        for file in files:
            name = file.name.split("-")[0].replace("_", "-").replace(".", "-").lower()
            projects.setdefault(name, []).append(file)
            self.put(f"{root}files/{file.name}", file.read_bytes())
        for name, owned in projects.items():
            page = f"{root}{name}/"
            if as_json:
                entries = [_entry(file, (more or {}).get(file.name, {})) for file in owned]
                document = {"meta": {"api-version": "1.1"}, "name": name, "files": entries}
                self.put(page, json.dumps(document).encode(), JSON)
            else:
                anchors = "".join(
                    f'<a href="../files/{file.name}#sha256={sha256(file)}">{file.name}</a>\n'
                    for file in owned
                )
                self.put(page, f"<!DOCTYPE html><html><body>{anchors}</body></html>".encode(), HTML)
        return self.url + root


def _entry(file: Path, more: dict[str, object]) -> dict[str, object]:
    return {
        "filename": file.name,
        "url": f"../files/{file.name}",
        "hashes": {"sha256": sha256(file)},
        "size": file.stat().st_size,
        **more,
    }


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    served: Server

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append((self.command, path, dict(self.headers.items())))
        if self.served.login and not self._allowed():
            self.reply(401, b"who are you?", WWW_Authenticate='Basic realm="test"')
        elif path in self.served.behave:
            self.served.behave[path](self)
        elif path in self.served.files:
            data, kind = self.served.files[path]
            self.send_file(data, kind, self.served.times.get(path))
        else:
            self.reply(404, b"not here")

    def _allowed(self) -> bool:
        assert self.served.login is not None
        wanted = base64.b64encode(":".join(self.served.login).encode()).decode()
        return self.headers.get("Authorization") == f"Basic {wanted}"

    def send_file(self, data: bytes, kind: str, time: float | None = None) -> None:
        """The whole file, or the part a Range header asks for."""
        headers = {"Accept-Ranges": "bytes", "Content-Type": kind}
        if time is not None:
            headers["Last-Modified"] = formatdate(time, usegmt=True)
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and "," not in wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin = int(first) if first else max(0, len(data) - int(last))
            end = min(int(last) + 1, len(data)) if first and last else len(data)
            if begin >= len(data):
                self.reply(416, b"")
                return
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            self.reply(206, data[begin:end], **headers)
        else:
            self.reply(200, data, **headers)

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        """Send an answer; ``length`` overrides Content-Length. ``_`` in names stands for ``-``."""
        self.send_response(status)
        length = headers.pop("length", str(len(body)))
        if length:
            self.send_header("Content-Length", length)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True


class _Serving(ThreadingHTTPServer):
    """Leaves nothing behind: what its clients keep open for more requests ends with it."""

    daemon_threads = False  # such threads are waited for

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # the client has ended it
                    connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Server]:
    """A server for the time of a test; with TLS where a certificate (and its key) is given."""
    served = Server()
    handler = type("BoundHandler", (Handler,), {"served": served})
    server = _Serving(handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        served.url = served.url.replace("http:", "https:")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        served.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


# --- ways to misbehave ---------------------------------------------------------------------


def status(code: int) -> Behaviour:
    """Always this status."""
    return lambda handler: handler.reply(code, b"no")


def redirect(to: str) -> Behaviour:
    """Always to this address."""
    return lambda handler: handler.reply(302, b"", Location=to)


def truncate(data: bytes, at: int) -> Behaviour:
    """Announce all, send the beginning, close."""

    def run(handler: Handler) -> None:
        handler.reply(200, data[:at], length=str(len(data)))
        handler.close_connection = True

    return run


def cut_each(data: bytes, step: int) -> Behaviour:
    """Honour ranges, but break off after ``step`` bytes of every answer."""

    def run(handler: Handler) -> None:
        wanted = handler.headers.get("Range", "bytes=0-")
        begin = int(wanted.removeprefix("bytes=").partition("-")[0])
        rest = data[begin:]
        handler.reply(
            206 if begin else 200,
            rest[:step],
            length=str(len(rest)),
            Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}",
        )
        handler.close_connection = True

    return run


def drip(server: Server, data: bytes, pause: float) -> Behaviour:
    """Announce all, then one byte now and then until the test ends."""

    def run(handler: Handler) -> None:
        handler.reply(200, b"", length=str(len(data)))
        for byte in data:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if server.closing.wait(pause):
                return

    return run


def stall(server: Server) -> Behaviour:
    """Take the request and say nothing."""
    return lambda handler: server.closing.wait() and None


def drip_headers(server: Server, pause: float) -> Behaviour:
    """A status line, then endless header bytes, one at a time."""

    def run(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not server.closing.wait(pause):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    return run


def endless(data: bytes, announced: bool) -> Behaviour:
    """More bytes than the file has, with or without a length."""

    def run(handler: Handler) -> None:
        handler.reply(200, data, length=str(len(data)) if announced else "")
        for _ in range(4096):
            handler.wfile.write(b"\0" * 4096)
        handler.close_connection = True

    return run
