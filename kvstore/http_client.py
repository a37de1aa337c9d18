"""A small HTTP client: one request at a time, over several nodes, honest about what it does not know.

Any node answers for any key, so a node that can't be reached is passed over for the next. What a broken
connection means depends on when it broke:

    it was never made              nothing was sent: the next node may be asked, whatever the request
    it broke after sending         a read is asked again elsewhere; a write may have been applied, so it is
                                   never sent again unless the caller says that sending it twice is harmless
    it says nothing                a read is asked elsewhere, too, while the first node may still answer; a write
                                   waits until its time is up, and then may have been applied

Which node is the first to be asked is all that routing (kvstore/routing) has a say in.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from kvstore.client_errors import AnswerLost, ClientError, NoNodeReachable, Problem
from kvstore.paths import CLUSTER

if TYPE_CHECKING:  # placement brings the engines with it, and a command that sends one request needs neither
    from kvstore.routing.route import Route
    from kvstore.routing.router import Router

CONNECT_TIMEOUT_S = 1.0
"""A node of a healthy network accepts within milliseconds; past this the next one is a better bet."""
SILENCE_S = 2.0
"""A node that says nothing for so long may be paused: a read asks the next one, too."""
ANSWER_MARGIN_S = 2.0
"""A node that knows its deadline answers soon after it; only one that hangs is given up on."""
ANSWER_TIMEOUT_S = 5.0 + ANSWER_MARGIN_S
"""A node tries for 5 s by default."""
CONNECTIONS_MAX = 64
"""Per client: more would only queue inside the nodes."""

KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds, seconds, times: a machine that vanished while a request waits for a lock is noticed after 25 s."""

QueryOfLeft = Callable[[float], Mapping[str, str]]
"""(seconds that are left when a node is asked) -> parameters, such as how long that node may try."""

_READS = frozenset({"GET", "HEAD"})
_ASK_ELSEWHERE_NEXT = frozenset({503, 504, 507})  # it may be the node that is cut off or full, not the cluster
_PLAIN_HEADERS = {"Accept-Encoding": "identity"}  # a value's bytes come as they are


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node answered: always a status below 400."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes
    endpoint: str
    """The node that answered."""

    def json(self) -> Any:
        """The body as JSON. Raises ValueError when it is none."""
        return orjson.loads(self.body)


class _Sent:
    """A request on its way to one node after another, within one time for all."""

    def __init__(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        query_of_left: QueryOfLeft | None,
        headers: Mapping[str, str],
        body: bytes,
        timeout_s: float,
        idempotent: bool,
        route: Route | None,
    ) -> None:
        self.method = method
        self._path, self._query, self._query_of_left = path, query, query_of_left
        self.headers = headers
        self.body = body
        self.deadline_s = asyncio.get_running_loop().time() + timeout_s
        """By the loop's clock."""
        self.idempotent, self.route = idempotent, route
        self.is_read = method in _READS

    def target(self, left_s: float) -> str:
        """Path and query, percent-encoded, for a node that is asked when so much time is left."""
        query = {**self._query, **self._query_of_left(left_s)} if self._query_of_left else self._query
        return f"{self._path}?{urlencode(query, quote_via=quote)}" if query else self._path


class _BrokenAfterSending(Exception):
    """The connection broke once bytes may have left."""


class _NeverSent(Exception):
    """No connection came about."""


async def _without_silent_retries(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a PUT or DELETE a second time when a kept-alive connection breaks under it."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError as error:
        raise _NeverSent(_why_not_connected(error)) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise _NeverSent(f"not connected within {CONNECT_TIMEOUT_S:g} s") from error
    except TimeoutError:  # an OSError too, but _ask knows the time that was given
        raise
    except (aiohttp.ClientError, OSError) as error:
        raise _BrokenAfterSending(_in_words(error)) from error


def parse_endpoint(text: str) -> str:
    """A node's address as `http://host:port`, from that or from `host:port`. Raises ValueError."""
    address = text.strip()
    url = URL(address if "://" in address else f"http://{address}")
    if url.scheme not in {"http", "https"} or not url.host or url.path not in {"", "/"}:
        raise ValueError(f"{text!r} is no node's address; write http://HOST:PORT")
    return f"{url.scheme}://{url.authority}"


class HttpClient:
    """A client of the nodes at `endpoints`. Use it as an async context manager."""

    def __init__(
        self, endpoints: Sequence[str], connections_max: int = CONNECTIONS_MAX, *, routing: bool = False
    ) -> None:
        """connections_max: 0 is any number. routing: whether a request begins at the node that spares the others work.

        Raises ValueError for an empty list or an address that is none.
        """
        if not endpoints:
            raise ValueError("no node's address was given")
        self.endpoints = tuple(parse_endpoint(endpoint) for endpoint in endpoints)
        self._connections_max = connections_max
        self._preferred = 0
        self._session: aiohttp.ClientSession | None = None
        self._router = self._new_router() if routing and len(set(self.endpoints)) > 1 else None

    async def __aenter__(self) -> HttpClient:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def open(self) -> None:
        """For who can't use `async with`: on the loop that the requests will run on, before the first."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections_max, socket_factory=kept_alive_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            middlewares=(_without_silent_retries,),
        )

    async def close(self) -> None:
        """Closes its connections; requests under way fail."""
        if self._router is not None:
            await self._router.close()
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        query_of_left: QueryOfLeft | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        idempotent: bool = False,
        timeout_s: float = ANSWER_TIMEOUT_S,
        only: str | Sequence[str] | None = None,
        route: Route | None = None,
    ) -> Answer:
        """Sends one request and returns the answer, asking node after node until one could be asked.

        `path` is percent-encoded already (see key_path); `query_of_left` makes further parameters for each node anew.
        `idempotent` says that applying this write twice is harmless; reads always are. `timeout_s` holds for all nodes
        together; `only` names the one node to ask, or several in the order to ask them, as in_order() gave them for
        `route`.
        Raises Problem for a status of 400 and above, AnswerLost and NoNodeReachable.
        """
        all_headers = {**_PLAIN_HEADERS, **(headers or {})}
        if only is None:
            route = self.route_of(method, path, query or {}, all_headers)
        sent = _Sent(method, path, query or {}, query_of_left, all_headers, body, timeout_s, idempotent, route)
        endpoints = [only] if isinstance(only, str) else list(only or self.in_order(route))
        answer = await (self._ask_side_by_side if sent.is_read else self._ask_in_turn)(sent, endpoints)
        if answer.status in _ASK_ELSEWHERE_NEXT:
            self._pass_over(answer.endpoint)
        return _checked(answer)

    async def _ask_in_turn(self, sent: _Sent, endpoints: Sequence[str]) -> Answer:
        """For writes: the next node is asked only when the one before surely has not got it, or it does no harm."""
        failures: list[str] = []
        lost = False
        for endpoint in endpoints:
            try:
                return await self._ask(endpoint, sent)
            except _NeverSent as error:
                failures.append(f"{endpoint}: {error}")
                self._pass_over(endpoint)
            except _BrokenAfterSending as error:
                failures.append(f"{endpoint}: {error}")
                self._pass_over(endpoint)
                lost = True
                if not sent.idempotent:
                    break
        raise _given_up(sent, failures, lost)

    async def _ask_side_by_side(self, sent: _Sent, endpoints: Sequence[str]) -> Answer:
        """For reads: who is silent is not waited for alone, and the first answer counts."""
        failures: list[str] = []
        was_asked = False
        unasked = iter(endpoints)
        asked: dict[asyncio.Task[Answer], str] = {}
        endpoint = next(unasked, None)
        try:
            while endpoint is not None or asked:
                if endpoint is not None:
                    task = asyncio.create_task(self._ask(endpoint, sent))  # noqa: TID251 - `asked` holds it
                    asked[task] = endpoint
                    newest, endpoint = endpoint, next(unasked, None)
                patience = None if endpoint is None else SILENCE_S
                done, _ = await asyncio.wait(asked, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    who = asked.pop(task)
                    if not isinstance(error := task.exception(), _NeverSent | _BrokenAfterSending):
                        return task.result()
                    failures.append(f"{who}: {error}")
                    was_asked = was_asked or isinstance(error, _BrokenAfterSending)
                    self._pass_over(who)
                if not done:
                    self._pass_over(newest)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise _given_up(sent, failures, was_asked)

    async def _ask(self, endpoint: str, sent: _Sent) -> Answer:
        router = self._router
        if router is None:
            return await self._exchange(endpoint, sent)
        if sent.route is not None:
            router.asked(endpoint)
        try:
            answer = await self._exchange(endpoint, sent)
        finally:
            if sent.route is not None:
                router.ended(endpoint)
        router.answered(endpoint, answer.headers)
        return answer

    async def _exchange(self, endpoint: str, sent: _Sent) -> Answer:
        assert self._session is not None, "use HttpClient as an async context manager"
        left_s = sent.deadline_s - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise _NeverSent("no time was left to ask it")
        # Half, so that a connection which does not come about is never taken for an answer that does not.
        limits = aiohttp.ClientTimeout(total=left_s, sock_connect=min(CONNECT_TIMEOUT_S, left_s / 2))
        try:
            async with self._session.request(
                sent.method,
                URL(endpoint + sent.target(left_s), encoded=True),
                headers=sent.headers,
                data=sent.body or None,
                timeout=limits,
                allow_redirects=False,
            ) as response:
                return Answer(response.status, response.headers, await response.read(), endpoint)
        except TimeoutError as error:
            raise _BrokenAfterSending(f"no answer within {left_s:.2g} s") from error
        except aiohttp.ClientError as error:
            raise _BrokenAfterSending(_in_words(error)) from error

    def route_of(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], *, waits: bool = False
    ) -> Route | None:
        """Where a request wants to go, see kvstore/routing; None for a client that does not route."""
        return None if self._router is None else self._router.route_of(method, path, query, headers, waits=waits)

    def in_order(self, route: Route | None = None) -> Iterator[str]:
        """Every endpoint once: the one that the route leads to first, then the one that answered last."""
        first = self._router.first(route) if self._router is not None and route is not None else None
        if first is not None:
            yield first
        for step in range(len(self.endpoints)):
            endpoint = self.endpoints[(self._preferred + step) % len(self.endpoints)]
            if endpoint != first:
                yield endpoint

    def _pass_over(self, endpoint: str) -> None:
        """Lets later requests start behind a node that failed, unless another request moved on already."""
        if self.endpoints[self._preferred] == endpoint:
            self._preferred = (self._preferred + 1) % len(self.endpoints)
        if self._router is not None:
            self._router.failed(endpoint)

    def _new_router(self) -> Router:
        from kvstore.routing.router import Router  # noqa: PLC0415

        return Router(self.endpoints, self._overview)

    async def _overview(self, endpoint: str, timeout_s: float) -> bytes | None:
        """How the node there sees its cluster; None where it does not say in time. Raises nothing."""
        sent = _Sent("GET", CLUSTER, {}, None, _PLAIN_HEADERS, b"", timeout_s, True, None)
        try:
            answer = await self._exchange(endpoint, sent)
        except (_NeverSent, _BrokenAfterSending):
            return None
        return answer.body if answer.status == 200 else None


def kept_alive_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket by which the system asks now and then whether the other end is still there."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):  # not everywhere under these names
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _in_words(error: Exception) -> str:
    """An exception's text, or its name where it has none."""
    return str(error) or type(error).__name__


def _why_not_connected(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError) or isinstance(error.os_error, socket.gaierror):
        return f"no address is known for the name {error.host!r}"
    return os.strerror(error.errno) if error.errno else str(error)


def _given_up(sent: _Sent, failures: Sequence[str], was_asked: bool) -> ClientError:
    tried = "; ".join(failures)
    if was_asked and not sent.is_read:
        return AnswerLost(f"the request was sent and its answer never came, so it may be applied: {tried}")
    meaning = "" if sent.is_read else ", so nothing was applied"
    return NoNodeReachable(f"no node could be reached{meaning}: {tried}", failures, was_asked)


def _checked(answer: Answer) -> Answer:
    """The answer itself, or its problem raised."""
    if answer.status < 400:
        return answer
    try:
        fields = answer.json() if answer.body else {}
    except ValueError:
        fields = {}
    if not isinstance(fields, dict):
        fields = {}
    raise Problem(answer.status, fields, answer.headers, answer.endpoint)
