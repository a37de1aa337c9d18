"""Connections: how many there may be, how long one may say nothing, who hears of their end, and what noise is
answered with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse
from multidict import CIMultiDict, CIMultiDictProxy

from cluster.tasks import safely
from kvstore.http.head import StraightHead
from kvstore.http.incoming.body import Content
from kvstore.http.incoming.unparsed import HEADERS_MAX, LINE_BYTES_MAX, reason
from kvstore.http.known_heads import KnownHeads, KnownRequest, left_of_body
from kvstore.http.outgoing.answer import SLOW_READER_S, Answer
from kvstore.http.outgoing.unread import Unread

KEEP_ALIVE_S = 75.0
"""Longer than the idle time of common proxies, so that they close first and no request meets a closing socket."""
FIRST_REQUEST_S = 20.0
"""A connection whose first request's head has not come by then is closed; honest clients take milliseconds."""
LINGER_S = 2.0
"""How long the body of a refused request is read and dropped, so that the client gets to see its answer."""
PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Of a connection whose client waits: a machine that vanished without a word is given up on after 25 seconds."""

log = structlog.get_logger()

Unparsed = Callable[[BaseException | None, bytes], Answer]
"""The answer to what could not be parsed: of what went wrong, and the bytes that it came in."""
Begin = Callable[[StraightHead, Content, Callable[[Answer], None]], bool]
"""Answers a request straight; False when it can't."""
TurnAway = Callable[[KnownRequest], tuple[bytes, float] | None]
"""The refusal of a request that is too much, and how long it is held; None for one that is not."""
Hold = Callable[[float, Callable[[bool], None]], None]
"""Calls back after so long, with whether the connection goes on."""


_NOT_TAKEN_APART = StraightHead("", "", HttpVersion11, CIMultiDictProxy(CIMultiDict()), keep_alive=True)
"""Stands for the head of a request that is refused in a moment."""


class WaitingClient:
    """The client of one request while that is under way: a Client of cluster/locks/outcomes.py.

    A connection outlives its requests, so what was registered for one of them goes with it.
    """

    def __init__(self, connection: Connection, waits: bool) -> None:
        self._connection = connection
        self.waits = waits
        self._callbacks: list[Callable[[], None]] = []
        self._is_over = False

    @property
    def is_here(self) -> bool:
        """Whether it would still get an answer, as far as this node can tell."""
        transport = self._connection.transport
        return not self._is_over and transport is not None and not transport.is_closing()

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Calls back once when the connection ends; at once if it has, or if the request is answered."""
        if self.is_here:
            self._callbacks.append(callback)
        else:
            callback()

    def gone(self) -> None:
        """The connection has ended."""
        self._is_over = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            safely(callback)

    def answered(self) -> None:
        """The request is over: nobody is to be told anything of it."""
        self._is_over = True
        self._callbacks = []


@contextlib.contextmanager
def waiting_client(request: BaseRequest, waits: bool) -> Iterator[WaitingClient]:
    """The request's client, for as long as the block lasts. waits: whether that may be long."""
    connection = cast(Connection, request.protocol)
    client = WaitingClient(connection, waits)
    connection.client = client
    if waits:
        _probe(connection.transport)
        connection.close_if_deaf()
    try:
        yield client
    finally:
        connection.client = None
        client.answered()


def _probe(transport: asyncio.Transport | None) -> None:
    peer = None if transport is None else transport.get_extra_info("socket")
    for name, value in PROBES.items():
        option = getattr(socket, name, None)
        if peer is not None and option is not None:
            with contextlib.suppress(OSError):
                peer.setsockopt(socket.IPPROTO_TCP, option, value)


class Connection(RequestHandler):
    """One connection, which knows whether it is at work.

    aiohttp has a task for each connection, which makes another for each request. Most requests need neither: their
    body is here with their head, and what they wait for calls back. Such a one is answered straight, where nothing
    else is under way on the connection; the task goes on waiting meanwhile. All others are the task's. Where such a
    request has a head that was here before, it does not need aiohttp's parser either (known_heads.py).
    """

    __slots__ = (
        "_begin",
        "_body_left",
        "_heads",
        "_hold",
        "_is_new",
        "_refused_bytes",
        "_slow_reader_timer",
        "_straight",
        "_turn_away",
        "_unparsed",
        "busy",
        "client",
        "first_request_timer",
        "unread",
    )

    def __init__(
        self,
        server: Listener,
        unparsed: Unparsed,
        begin: Begin,
        turn_away: TurnAway,
        hold: Hold,
        heads: KnownHeads,
        unread: Unread,
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=LINGER_S,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
            auto_decompress=False,
            access_log=cast(Any, None),
        )
        self._unparsed, self._begin, self._heads = unparsed, begin, heads
        self._turn_away, self._hold = turn_away, hold
        self.unread = unread
        self._body_left = 0
        """Bytes of a body that are still to come; see left_of_body()."""
        self._refused_bytes = b""
        self._straight: StraightHead | None = None
        """What is being answered straight."""
        self._slow_reader_timer: asyncio.TimerHandle | None = None
        """Runs while a straight answer does not fit the socket's buffers."""
        self._is_new = True
        """Whether the task has still to begin."""
        self.busy = False
        self.client: WaitingClient | None = None
        """Whoever waits at the other end, to be told of the connection's end."""
        self.first_request_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self.first_request_timer = loop.call_later(FIRST_REQUEST_S, self.force_close)

    async def start(self) -> None:
        """aiohttp's task. The first request mostly comes before it has had a turn, and may be under way: straight."""
        self._is_new = False
        while self._straight is not None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        await super().start()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The socket is closed."""
        self.heard()
        self._read_away()
        super().connection_lost(exc)
        if self.client is not None:
            self.client.gone()

    def data_received(self, data: bytes) -> None:
        """Some bytes came. Those that can't be parsed are kept: they may say which path is asked for."""
        if self._body_left == 0 and self._is_idle and self._answer_known(data):
            return
        waiter, self._waiter = self._waiter, None  # the task is woken once it is clear that the request is its own
        had, left = len(self._messages), self._body_left
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        if data:
            self._body_left = left_of_body(data, left, self._came_behind(had))
        if self._messages:
            if isinstance(self._messages[-1][0], _ErrInfo) and not self._refused_bytes:
                self._refused_bytes = data
            if waiter is not None and not waiter.done() and self._straight is None and not self._paused:
                is_whole = left == 0 and self._body_left == 0
                self._answer_next(waiter, data if is_whole else b"")
        if self.client is not None and self.client.waits:
            self.close_if_deaf()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp's streams call this for each body that is read; mostly nothing was held back."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    @property
    def _is_idle(self) -> bool:
        """Whether the task waits for a request, or is about to, and nothing else stands in its way."""
        waiter = self._waiter
        return (
            (self._is_new if waiter is None else not waiter.done())
            and self._straight is None
            and not self._messages
            and not (self._paused or self._reading_paused or self._buffer_paused)
            and not (self._close or self._force_close or self._upgraded)
            and self._payload_parser is None
        )

    def _came_behind(self, had: int) -> list[RawRequestMessage]:
        """The heads that the parser has found since there were that many; none where it found something else."""
        came = [message for message, _ in list(self._messages)[had:]]
        return [] if any(isinstance(message, _ErrInfo) for message in came) else cast(list[RawRequestMessage], came)

    def _answer_known(self, data: bytes) -> bool:
        """Answers a request whose head is known; False when the parser has to look at it."""
        request = self._heads.request(data)
        if request is None:
            return False
        refusal = self._turn_away(request)
        if refusal is None:
            if not self._begin_straight(*request.taken_apart()):
                return False
        elif refusal[1]:
            self._refuse_later(*refusal)
        else:
            self._request_in_progress = True
            self._send(refusal[0], keep_alive=True)
        self._taken()
        return True

    def _refuse_later(self, wire: bytes, hold_s: float) -> None:
        """The refusal of a request that was not taken apart goes out in a moment, if the client is still there."""
        self._straight = _NOT_TAKEN_APART
        self.busy = self._request_in_progress = True
        self._hold(hold_s, lambda keep_alive: self._refuse(wire, keep_alive))

    def _refuse(self, wire: bytes, keep_alive: bool) -> None:
        self._straight, self.busy = None, False
        self._send(wire, keep_alive)

    def _answer_next(self, waiter: asyncio.Future[None], data: bytes) -> None:
        """Answers the request that is here straight, or wakes the task for it. data: its bytes, if those are all."""
        message, content = self._messages[0]
        is_alone = len(self._messages) == 1 and not self._buffer_paused and self._parser is not None
        if is_alone and not isinstance(message, _ErrInfo) and content.is_eof() and not message.upgrade:
            keep_alive = not message.should_close
            head = StraightHead(message.method, message.path, message.version, message.headers, keep_alive)
            self._messages.popleft()
            if self._begin_straight(head, content):
                if self._parser is not None:
                    self._parser.message_consumed()
                self._taken()
                if data:
                    self._heads.learn(data, message)
                return
            self._messages.appendleft((message, content))
        waiter.set_result(None)

    def _begin_straight(self, head: StraightHead, content: Content) -> bool:
        self._straight = head
        self.busy = self._request_in_progress = True
        if self._begin(head, content, self._answered):
            return True
        self._straight, self.busy = None, False
        self._over()
        return False

    def _taken(self) -> None:
        """What aiohttp does for each request that it takes."""
        if self._manager is not None:
            self._manager.requests_count += 1
        if self.first_request_timer is not None:
            self.heard()

    def _answered(self, answer: Answer) -> None:
        """The answer to what is being answered straight: it goes out, if the client is still there."""
        head, self._straight, self.busy = self._straight, None, False
        if head is None:
            self._over()
            return
        try:
            wire = answer.wire(head)
        except Exception:
            self._over()
            self.force_close()
            raise
        self._send(wire, answer.keep_alive)

    def _send(self, wire: bytes, keep_alive: bool) -> None:
        """Sends a whole answer, if the client is still there; then the next request may come."""
        transport = self.transport
        if transport is None or transport.is_closing():
            self._over()
            return
        try:
            transport.write(wire)
        except Exception:
            self._over()
            self.force_close()
            raise
        self._keepalive = keep_alive
        if self._paused:
            self.unread.add(transport)
            self._slow_reader_timer = self._loop.call_later(SLOW_READER_S, transport.abort)
        else:
            self._over()
        if keep_alive:
            self._next_keepalive_close_time = self._loop.time() + KEEP_ALIVE_S
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
            self._wake()
        else:
            self.force_close()

    def _wake(self) -> None:
        """Whatever came meanwhile is the task's: answered straight, a long queue would be as deep a stack."""
        if self._messages and not self._paused and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _over(self) -> None:
        """The request is answered and nothing of the answer is left here: aiohttp's shutdown waits for that."""
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    def _read_away(self) -> None:
        """Of a straight answer that was too much for the socket, no more than a little is left, or nobody is there."""
        if self._slow_reader_timer is not None:
            self._slow_reader_timer.cancel()
            self._slow_reader_timer = None
            if self.transport is not None:
                self.unread.discard(self.transport)
            self._over()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._read_away()
        if self._straight is None:
            self._wake()

    def _process_keepalive(self) -> None:
        """aiohttp takes a connection for idle whose task waits; it may be at work without."""
        if self._straight is not None:
            self._next_keepalive_close_time = self._loop.time() + KEEP_ALIVE_S
        super()._process_keepalive()

    def close_if_deaf(self) -> None:
        """Ends a connection that has sent so much behind a wait that it is not read from any more: nor would its end
        be noticed."""
        if self._reading_paused or self._buffer_paused:
            self.force_close()

    def heard(self) -> None:
        """A request has come: from now on aiohttp's keep-alive timer does."""
        if self.first_request_timer is not None:
            self.first_request_timer.cancel()
            self.first_request_timer = None

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        """aiohttp's answer to what it could not parse; ours does not echo it."""
        log.info("not an HTTP request", peer=str(self.peername), reason=reason(exc))
        answer = self._unparsed(exc, self._refused_bytes)
        answer.keep_alive = False
        return cast(StreamResponse, answer)


class Listener(web.Server):
    """Makes a Connection of every socket, up to a number; beyond it those that are idle make room."""

    def __init__(
        self,
        answer: Callable[[BaseRequest], Awaitable[Answer]],
        unparsed: Unparsed,
        connections_max: int,
        begin: Begin = lambda head, content, on_answer: False,
        turn_away: TurnAway = lambda request: None,
        hold: Hold = lambda hold_s, on_end: on_end(True),
    ) -> None:
        super().__init__(cast(Any, self._answer))
        self._begin, self._turn_away, self._hold = begin, turn_away, hold
        self._answer_request = answer
        self._unparsed = unparsed
        self._connections_max = connections_max
        self._heads = KnownHeads()
        self.unread = Unread()
        self.opened = self.refused = 0
        """Connections that were ever opened; those that were closed to make room, or found none."""

    def __call__(self) -> Connection:
        """asyncio's protocol factory."""
        return Connection(self, self._unparsed, self._begin, self._turn_away, self._hold, self._heads, self.unread)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """A socket is open."""
        super().connection_made(handler, transport)
        self.opened += 1
        if len(self._connections) > self._connections_max:
            self.refused += 1
            idle = (one for one in self._connections if not cast(Connection, one).busy)
            next(idle, handler).force_close()  # the one that came first, which may be a long quiet client

    def close_idle(self) -> None:
        """Closes what is not at work. aiohttp's pre_shutdown would also cut off bodies that are still coming in."""
        for one in self.connections:
            if not cast(Connection, one).busy:
                one.force_close()

    async def _answer(self, request: BaseRequest) -> Answer:
        connection = cast(Connection, request.protocol)
        connection.busy = True
        if connection.first_request_timer is not None:
            connection.heard()
        try:
            return await self._answer_request(request)
        finally:
            connection.busy = False
