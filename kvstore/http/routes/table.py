"""Which path and method leads where. There is no router: keys are nearly all of the traffic and have their own way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

from aiohttp.web_request import BaseRequest

from kvstore.http.head import StraightHead
from kvstore.http.incoming.body import Content
from kvstore.http.outgoing.answer import Answer
from kvstore.http.routes.batch import Batch
from kvstore.http.routes.cluster import ClusterPages
from kvstore.http.routes.convergence import Convergence
from kvstore.http.routes.health import Health
from kvstore.http.routes.kv import KeyValue, Respond
from kvstore.http.routes.listing import Listing
from kvstore.http.routes.locking.elections import Elections
from kvstore.http.routes.locking.locks import Locks
from kvstore.http.routes.locking.votes import Votes
from kvstore.http.routes.openapi.document import OpenApi
from kvstore.http.routes.service import Service
from kvstore.paths import BATCH, CLUSTER, ELECTIONS, HELD_LOCKS, KEYS, LISTING, LOCKS, VOTES

NameHandler = Callable[[BaseRequest, str, str], Awaitable[Answer]]
"""Of the request, the key or name as it stands in the path, and the query."""
StraightHandler = Callable[[StraightHead, str, str, Content, Respond], None]
"""Of the head, the key as it stands in the path, the query, and the body; what it answers goes to the last."""
PageHandler = Callable[[BaseRequest, str, str], Awaitable[Answer]]
"""Of the request, the query, and the request's id."""


@dataclass(frozen=True, slots=True)
class Routes:
    """The handlers, by method."""

    named: tuple[tuple[str, Mapping[str, NameHandler]], ...]
    """By what comes before a key or name, keys first."""
    straight: Mapping[str, StraightHandler]
    """For keys, by method: those that need no task."""
    pages: Mapping[str, Mapping[str, PageHandler]]
    """By path."""
    vital: frozenset[str] = frozenset({"/livez", "/readyz", "/metrics"})
    """Paths that are answered however much there is to do: whoever watches the node must see why."""

    def methods(self, path: str) -> Collection[str]:
        """What may be done with a path; empty where nothing is served."""
        found = (handlers for prefix, handlers in self.named if path.startswith(prefix))
        return next(found, self.pages.get(path, {}))


def routes(service: Service, health: Health) -> Routes:
    """All that is served."""
    kv, cluster, listing = KeyValue(service), ClusterPages(service), Listing(service)
    locks, votes, elections = Locks(service), Votes(service), Elections(service)
    return Routes(
        named=(
            (KEYS, {"GET": kv.get, "HEAD": kv.get, "PUT": kv.put, "DELETE": kv.delete}),
            (LOCKS, _leased(locks.acquire, locks.renew, locks.release, locks.show)),
            (VOTES, {"GET": votes.decision, "HEAD": votes.decision, "POST": votes.propose}),
            (ELECTIONS, _leased(elections.campaign, elections.renew, elections.resign, elections.show)),
        ),
        straight={"GET": kv.begin_get, "HEAD": kv.begin_get, "PUT": kv.begin_put},
        pages={
            LISTING: _readable(listing.get),
            HELD_LOCKS: _readable(locks.list_held),
            BATCH: {"POST": Batch(service).post},
            "/v1/repair": {"POST": Convergence(service).repair},
            CLUSTER: _readable(cluster.overview),
            f"{CLUSTER}/partitions": _readable(cluster.placement),
            "/livez": _readable(health.live),
            "/readyz": _readable(health.ready),
            "/metrics": _readable(health.measure),
            "/openapi.json": _readable(OpenApi(service).get),
        },
    )


def _leased(
    take: NameHandler, renew: NameHandler, give_back: NameHandler, show: NameHandler
) -> Mapping[str, NameHandler]:
    return {"GET": show, "HEAD": show, "POST": take, "PUT": renew, "DELETE": give_back}


def _readable(handler: PageHandler) -> Mapping[str, PageHandler]:
    return {"GET": handler, "HEAD": handler}
