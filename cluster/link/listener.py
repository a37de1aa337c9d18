"""The listening side: requests come in, each is handed on, each reply goes back with the number it came with.

A connection that says something wrong is closed and the reason logged; the node stays as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import structlog

from cluster.clock import Clock
from cluster.link.frames import (
    FRAME_BYTES_MAX,
    FramedConnection,
    Outbox,
    ProtocolError,
    Replies,
    decode_requests,
    encode,
)
from cluster.link.handshake import (
    HANDSHAKE_S_MAX,
    NONCE_BYTES,
    Hello,
    Identity,
    Proof,
    Ready,
    Rejected,
    Welcome,
    decode_greeting,
    encode_greeting,
    is_proof,
    mismatch,
    prove,
)
from cluster.protocol.messages import Held, Promised, Reply, Request, Scanned, WrongEpoch
from cluster.replica.replica import SCAN_VALUE_BYTES_MAX, Respond

CONNECTIONS_MAX = 2_048
"""Twice the members a cluster can have: one connection each, and as many that linger or are strangers."""
MESSAGE_OVERHEAD_BYTES = 100
UNREAD_BYTES_MAX = 256 * 1024 * 1024
"""Replies that a peer has asked for and does not read; more, and it is cut off."""
DRIFT_PER_MILLION_MAX = 1_000
"""How much faster one machine's clock may run than another's; quartz does 50."""
log = structlog.get_logger()

OnRequest = Callable[[Request, int, Respond, int], None]
"""(request, its age in ms since it was sent, respond, token for respond)"""


class Listener:
    """Accepts the connections of peers."""

    def __init__(
        self,
        identity: Callable[[], Identity],
        secret: bytes,
        clock: Clock,
        random: Random,
        *,
        epoch: Callable[[], tuple[int, bytes]],
        on_hello: Callable[[Identity], str | None],
        on_request: OnRequest,
    ) -> None:
        """epoch() gives this node's epoch and encoded topology; on_hello may refuse a peer with a reason."""
        self._identity, self._secret, self._clock, self._random = identity, secret, clock, random
        self._epoch, self._on_hello, self._on_request = epoch, on_hello, on_request
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listens. Raises OSError when the address can't be had."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), host, port)

    async def stop(self) -> None:
        """Closes the address and all connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()


class _Connection(FramedConnection):
    """One connection of one peer, or of somebody who pretends."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener
        self._hello: Hello | None = None
        self._mine: Identity | None = None
        self._nonce = b""
        self._peer = "?"
        self._is_ready = False
        self._fastest_ms: tuple[int, int] | None = None  # the smallest difference, and when it was seen
        self._outbox: Outbox[Reply] = Outbox(self._send)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._listener._connections) >= CONNECTIONS_MAX:
            self.fail(f"{CONNECTIONS_MAX} connections are open already")
            return
        self._listener._connections.add(self)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(HANDSHAKE_S_MAX, self.fail, "it did not finish the handshake in time")

    def frame_received(self, frame: bytes) -> None:
        if not self._is_ready:
            self._greet(frame)
            return
        requests = decode_requests(frame)
        epoch, topology = self._listener._epoch()
        if requests.epoch != epoch:
            for number, _ in requests.items:
                self.respond(number, WrongEpoch(epoch, topology))
            return
        age_ms = self._age_ms(requests.sent_ms)
        on_request = self._listener._on_request
        for number, request in requests.items:
            on_request(request, age_ms, self.respond, number)

    def _age_ms(self, sent_ms: int) -> int:
        """How much longer this frame took than the fastest one.

        Two monotonic clocks have an unknown offset, but a steady one: the smallest difference ever seen is the
        offset and a short way. It is let rise a little, for no two clocks run at quite the same speed.
        """
        now_ms = int(self._listener._clock.monotonic_s() * 1000)
        difference = now_ms - sent_ms
        fastest, seen_ms = self._fastest_ms or (difference, now_ms)
        drifted = fastest + (now_ms - seen_ms) * DRIFT_PER_MILLION_MAX // 1_000_000
        self._fastest_ms = (difference, now_ms) if difference <= drifted else self._fastest_ms or (difference, now_ms)
        return max(0, difference - drifted)

    def _greet(self, frame: bytes) -> None:
        greeting, listener = decode_greeting(frame), self._listener
        if isinstance(greeting, Hello) and self._hello is None:
            self._peer = greeting.identity.name
            mine = listener._identity()
            reason = mismatch(mine, greeting.identity)
            if reason is None and greeting.dialled != mine.name:
                reason = f"it dialled {greeting.dialled}, but this is {mine.name}"
            if reason is not None:
                raise ProtocolError(reason)
            self._hello, self._mine = greeting, mine
            self._nonce = listener._random.randbytes(NONCE_BYTES)
            proof = prove(listener._secret, "listener", greeting, mine, self._nonce)
            self.send_frame(encode_greeting(Welcome(mine, self._nonce, proof)))
        elif isinstance(greeting, Proof) and self._hello is not None and self._mine is not None:
            self._check_proof(greeting, self._hello, self._mine)
        else:
            raise ProtocolError("it broke the order of the handshake")

    def _check_proof(self, greeting: Proof, hello: Hello, mine: Identity) -> None:
        if not is_proof(greeting.proof, self._listener._secret, "dialler", hello, mine, self._nonce):
            raise ProtocolError("wrong cluster secret; give all nodes the same --cluster-secret-file")
        reason = self._listener._on_hello(hello.identity)
        if reason is not None:
            raise ProtocolError(reason)
        if self._deadline is not None:
            self._deadline.cancel()
        self._is_ready = True
        self.frame_bytes_max = FRAME_BYTES_MAX
        self.send_frame(encode_greeting(Ready()))

    def respond(self, number: int, reply: Reply) -> None:
        """Queues the reply to the request of that number."""
        self._outbox.put(number, reply, _size(reply))

    def _send(self, items: list[tuple[int, Reply]]) -> None:
        self.send_frame(encode(Replies(self._listener._epoch()[0], items)))
        if self.transport is not None and self.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.fail("it does not read its replies")

    def fail(self, reason: str) -> None:
        address = self.transport.get_extra_info("peername") if self.transport else None
        log.warning("closed a peer connection", peer=self._peer, address=str(address), reason=reason)
        if not self._is_ready:
            self.send_frame(encode_greeting(Rejected(reason)))
        self.close()

    def close(self) -> None:
        """Closes the connection after what is written."""
        if self.transport is not None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener._connections.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()


def _size(reply: Reply) -> int:
    if type(reply) is Held or type(reply) is Promised:
        record = reply.record
        return MESSAGE_OVERHEAD_BYTES + len(record.value or b"" if record is not None else b"")
    return SCAN_VALUE_BYTES_MAX if type(reply) is Scanned else MESSAGE_OVERHEAD_BYTES
