"""Frames: what travels between two nodes. A length of four bytes, big-endian, then msgpack.

Everything that is queued in one turn of the event loop leaves as one frame: one encode, one write. The frame says
the epoch its messages were sent under, and when it was sent by the sender's own monotonic clock, so that the other
side can tell how long it lay in a socket buffer (a paused process wakes up to a queue of old requests).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

from cluster.protocol.messages import Reply, Request

FRAME_BYTES_MAX = 64 * 1024 * 1024
"""A longer frame ends the connection. Frames are cut at FRAME_BYTES_SOFT, so only a message of its own is long:
a value of 16 MiB at most, or a page of a scan."""
FRAME_BYTES_SOFT = 4 * 1024 * 1024
"""About where a batch is cut in two."""
GREETING_BYTES_MAX = 4096
"""Before the handshake is over nobody may send more: noise and strangers cost nothing."""
LENGTH_BYTES = 4
UNSENT_BYTES_MAX = 64 * 1024 * 1024
"""What may wait for the socket. A peer that has more to read counts as one that can't be reached; at the usual limit of
64 KiB every large value made it one for a moment, and its write went to a second proposer."""

Message = TypeVar("Message")


class Requests(msgspec.Struct, frozen=True, array_like=True):
    """Numbered requests, from the side that dialled."""

    epoch: int
    fingerprint: int
    """Of the topology: two of one epoch that differ must not vote together."""
    sent_ms: int
    items: list[tuple[int, Request]]


class Replies(msgspec.Struct, frozen=True, array_like=True):
    """Replies by the numbers of their requests, from the side that listened."""

    epoch: int
    items: list[tuple[int, Reply]]
    boot: int = 0
    """The run of the sender's process (membership/peer_memory.py)."""
    commit_sequence: int = 0
    """How far the sender had committed when it sent this: what its replies acknowledge is covered."""


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
decode_requests = msgspec.msgpack.Decoder(Requests).decode
decode_replies = msgspec.msgpack.Decoder(Replies).decode


class FramedConnection(asyncio.Protocol):
    """Cuts the stream into frames. Subclasses say what to do with each; whatever they raise ends the connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.frame_bytes_max = GREETING_BYTES_MAX
        self.is_writable = True
        """False while the other side does not keep up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open; nobody is known yet."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(UNSENT_BYTES_MAX)

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """There is room again."""
        self.is_writable = True

    def data_received(self, data: bytes) -> None:
        """Feeds the bytes; hands over each frame that is complete."""
        self._buffer += data
        try:
            self._take_frames()
        except (ProtocolError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.fail(str(error))

    def _take_frames(self) -> None:
        buffer, position = self._buffer, 0
        while len(buffer) - position >= LENGTH_BYTES:
            length = int.from_bytes(buffer[position : position + LENGTH_BYTES], "big")
            if length > self.frame_bytes_max:
                raise ProtocolError(
                    f"a frame of {length} bytes was announced; {self.frame_bytes_max} is the limit here"
                )
            end = position + LENGTH_BYTES + length
            if len(buffer) < end:
                break
            frame = bytes(memoryview(buffer)[position + LENGTH_BYTES : end])
            position = end
            self.frame_received(frame)
            if self.transport is None or self.transport.is_closing():
                position = len(buffer)
        del buffer[:position]

    def frame_received(self, frame: bytes) -> None:
        """One whole frame, in order."""
        raise NotImplementedError

    def fail(self, reason: str) -> None:
        """Ends the connection for this reason."""
        raise NotImplementedError

    def send_frame(self, payload: bytes) -> None:
        """Sends one frame, if the connection is still open."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(len(payload).to_bytes(LENGTH_BYTES, "big") + payload)


class ProtocolError(Exception):
    """The other side broke the rules of the link."""


class Outbox(Generic[Message]):
    """Numbered messages queued in this turn of the loop; they leave together at its end."""

    def __init__(self, send: Callable[[list[tuple[int, Message]]], None]) -> None:
        self._send = send
        self._items: list[tuple[int, Message]] = []
        self._bytes = 0

    def put(self, number: int, message: Message, size: int) -> None:
        """Queues a message of about that many bytes."""
        if not self._items:
            asyncio.get_running_loop().call_soon(self.flush)
        self._items.append((number, message))
        self._bytes += size
        if self._bytes > FRAME_BYTES_SOFT:
            self.flush()

    def flush(self) -> None:
        """Sends what is queued."""
        if self._items:
            items, self._items, self._bytes = self._items, [], 0
            self._send(items)
