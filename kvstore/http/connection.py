"""Connections: how many there may be, how long one may say nothing, who hears of their end, and what noise is
answered with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse

from cluster.tasks import safely
from kvstore.http.incoming.unparsed import HEADERS_MAX, LINE_BYTES_MAX, reason
from kvstore.http.outgoing.answer import Answer

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
    """One connection, which knows whether it is at work."""

    __slots__ = ("_refused_bytes", "_unparsed", "busy", "client", "first_request_timer")

    def __init__(self, server: Listener, unparsed: Unparsed) -> None:
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
        self._unparsed = unparsed
        self._refused_bytes = b""
        self.busy = False
        self.client: WaitingClient | None = None
        """Whoever waits at the other end, to be told of the connection's end."""
        self.first_request_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self.first_request_timer = loop.call_later(FIRST_REQUEST_S, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The socket is closed."""
        self.heard()
        super().connection_lost(exc)
        if self.client is not None:
            self.client.gone()

    def data_received(self, data: bytes) -> None:
        """Some bytes came. Those that can't be parsed are kept: they may say which path is asked for."""
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo) and not self._refused_bytes:
            self._refused_bytes = data
        if self.client is not None and self.client.waits:
            self.close_if_deaf()

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
    ) -> None:
        super().__init__(cast(Any, self._answer))
        self._answer_request = answer
        self._unparsed = unparsed
        self._connections_max = connections_max
        self.refused = 0
        """Connections that were closed to make room, or found none."""

    def __call__(self) -> Connection:
        """asyncio's protocol factory."""
        return Connection(self, self._unparsed)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """A socket is open."""
        super().connection_made(handler, transport)
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
