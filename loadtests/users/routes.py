"""Which node a user asks first: its key's primary, or a replica, as the Python client does it (kvstore/routing)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import parse_qsl
from urllib.request import urlopen

import gevent
import msgspec

from kvstore.paths import CLUSTER
from kvstore.routing.route import route_of
from kvstore.routing.table import Overview, RoutingTable, decode_overview

LOOK_EVERY_S = 2.0
"""One look serves all users of a process, so it may come often: nodes come and go in these tests."""
LOOK_TIMEOUT_S = 1.0

Ask = Callable[[str], bytes | None]


class Routes:
    """What the users of one process know of the cluster."""

    def __init__(
        self,
        nodes: Sequence[str],
        ask: Ask | None = None,
        now_s: Callable[[], float] = time.monotonic,
        turn: int = 0,
    ) -> None:
        """ask: (node) -> its GET /v1/cluster, or None. turn: see RoutingTable."""
        self._nodes, self._ask, self._now_s, self._turn = nodes, ask or _overview, now_s, turn
        self._table: RoutingTable | None = None
        self._next_look_s = 0.0
        self._has_looked = False
        self._looking: gevent.Greenlet | None = None

    def first(self, method: str, target: str, headers: Mapping[str, str], waits: bool = False) -> str | None:
        """The node to ask first; None where that makes no difference. target: path and query."""
        if len(self._nodes) < 2:
            return None
        if self._now_s() >= self._next_look_s:
            self._next_look_s = self._now_s() + LOOK_EVERY_S
            self._looking = gevent.spawn(self._look)
        if not self._has_looked and self._looking is not None:  # nobody begins before it is known who is who
            self._looking.join()
        path, _, query = target.partition("?")
        route = route_of(method, path, dict(parse_qsl(query)), headers, waits=waits)
        return None if route is None or self._table is None else self._table.endpoint_for(route)

    def failed(self, node: str) -> None:
        """Nothing came of a request there."""
        if self._table is not None:
            self._table = self._table.without(node)

    def _look(self) -> None:
        asking = [gevent.spawn(self._ask, node) for node in self._nodes]
        gevent.joinall(asking)
        told: dict[str, Overview] = {}
        for node, one in zip(self._nodes, asking, strict=True):
            try:
                if one.value is not None:
                    told[node] = decode_overview(one.value)
            except msgspec.MsgspecError:
                continue
        self._table = RoutingTable.of(told, self._turn)
        self._has_looked = True


def _overview(node: str) -> bytes | None:
    try:
        with urlopen(node + CLUSTER, timeout=LOOK_TIMEOUT_S) as page:
            body: bytes = page.read()
            return body
    except OSError:
        return None
