"""Answers that their clients have not read: each lies in this node's memory until then, and together they are bounded.

A client that reads nothing is cut off after SLOW_READER_S (answer.py); many of them, with large values, could fill the
memory before that. Whoever has not read for longest makes room.
"""

from __future__ import annotations

import asyncio

UNREAD_BYTES_MAX = 128 * 1024 * 1024
"""Of all connections together: a hundred values of the usual largest size."""


class Unread:
    """The connections whose answers did not fit the socket, in the order in which that was."""

    def __init__(self) -> None:
        self._bytes: dict[asyncio.WriteTransport, int] = {}
        self.bytes = 0
        """Of all of them."""
        self.cut_off = 0
        """Connections that had to make room."""

    def add(self, transport: asyncio.WriteTransport) -> None:
        """Its client does not keep up; what is written to it lies here."""
        self.discard(transport)
        self._bytes[transport] = size = transport.get_write_buffer_size()
        self.bytes += size
        while self.bytes > UNREAD_BYTES_MAX and len(self._bytes) > 1:
            oldest = next(iter(self._bytes))
            self.discard(oldest)
            self.cut_off += 1
            oldest.abort()

    def discard(self, transport: asyncio.WriteTransport) -> None:
        """Its client has read, or is gone."""
        self.bytes -= self._bytes.pop(transport, 0)
