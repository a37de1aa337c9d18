"""Learns where a client's requests are best sent to, in the background, and doubts it when something says otherwise.

    learnt     once a client has sent so many requests that a better place would have saved more than learning costs:
               who sends one, as most commands do, asks nothing more. Each endpoint is asked once who it is, and how it
               sees the cluster
    looked at  again after a while, or soon after an endpoint failed, said that it can't now, said that it is about to
               stop, keeps silent, or answered under another topology or as another node than it was taken for
    dropped    at once, until the next look, is an endpoint that failed; for good is one that answers as several nodes,
               as a load balancer does

What is sent is never changed by it, nor who is asked after the first: only who that is.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from kvstore.routing.route import Route, route_of
from kvstore.routing.table import Overview, RoutingTable, decode_overview

LEARN_AFTER = 10
"""Requests for which all of that may help. A look is as dear as a few of them, and opens connections to all nodes."""
LOOK_EVERY_S = 30.0
"""While all is well: a node that has become unfit, or fit again, is a hop more until then."""
LOOK_AGAIN_S = 1.0
"""After a doubt, and twice as long each time while an endpoint is missing, up to LOOK_EVERY_S."""
LOOK_TIMEOUT_S = 1.0
"""A node that does not say who it is within this time is not asked first."""
SILENT_S = 1.0
"""A node that owes answers and has given none for so long may be paused. Nodes suspect one another no sooner."""
SPREAD = 0.25
"""Looks of many clients shall not keep step."""

Ask = Callable[[str, float], Awaitable[bytes | None]]
"""(endpoint, seconds) -> its GET /v1/cluster; None where that could not be had in time. Raises nothing."""


class _Endpoint:
    """What is known of one of them by itself."""

    __slots__ = ("heard_s", "is_several", "under_way")

    def __init__(self) -> None:
        self.under_way = 0
        self.heard_s = 0.0
        """When it last gave a sign of life, or was first asked since it owes nothing."""
        self.is_several = False


class Router:
    """Of one client. Use it on one event loop."""

    route_of = staticmethod(route_of)

    def __init__(self, endpoints: Sequence[str], ask: Ask, source: random.Random | None = None) -> None:
        self._endpoints = {endpoint: _Endpoint() for endpoint in endpoints}
        self._ask, self._random = ask, source or random.Random()
        self._turn = self._random.randrange(1 << 16)
        self._table: RoutingTable | None = None
        self._asked_for = 0
        self._next_look_s = float("inf")
        self._pause_s = LOOK_AGAIN_S
        self._is_doubted = False
        self._looking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Learns nothing more."""
        self._next_look_s = float("inf")
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def first(self, route: Route) -> str | None:
        """Whom to ask first; None where that makes no difference, or nothing is known."""
        table = self._table
        if table is not None and table.all_are_replicas and not route.to_primary:
            return None
        now_s = asyncio.get_running_loop().time()
        self._asked_for += 1
        if self._asked_for == LEARN_AFTER:
            self._next_look_s = now_s
        if now_s >= self._next_look_s and self._looking is None:
            self._look()
        while table is not None and (endpoint := table.endpoint_for(route)) is not None:
            if not self._is_silent(endpoint, now_s):
                return endpoint
            self.failed(endpoint)
            table = self._table
        return None

    # -- what becomes of requests ----------------------------------------------------------------------------------

    def asked(self, endpoint: str) -> None:
        """A request that should be answered soon is on its way there; ended() follows."""
        known = self._endpoints.get(endpoint)
        if known is not None:
            if not known.under_way:
                known.heard_s = asyncio.get_running_loop().time()
            known.under_way += 1

    def ended(self, endpoint: str) -> None:
        """It is not under way any more, whatever became of it."""
        known = self._endpoints.get(endpoint)
        if known is not None:
            known.under_way -= 1

    def answered(self, endpoint: str, headers: Mapping[str, str]) -> None:
        """It has answered, so."""
        known, table = self._endpoints.get(endpoint), self._table
        if known is None:
            return
        known.heard_s = asyncio.get_running_loop().time()
        if headers.get("Connection") == "close":  # it is about to stop
            self.failed(endpoint)
        signature = table.signatures.get(endpoint) if table is not None else None
        receipt = headers.get("KV-Receipt")
        if signature is None or receipt is None or signature in receipt + ",":
            return
        if signature.partition(" ")[0] not in receipt:
            known.is_several = True
        self.failed(endpoint)

    def failed(self, endpoint: str) -> None:
        """Nothing came of a request there, or it is not who it was taken for: others are asked first until a look."""
        if self._table is not None and endpoint in self._table.signatures:
            self._table = self._table.without(endpoint)
            self._pause_s = LOOK_AGAIN_S
            self._is_doubted = True
            self._next_look_s = min(self._next_look_s, self._in(LOOK_AGAIN_S))

    # -- looking ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._is_doubted, self._next_look_s = False, float("inf")
        self._looking = asyncio.create_task(self._look_at_all())  # noqa: TID251 - held here until it ends

    async def _look_at_all(self) -> None:
        try:
            told = await asyncio.gather(*(self._overview(endpoint) for endpoint in self._endpoints))
            self._learn({one: overview for one, overview in zip(self._endpoints, told, strict=True) if overview})
        finally:
            self._looking = None

    async def _overview(self, endpoint: str) -> Overview | None:
        known = self._endpoints[endpoint]
        page = None if known.is_several else await self._ask(endpoint, LOOK_TIMEOUT_S)
        if page is None:
            return None
        known.heard_s = asyncio.get_running_loop().time()
        try:
            return decode_overview(page)
        except msgspec.MsgspecError:  # no node, or one of another age
            return None

    def _learn(self, told: Mapping[str, Overview]) -> None:
        self._table = RoutingTable.of(told, self._turn)
        if self._is_doubted:
            self._pause_s = LOOK_AGAIN_S
        elif len(told) == len(self._endpoints):
            self._pause_s = LOOK_EVERY_S
        self._next_look_s = self._in(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LOOK_EVERY_S)

    def _in(self, seconds: float) -> float:
        return asyncio.get_running_loop().time() + seconds * self._random.uniform(1 - SPREAD, 1 + SPREAD)

    def _is_silent(self, endpoint: str, now_s: float) -> bool:
        known = self._endpoints[endpoint]
        return known.under_way > 0 and now_s - known.heard_s > SILENT_S
