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
from cluster.membership.topology import Topology, encode_topology
from cluster.protocol.messages import (
    Forwarded,
    Held,
    Promised,
    Reply,
    Request,
    Scanned,
    Settled,
    Unfit,
    WrongEpoch,
    is_harmless,
    refuse,
)
from cluster.replica.replica import SCAN_VALUE_BYTES_MAX, Respond
from cluster.tasks import safely
from storage.record import Record

STRANGERS_MAX = 128
"""Connections that have not finished the handshake. More, and the oldest goes: a peer needs milliseconds for it."""
SILENCE_S_MAX = 30.0
"""A peer sends heartbeats several times a second: a connection this silent is half open and is closed."""
LOG_LINES_MAX = 1_000
LOG_LINES_PER_S = 2
"""Lines about closed connections: a burst is told whole, a flood does not fill the disk."""
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
        topology: Callable[[], Topology],
        on_hello: Callable[[Identity], str | None],
        on_request: OnRequest,
        why_refuse: Callable[[str], str | None] | None = None,
        mark: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        """on_hello may refuse a peer with a reason. mark gives this node's boot and commit sequence.

        why_refuse(name) gives the reason to answer a peer Unfit for all that is not harmless, or None.
        """
        self._why_refuse, self._mark = why_refuse, mark
        self._identity, self._secret, self._clock, self._random = identity, secret, clock, random
        self._topology, self._on_hello, self._on_request = topology, on_hello, on_request
        self._connections: set[_Connection] = set()
        self._strangers: dict[_Connection, None] = {}
        self._log_lines, self._logged_s, self._unlogged = float(LOG_LINES_MAX), 0.0, 0
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

    def make_room(self) -> None:
        """Closes the stranger that has been here longest, if there are too many. Peers are never closed for it."""
        if len(self._strangers) >= STRANGERS_MAX:
            next(iter(self._strangers)).fail("too many connections have not said who they are; this was the oldest")

    def log_closed(self, peer: str, address: object, reason: str) -> None:
        """Logs a connection that was closed; of a flood only the first lines, and how many were left out."""
        now_s = self._clock.monotonic_s()
        self._log_lines = min(LOG_LINES_MAX, self._log_lines + (now_s - self._logged_s) * LOG_LINES_PER_S)
        self._logged_s = now_s
        if self._log_lines < 1:
            self._unlogged += 1
            return
        self._log_lines -= 1
        log.warning("closed a peer connection", peer=peer, address=str(address), reason=reason, more=self._unlogged)
        self._unlogged = 0


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
        self._heard_s = 0.0
        self._fastest_ms: tuple[int, int] | None = None  # the smallest difference, and when it was seen
        self._outbox: Outbox[Reply] = Outbox(self._send)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.make_room()
        self._listener._connections.add(self)
        self._listener._strangers[self] = None
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(HANDSHAKE_S_MAX, self.fail, "it did not finish the handshake in time")

    def frame_received(self, frame: bytes) -> None:
        if not self._is_ready:
            self._greet(frame)
            return
        requests = decode_requests(frame)
        self._heard_s = self._listener._clock.monotonic_s()
        topology = self._listener._topology()
        if (requests.epoch, requests.fingerprint) != (topology.epoch, topology.fingerprint):
            refusal = WrongEpoch(topology.epoch, encode_topology(topology))
            for number, request in requests.items:
                refuse(request, refusal, self.respond, number)
            return
        age_ms = self._age_ms(requests.sent_ms)
        on_request, why_refuse = self._listener._on_request, self._listener._why_refuse
        reason = why_refuse(self._peer) if why_refuse is not None else None
        for number, request in requests.items:
            if reason is not None and not is_harmless(request):
                refuse(request, Unfit(reason), self.respond, number)
            else:
                safely(on_request, request, age_ms, self.respond, number)

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
        self._listener._strangers.pop(self, None)
        self._heard_s = self._listener._clock.monotonic_s()
        self._watch_silence()
        self._is_ready = True
        self.frame_bytes_max = FRAME_BYTES_MAX
        self.send_frame(encode_greeting(Ready()))

    def _watch_silence(self) -> None:
        """Closes the connection when nothing came for too long; looks again when that could be so."""
        if self._deadline is not None:
            self._deadline.cancel()
        left_s = self._heard_s + SILENCE_S_MAX - self._listener._clock.monotonic_s()
        if left_s > 0:
            self._deadline = asyncio.get_running_loop().call_later(left_s, self._watch_silence)
        else:
            self.fail(f"nothing was heard for {SILENCE_S_MAX:.0f} s")

    def respond(self, number: int, reply: Reply) -> None:
        """Queues the reply to the request of that number."""
        self._outbox.put(number, reply, _size(reply))

    def _send(self, items: list[tuple[int, Reply]]) -> None:
        self.send_frame(encode(Replies(self._listener._topology().epoch, items, *self._listener._mark())))
        if self.transport is not None and self.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.fail("it does not read its replies")
            self.transport.abort()  # not close(): that would keep the unread replies until it reads them

    def fail(self, reason: str) -> None:
        address = self.transport.get_extra_info("peername") if self.transport else None
        self._listener.log_closed(self._peer, address, reason)
        self._listener._strangers.pop(self, None)
        if not self._is_ready:
            self.send_frame(encode_greeting(Rejected(reason)))
        self.close()

    def close(self) -> None:
        """Closes the connection after what is written."""
        if self.transport is not None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener._connections.discard(self)
        self._listener._strangers.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()


def _size(reply: Reply) -> int:
    if type(reply) is Forwarded:
        settled = reply.outcome.record if type(reply.outcome) is Settled else None
        return MESSAGE_OVERHEAD_BYTES + _value_bytes(settled)
    if type(reply) is Held or type(reply) is Promised:
        return MESSAGE_OVERHEAD_BYTES + _value_bytes(reply.record)
    if type(reply) is WrongEpoch:
        return MESSAGE_OVERHEAD_BYTES + len(reply.topology)
    return SCAN_VALUE_BYTES_MAX if type(reply) is Scanned else MESSAGE_OVERHEAD_BYTES


def _value_bytes(record: Record | None) -> int:
    return len(record.value or b"") if record is not None else 0
