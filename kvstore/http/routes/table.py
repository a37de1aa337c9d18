"""Which path and method leads where. There is no router: keys are nearly all of the traffic and have their own way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp.web_request import BaseRequest

from kvstore.http.outgoing.answer import Answer
from kvstore.http.routes.batch import Batch
from kvstore.http.routes.cluster import ClusterPages
from kvstore.http.routes.convergence import Convergence
from kvstore.http.routes.health import Health
from kvstore.http.routes.kv import KeyValue
from kvstore.http.routes.listing import Listing
from kvstore.http.routes.openapi import OpenApi
from kvstore.http.routes.service import Service

KEYS = "/v1/kv/"
"""What comes behind this is a key."""

KeyHandler = Callable[[BaseRequest, str, str], Awaitable[Answer]]
"""Of the request, the key as it stands in the path, and the query."""
PageHandler = Callable[[BaseRequest, str, str], Awaitable[Answer]]
"""Of the request, the query, and the request's id."""


@dataclass(frozen=True, slots=True)
class Routes:
    """The handlers, by method."""

    keys: Mapping[str, KeyHandler]
    pages: Mapping[str, Mapping[str, PageHandler]]
    """By path."""
    vital: frozenset[str] = frozenset({"/livez", "/readyz", "/metrics"})
    """Paths that are answered however much there is to do: whoever watches the node must see why."""


def routes(service: Service, health: Health) -> Routes:
    """All that is served."""
    kv, cluster, listing = KeyValue(service), ClusterPages(service), Listing(service)
    return Routes(
        keys={"GET": kv.get, "HEAD": kv.get, "PUT": kv.put, "DELETE": kv.delete},
        pages={
            "/v1/kv": _readable(listing.get),
            "/v1/batch": {"POST": Batch(service).post},
            "/v1/repair": {"POST": Convergence(service).repair},
            "/v1/cluster": _readable(cluster.overview),
            "/v1/cluster/partitions": _readable(cluster.placement),
            "/livez": _readable(health.live),
            "/readyz": _readable(health.ready),
            "/metrics": _readable(health.measure),
            "/openapi.json": _readable(OpenApi(service).get),
        },
    )


def _readable(handler: PageHandler) -> Mapping[str, PageHandler]:
    return {"GET": handler, "HEAD": handler}
