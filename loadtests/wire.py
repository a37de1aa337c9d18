"""Where an HTTP/1.1 answer ends, for clients that read from plain sockets."""

from __future__ import annotations

HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_CHUNKED = b"transfer-encoding: chunked"
_LAST_CHUNK = b"0\r\n\r\n"


def is_whole(buffer: bytes) -> bool:
    """Whether the one answer that is under way has come to its end: by its length, or its last chunk."""
    end = buffer.find(HEAD_END)
    if end < 0:
        return False
    head = buffer[:end].lower()
    at = head.find(_LENGTH)
    if at >= 0:
        length = int(head[at + len(_LENGTH) :].split(b"\r", 1)[0])
        return len(buffer) >= end + len(HEAD_END) + length
    return _CHUNKED not in head or buffer.endswith(_LAST_CHUNK)


def is_good(buffer: bytes) -> bool:
    """Whether its status is one of 2xx."""
    return buffer[9:10] == b"2"
