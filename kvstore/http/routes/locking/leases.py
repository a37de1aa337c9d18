"""What locks and elections share: a lease is taken, renewed, given back, looked at. The two differ in their words.

The token is made here and told once, in the answer to who was granted the lease. The node behind gets its digest.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
from aiohttp.web_request import BaseRequest

from cluster.locks.lock_state import Wish, token_digest
from cluster.locks.outcomes import (
    AcquireOutcome,
    HolderShown,
    LockBusy,
    LockGranted,
    LockLost,
    LockReleased,
    LockShown,
)
from kvstore.http.connection import WaitingClient, waiting_client
from kvstore.http.incoming.conditions import refuse_fence
from kvstore.http.incoming.key_path import decode_name
from kvstore.http.incoming.lock_bodies import LOCK_BODY_BYTES_MAX, Asked, parse_token, token_header
from kvstore.http.incoming.media import refuse_encoding, require_acceptable, require_json
from kvstore.http.incoming.parameters import LockChoice, Parameters
from kvstore.http.outgoing.answer import JSON, Answer
from kvstore.http.outgoing.lock_outcomes import (
    RELEASE_UNKNOWN,
    RENEW_UNKNOWN,
    change_problem,
    grant_unknown,
    held_problem,
    look_problem,
    lost_problem,
)
from kvstore.http.outgoing.problems import Problem
from kvstore.http.routes.service import Service
from kvstore.metrics import Metrics

T = TypeVar("T")

TOKEN_BYTES = 24
"""Of chance, in each token: nobody guesses 192 bits."""
_HEADERS = f"{JSON}Cache-Control: no-store\r\n"


class Taken(msgspec.Struct, frozen=True, gc=False):
    """A lease that was just granted."""

    name: str
    token: str
    grant: LockGranted
    has_waited: bool


class Leases:
    """The four things that can be done with a lease."""

    def __init__(self, service: Service, parameters: Parameters[LockChoice]) -> None:
        self._service = service
        self._locks = service.locks
        self._parameters = parameters
        self._clock = asyncio.get_running_loop().time

    async def take(self, request: BaseRequest, raw_name: str, query: str, parse: Callable[[bytes], Asked]) -> Taken:
        """Takes the lease, if need be after waiting as long as its client chose. Raises Problem."""
        require_sendable(request)
        name, timeout_s = decode_name(raw_name), self._timeout_s(query)
        asked = await read_json(self._service, request, LOCK_BODY_BYTES_MAX, parse)
        token = secrets.token_hex(TOKEN_BYTES)
        wish = Wish(asked.owner, token_digest(token), asked.ttl_ms, asked.permits)
        try:
            with waiting_client(request, asked.wait_s > 0) as client:
                outcome = await self._acquire(name, wish, asked.wait_s, timeout_s, client)
                await self._take_back_if_gone(name, wish, timeout_s, client, outcome)
            return Taken(name, token, _granted(outcome, wish), asked.wait_s > 0)
        except Problem as problem:
            problem.has_waited = asked.wait_s > 0
            raise

    async def renew(self, request: BaseRequest, raw_name: str, query: str) -> tuple[str, LockGranted]:
        """Begins the lease of the token in the body anew; the name, and the grant. Raises Problem."""
        require_sendable(request)
        name, timeout_s = decode_name(raw_name), self._timeout_s(query)
        token = await read_json(self._service, request, LOCK_BODY_BYTES_MAX, parse_token)
        outcome = await self._locks.renew(name, token_digest(token), timeout_s)
        if isinstance(outcome, LockLost):
            raise lost_problem()
        if not isinstance(outcome, LockGranted):
            raise change_problem(outcome, RENEW_UNKNOWN)
        return name, outcome

    async def release(self, request: BaseRequest, raw_name: str, query: str) -> tuple[str, LockReleased]:
        """Gives back what the token in the header holds; the name, and the grant that ended. Raises Problem."""
        require_answerable(request)
        name, timeout_s = decode_name(raw_name), self._timeout_s(query)
        token = token_header(request.headers)
        self._service.bodies.done(await self._service.bodies.read(request, 0))
        outcome = await self._locks.release(name, token_digest(token), timeout_s)
        if isinstance(outcome, LockLost):
            raise lost_problem()
        if not isinstance(outcome, LockReleased):
            raise change_problem(outcome, RELEASE_UNKNOWN)
        return name, outcome

    async def look(self, request: BaseRequest, raw_name: str, query: str) -> LockShown:
        """The lock as it stands. Raises Problem, not-held too."""
        require_answerable(request)
        name = decode_name(raw_name)
        outcome = await self._locks.show(name, self._timeout_s(query))
        if not isinstance(outcome, LockShown):
            raise look_problem(outcome)
        if not outcome.holders:
            raise Problem("not-held", "Nobody holds it now.", outcome="none", fence=outcome.fence)
        return outcome

    def _timeout_s(self, query: str) -> float:
        return self._parameters.parse(query, self._service.view.n).timeout_s

    async def _acquire(
        self, name: str, wish: Wish, wait_s: float, timeout_s: float, client: WaitingClient
    ) -> AcquireOutcome:
        if not wait_s:
            return await self._locks.acquire(name, wish, wait_s, timeout_s, client)
        with self._service.waiters.place():
            started_s = self._clock()
            try:
                return await self._locks.acquire(name, wish, wait_s, timeout_s, client)
            finally:
                self._service.metrics.count_wait(self._clock() - started_s)

    async def _take_back_if_gone(
        self, name: str, wish: Wish, timeout_s: float, client: WaitingClient, outcome: AcquireOutcome
    ) -> None:
        """Nobody will hear of this grant, so it is not left to run out. Raises ConnectionError when the client is gone.

        Between here and the socket nothing else is awaited.
        """
        if client.is_here:
            return
        if isinstance(outcome, LockGranted):
            await self._locks.release(name, wish.token, timeout_s)
        raise ConnectionResetError("the client has gone")


def require_sendable(request: BaseRequest) -> None:
    """Of a request with a JSON body. Raises Problem."""
    require_answerable(request)
    require_json(request.headers)
    refuse_encoding(request.headers)


def require_answerable(request: BaseRequest) -> None:
    """Of any request about locks. Raises Problem."""
    refuse_fence(request.headers)
    require_acceptable(request.headers, "application/json")


async def read_json(service: Service, request: BaseRequest, limit: int, parse: Callable[[bytes], T]) -> T:
    """What the body says; it is out of memory again before anything is waited for. Raises Problem."""
    body = await service.bodies.read(request, limit)
    try:
        return parse(body)
    finally:
        service.bodies.done(body)


@contextmanager
def counted(metrics: Metrics, operation: str) -> Iterator[None]:
    """Counts how the block ends."""
    outcome = "internal"
    try:
        yield
        outcome = "ok"
    except Problem as problem:
        outcome = problem.code
        raise
    except ConnectionError:
        outcome = "gone"
        raise
    finally:
        metrics.count_lock(operation, outcome)


def json_answer(status: int, members: object, has_waited: bool = False) -> Answer:
    """An answer that nobody in between may keep."""
    answer = Answer(status, _HEADERS, msgspec.json.encode(members))
    answer.has_waited = has_waited
    return answer


def expires_in_s(holder: HolderShown) -> float | None:
    """In whole tenths, rounded down; None where the node that watches was not heard."""
    return None if holder.left_s is None else int(holder.left_s * 10) / 10


def _granted(outcome: AcquireOutcome, wish: Wish) -> LockGranted:
    if isinstance(outcome, LockBusy):
        raise held_problem(outcome, wish.permits)
    if not isinstance(outcome, LockGranted):
        raise change_problem(outcome, grant_unknown(wish.ttl_ms))
    return outcome
