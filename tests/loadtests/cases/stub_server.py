"""A server of one answer, which keeps what it was asked, and stalls when it is told to."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from loadtests.cases.sides.side import Member

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class StubServer:
    """A context manager. A thread per connection; requests are whole when their length says so."""

    def __init__(self, stalls_at: int | None = None, stall_s: float = 0.0) -> None:
        """stalls_at: the number of the request from which on nobody is answered for that time."""
        self._stalls_at, self._stall_s = stalls_at, stall_s
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.requests: list[bytes] = []

    def __enter__(self) -> StubServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def member(self) -> Member:
        """As a member of a cluster."""
        host, port = self._socket.getsockname()
        return Member("stub", host, port, 0, Path())

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = b""
        with connection:
            while True:
                try:
                    data = connection.recv(1 << 16)
                except OSError:
                    return
                if not data:
                    return
                buffer += data
                if not _is_whole(buffer):
                    continue
                with self._lock:  # so that a stall holds up everybody
                    self.requests.append(buffer)
                    if len(self.requests) == self._stalls_at:
                        time.sleep(self._stall_s)
                buffer = b""
                connection.sendall(ANSWER)


def _is_whole(request: bytes) -> bool:
    head, separator, body = request.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(separator) and len(body) >= int(length or 0)
