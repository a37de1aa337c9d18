"""/v1/locks: named locks with leases and fences. What they promise, and what not: docs/locks.md."""

from __future__ import annotations

from typing import Any

from aiohttp.web_request import BaseRequest

from cluster.locks.outcomes import HolderShown, LockGranted, LockShown, LocksListed
from kvstore.http.incoming.durations import duration_text
from kvstore.http.incoming.lock_bodies import parse_acquire
from kvstore.http.outgoing.answer import Answer
from kvstore.http.outgoing.lock_outcomes import look_problem
from kvstore.http.routes.locking.leases import Leases, counted, expires_in_s, json_answer, require_answerable
from kvstore.http.routes.service import Service

Members = dict[str, Any]


class Locks:
    """Locks, and semaphores, which are locks with more than one permit."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._metrics = service.metrics
        self._leases = Leases(service, service.parameters.lock)

    async def acquire(self, request: BaseRequest, raw_name: str, query: str) -> Answer:
        """POST."""
        with counted(self._metrics, "acquire"):
            taken = await self._leases.take(request, raw_name, query, parse_acquire)
            return json_answer(201, _grant(taken.name, taken.grant, token=taken.token), taken.has_waited)

    async def renew(self, request: BaseRequest, raw_name: str, query: str) -> Answer:
        """PUT."""
        with counted(self._metrics, "renew"):
            name, grant = await self._leases.renew(request, raw_name, query)
            return json_answer(200, _grant(name, grant))

    async def release(self, request: BaseRequest, raw_name: str, query: str) -> Answer:
        """DELETE."""
        with counted(self._metrics, "release"):
            name, released = await self._leases.release(request, raw_name, query)
            return json_answer(200, {"name": name, "fence": released.fence})

    async def show(self, request: BaseRequest, raw_name: str, query: str) -> Answer:
        """GET and HEAD."""
        with counted(self._metrics, "show"):
            return json_answer(200, _shown(await self._leases.look(request, raw_name, query)))

    async def list_held(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """GET and HEAD of all."""
        with counted(self._metrics, "list"):
            require_answerable(request)
            choice = self._service.parameters.locks.parse(query, self._service.view.n)
            outcome = await self._service.locks.list_held(choice.prefix, choice.after, choice.limit, choice.timeout_s)
            if not isinstance(outcome, LocksListed):
                raise look_problem(outcome)
            page: Members = {"locks": [_shown(lock) for lock in outcome.locks]}
            return json_answer(200, page if outcome.next_after is None else page | {"next": outcome.next_after})


def _grant(name: str, grant: LockGranted, **told: str) -> Members:
    permits = {"permits": grant.permits} if grant.permits > 1 else {}
    return {
        "name": name,
        "owner": grant.owner,
        **told,
        "fence": grant.fence,
        "ttl": duration_text(grant.ttl_ms),
        **permits,
    }


def _shown(lock: LockShown) -> Members:
    first = lock.holders[0]
    return {
        "name": lock.name,
        "holder": first.owner,
        "fence": lock.fence,
        "lease": duration_text(first.ttl_ms),
        "expires_in": expires_in_s(first),
        "waiters": lock.waiters,
        "permits": lock.permits,
        "holders": [_holder(holder) for holder in lock.holders],
    }


def _holder(holder: HolderShown) -> Members:
    return {
        "owner": holder.owner,
        "fence": holder.fence,
        "lease": duration_text(holder.ttl_ms),
        "expires_in": expires_in_s(holder),
    }
