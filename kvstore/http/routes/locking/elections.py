"""/v1/elections: who leads. An election is the lock of the same name, seen as leadership: its term is the lock's fence.

So `KV-Fence: NAME=TERM` guards what a leader writes, and a leader of an earlier term is refused by the store itself.
"""

from __future__ import annotations

from typing import Any

from aiohttp.web_request import BaseRequest

from cluster.locks.outcomes import LockGranted
from kvstore.http.incoming.durations import duration_text
from kvstore.http.incoming.lock_bodies import parse_campaign
from kvstore.http.outgoing.answer import Answer
from kvstore.http.outgoing.problems import Problem
from kvstore.http.routes.locking.leases import Leases, counted, expires_in_s, json_answer
from kvstore.http.routes.service import Service

Members = dict[str, Any]


class Elections:
    """Elections of one leader at a time."""

    def __init__(self, service: Service) -> None:
        self._metrics = service.metrics
        self._leases = Leases(service, service.parameters.election)

    async def campaign(self, request: BaseRequest, raw_name: str, query: str) -> Answer:
        """POST."""
        with counted(self._metrics, "campaign"):
            taken = await self._leases.take(request, raw_name, query, parse_campaign)
            return json_answer(201, _grant(taken.name, taken.grant, token=taken.token), taken.has_waited)

    async def renew(self, request: BaseRequest, raw_name: str, query: str) -> Answer:
        """PUT."""
        with counted(self._metrics, "renew-term"):
            name, grant = await self._leases.renew(request, raw_name, query)
            return json_answer(200, _grant(name, grant))

    async def resign(self, request: BaseRequest, raw_name: str, query: str) -> Answer:
        """DELETE."""
        with counted(self._metrics, "resign"):
            name, released = await self._leases.release(request, raw_name, query)
            return json_answer(200, {"name": name, "term": released.fence})

    async def show(self, request: BaseRequest, raw_name: str, query: str) -> Answer:
        """GET and HEAD."""
        with counted(self._metrics, "leader"):
            shown = await self._leases.look(request, raw_name, query)
            if shown.permits > 1:
                detail = f"The lock of this name is held with {shown.permits} permits, so nobody leads by it."
                raise Problem("not-held", detail, outcome="none", permits=shown.permits)
            leader = shown.holders[0]
            return json_answer(
                200,
                {
                    "name": shown.name,
                    "leader": leader.owner,
                    "term": leader.fence,
                    "lease": duration_text(leader.ttl_ms),
                    "expires_in": expires_in_s(leader),
                    "candidates": shown.waiters,
                },
            )


def _grant(name: str, grant: LockGranted, **told: str) -> Members:
    return {"name": name, "leader": grant.owner, "term": grant.fence, **told, "ttl": duration_text(grant.ttl_ms)}
