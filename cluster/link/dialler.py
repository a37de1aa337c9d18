"""The dialling side: requests go out, answers come back, in whatever order they are ready.

A request that was never sent is Lost(sent=False): it surely had no effect. One whose connection broke is
Lost(sent=True): nobody knows. No request waits for a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import cast

import structlog
from msgspec import Raw

from cluster.clock import Clock
from cluster.link.frames import (
    FRAME_BYTES_MAX,
    FramedConnection,
    Outbox,
    ProtocolError,
    Requests,
    decode_replies,
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
from cluster.membership.topology import Topology
from cluster.protocol.changes import Merge
from cluster.protocol.messages import Accept, Answer, Forward, ForwardMany, Glance, Lost, PrepareMany, Request
from cluster.tasks import safely

IN_FLIGHT_MAX = 20_000
"""Requests of one peer that wait for an answer; more are refused unsent, for they would only wait longer."""
SILENCE_S_MAX = 10.0
"""Heartbeats are answered several times a second: after this long the connection is dead, whatever TCP believes."""
RETRY_S_MIN = 0.05
RETRY_S_MAX = 1.0
"""Time between two attempts to connect, doubled from the one to the other, with jitter."""
MESSAGE_OVERHEAD_BYTES = 100

OnAnswer = Callable[[int, Answer], None]
"""Called once per request with the peer's slot and what came."""
LOST_UNSENT, LOST_SENT = Lost(sent=False), Lost(sent=True)
log = structlog.get_logger()


@dataclass(frozen=True)
class Peer:
    """Whom to dial."""

    slot: int
    name: str
    host: str
    port: int


class Dialler:
    """Keeps one connection to a peer and sends requests over it."""

    def __init__(
        self,
        peer: Peer,
        identity: Callable[[], Identity],
        secret: bytes,
        clock: Clock,
        random: Random,
        *,
        topology: Callable[[], Topology],
        on_heard: Callable[[int], None],
        on_up: Callable[[int, Identity], str | None],
        on_down: Callable[[int], None],
        on_replies: Callable[[int, int, int], None] = lambda slot, boot, commit_sequence: None,
    ) -> None:
        """on_up may refuse the peer with a reason; on_heard is called with the slot for each frame that comes.

        on_replies(slot, boot, commit sequence) is called before the replies of a frame are handed on.
        """
        self._on_replies = on_replies
        self.peer, self._identity, self._secret, self._clock, self._random = peer, identity, secret, clock, random
        self._topology, self._on_heard, self._on_up, self._on_down = topology, on_heard, on_up, on_down
        self._connection: _Connection | None = None
        self._wake = asyncio.Event()
        self._said = ""

    @property
    def is_up(self) -> bool:
        """Whether requests would leave now."""
        return self._connection is not None and self._connection.is_ready

    def send(self, request: Request, on_answer: OnAnswer, encoded: Raw | None = None) -> None:
        """Sends the request; on_answer(slot, answer) follows exactly once, never before this returns.

        encoded: the same as bytes, where somebody has them already.
        """
        connection = self._connection
        if connection is None or not connection.take(request, on_answer, encoded):
            asyncio.get_running_loop().call_soon(on_answer, self.peer.slot, LOST_UNSENT)

    def send_many(self, forward: ForwardMany, on_answers: Sequence[OnAnswer]) -> None:
        """The same with one on_answer for each of its puts."""
        connection = self._connection
        if connection is None or not connection.take_many(forward, on_answers):
            loop = asyncio.get_running_loop()
            for on_answer in on_answers:
                loop.call_soon(on_answer, self.peer.slot, LOST_UNSENT)

    def dial_now(self) -> None:
        """The peer was just heard: don't wait out the pause before the next attempt."""
        self._wake.set()

    async def run(self) -> None:
        """Connects, and connects again, until cancelled."""
        pause = RETRY_S_MIN
        while True:
            began = self._clock.monotonic_s()
            reason = await self._connect_once()
            if self._clock.monotonic_s() - began > RETRY_S_MAX:
                pause = RETRY_S_MIN
            if reason != self._said:
                self._said = reason
                log.warning("no connection to peer", peer=self.peer.name, reason=reason)
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), pause * (0.5 + self._random.random()))
            except TimeoutError:
                pause = min(2 * pause, RETRY_S_MAX)

    async def _connect_once(self) -> str:
        """Connects, serves until the connection ends, and says why it ended."""
        loop = asyncio.get_running_loop()
        connection = _Connection(self)
        try:
            async with asyncio.timeout(HANDSHAKE_S_MAX):
                await loop.create_connection(lambda: connection, self.peer.host, self.peer.port)
                await connection.ready
        except TimeoutError:
            connection.fail("it did not answer the handshake in time")
            return "it did not answer the handshake in time"
        except (OSError, ValueError) as error:  # ValueError: a host name that can't be one
            said = getattr(error, "strerror", None) or str(error)
            return f"{said}; is it running at {self.peer.host}:{self.peer.port}?"
        except ProtocolError as error:
            return str(error)
        except asyncio.CancelledError:
            connection.fail("this node stops")
            raise
        self._connection = connection
        self._on_heard(self.peer.slot)
        self._said = ""
        log.info("connected to peer", peer=self.peer.name)
        try:
            return await self._until_ended(connection)
        except asyncio.CancelledError:
            connection.fail("this node stops")
            raise
        finally:
            self._connection = None
            self._on_down(self.peer.slot)

    async def _until_ended(self, connection: _Connection) -> str:
        """Why the connection ended; ends it when nothing has come over it for too long."""
        while True:
            waited, _ = await asyncio.wait([connection.ended], timeout=SILENCE_S_MAX / 10)
            if waited:
                return connection.ended.result()
            if self._clock.monotonic_s() - connection.heard_s > SILENCE_S_MAX:
                connection.fail(f"nothing was heard for {SILENCE_S_MAX:.0f} s")


class _Connection(FramedConnection):
    """One connection from its first byte to its last."""

    def __init__(self, dialler: Dialler) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self._dialler = dialler
        self._next = 0
        self._in_flight: dict[int, OnAnswer] = {}
        self._outbox: Outbox[Request | Raw] = Outbox(self._send)
        self._hello: Hello | None = None
        self._is_welcomed = False
        self.is_ready = False
        self.heard_s = dialler._clock.monotonic_s()
        """When something came last, by the monotonic clock."""
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        nonce = self._dialler._random.randbytes(NONCE_BYTES)
        self._hello = Hello(self._dialler._identity(), self._dialler.peer.name, nonce)
        self.send_frame(encode_greeting(self._hello))

    def frame_received(self, frame: bytes) -> None:
        if not self.is_ready:
            self._greet(frame)
            return
        slot = self._dialler.peer.slot
        self.heard_s = self._dialler._clock.monotonic_s()
        self._dialler._on_heard(slot)
        replies = decode_replies(frame)
        self._dialler._on_replies(slot, replies.boot, replies.commit_sequence)
        for number, reply in replies.items:
            on_answer = self._in_flight.pop(number, None)
            if on_answer is not None:
                safely(on_answer, slot, reply)

    def _greet(self, frame: bytes) -> None:
        greeting, hello, dialler = decode_greeting(frame), self._hello, self._dialler
        assert hello is not None
        if isinstance(greeting, Rejected):
            raise ProtocolError(f"it refused: {greeting.reason}")
        if isinstance(greeting, Ready) and self._is_welcomed:
            self.frame_bytes_max = FRAME_BYTES_MAX
            self.is_ready = True
            self.ready.set_result(None)
            dialler._on_heard(dialler.peer.slot)
            return
        if not isinstance(greeting, Welcome) or self._is_welcomed:
            raise ProtocolError("it broke the order of the handshake")
        said = (hello, greeting.identity, greeting.nonce)
        reason = mismatch(hello.identity, greeting.identity)
        if reason is None and greeting.identity.name != dialler.peer.name:
            reason = f"{dialler.peer.name} was dialled, but {greeting.identity.name} answered"
        if reason is None and not is_proof(greeting.proof, dialler._secret, "listener", *said):
            reason = "it does not know the cluster secret; give all nodes the same --cluster-secret-file"
        reason = reason or dialler._on_up(dialler.peer.slot, greeting.identity)
        if reason is not None:
            raise ProtocolError(reason)
        self._is_welcomed = True  # it has proved the secret: from here on its Ready counts
        self.send_frame(encode_greeting(Proof(prove(dialler._secret, "dialler", *said))))

    def take(self, request: Request, on_answer: OnAnswer, encoded: Raw | None = None) -> bool:
        """Queues the request; False when it can't leave."""
        if not self.is_ready or not self.is_writable or len(self._in_flight) >= IN_FLIGHT_MAX:
            return False
        self._next += 1
        self._in_flight[self._next] = on_answer
        if encoded is None:
            self._outbox.put(self._next, request, _size(request))
        else:
            self._outbox.put(self._next, encoded, len(encoded))
        return True

    def take_many(self, forward: ForwardMany, on_answers: Sequence[OnAnswer]) -> bool:
        """The same with one on_answer for each of its puts."""
        if not self.is_ready or not self.is_writable or len(self._in_flight) >= IN_FLIGHT_MAX:
            return False
        first = self._next + 1
        self._next += len(on_answers)
        self._in_flight.update(enumerate(on_answers, first))
        self._outbox.put(first, forward, _size(forward))
        return True

    def _send(self, items: list[tuple[int, Request | Raw]]) -> None:
        sent_ms = int(self._dialler._clock.monotonic_s() * 1000)
        topology = self._dialler._topology()
        requests = cast("list[tuple[int, Request]]", items)  # they are, some as bytes already
        self.send_frame(encode(Requests(topology.epoch, topology.fingerprint, sent_ms, requests)))

    def fail(self, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(ProtocolError(reason))
        if not self.ended.done():
            self.ended.set_result(reason)
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_ready = False
        self.fail(f"the connection ended{f': {exc}' if exc else ''}")
        waiting, self._in_flight = self._in_flight, {}
        loop = asyncio.get_running_loop()
        for on_answer in waiting.values():
            loop.call_soon(partial(on_answer, self._dialler.peer.slot, LOST_SENT))


def _size(request: Request) -> int:
    if type(request) is Accept:
        return MESSAGE_OVERHEAD_BYTES + len(request.record.value or b"")
    if type(request) is Glance:
        return MESSAGE_OVERHEAD_BYTES + sum(map(len, request.keys))
    if type(request) is PrepareMany:
        return sum([MESSAGE_OVERHEAD_BYTES + len(prepare.key) for prepare in request.prepares])
    if type(request) is ForwardMany:
        return sum([MESSAGE_OVERHEAD_BYTES + len(key) + len(put.value or b"") for key, put in request.puts])
    if type(request) is Forward:
        change = request.change
        value = change.record.value if isinstance(change, Merge) else getattr(change, "value", None)
        return MESSAGE_OVERHEAD_BYTES + len(value or b"")
    return MESSAGE_OVERHEAD_BYTES
