"""A proxy on loopback between a controller and a host, that cuts, damages, stalls or slows.

Positions count the bytes from the controller to the host, over all connections.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

BLOCK = 16384
DRAIN = 0.25  # seconds


class Proxy:
    """Forwards until ``at`` bytes have passed, then does what ``fault`` says.

    ``cut``: both ends are reset, once the host had time to take what came before; with ``down``
    nothing connects any more either. ``flip``: one bit of that byte is changed, and all goes on.
    ``vanish``: nothing passes any more in either way, and nobody is told. ``rate``: bytes a
    second, from the start.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.sent = 0
        self.fault, self.at, self.rate = "", 0, 0
        self.happened = self.down = False
        self._start(self._accept)

    def set(self, fault: str = "", at: int = 0, rate: int = 0, down: bool = False) -> None:
        """Choose the fault, and count from zero."""
        with self._lock:
            self.fault, self.at, self.rate, self.down = fault, at, rate, down
            self.sent, self.happened = 0, False

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                if self.down and self.happened:
                    near.close()
                    continue
                far = socket.create_connection(self._target, 10)
            except OSError:
                return
            far.settimeout(None)
            self._sockets += [near, far]
            self._start(self._forward, near, far, True)
            self._start(self._forward, far, near, False)

    def _forward(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        try:
            while True:
                data = source.recv(BLOCK)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if up:
                    data = self._spoil(data, source, sink)
                if self.fault == "vanish" and self.happened:
                    continue  # read and thrown away: to the sender all looks well
                if data:
                    sink.sendall(data)
                if self.rate:
                    time.sleep(len(data) / self.rate)
        except OSError:
            return

    def _spoil(self, data: bytes, source: socket.socket, sink: socket.socket) -> bytes:
        with self._lock:
            start, self.sent = self.sent, self.sent + len(data)
            if not self.fault or self.happened or self.sent <= self.at:
                return data
            self.happened = True
            inside = self.at - start
        if self.fault == "flip":
            return data[:inside] + bytes([data[inside] ^ 4]) + data[inside + 1 :]
        if self.fault == "cut":
            self.sent = self.at
            if inside:
                sink.sendall(data[:inside])
            # What lies in the server's buffers when it loses the line never reaches anybody.
            time.sleep(DRAIN)
            for one in (source, sink):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
                one.close()
        return data[:inside] if self.fault == "vanish" else b""

    def drop(self) -> None:
        """End every connection."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """End every connection, and the threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join(5)


@contextmanager
def proxy_to(target: tuple[str, int]) -> Iterator[Proxy]:
    """A proxy to an address, closed at the end."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
