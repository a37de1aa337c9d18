"""HttpStore: a cluster as a Store. Each method says what its call is, and reads the answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import orjson
from msgspec import json

from kvstore.client.over_http.answers import (
    FenceBody,
    GrantBody,
    Result,
    decision_of,
    duration_text,
    etag,
    fence_text,
    lock_info_of,
    lock_infos_of,
    operation_json,
    page_of,
    read,
    receipt_of,
    result_of,
    value_of,
    written_of,
)
from kvstore.client.over_http.calls import AppliedBefore, Call, Caller, Kind
from kvstore.client.over_http.problems import error_of_fields
from kvstore.client.store import TIMEOUT_S
from kvstore.client.values import (
    Consistency,
    Count,
    Decision,
    Fence,
    Get,
    Lease,
    LockInfo,
    Operation,
    Page,
    Results,
    Value,
    Written,
)
from kvstore.errors import BadRequest, LockLost
from kvstore.http_client import Answer, HttpClient
from kvstore.paths import BATCH, HELD_LOCKS, LISTING, key_path

LOCKS_PAGE = "1000"
"""The most that a node lists at once."""
_JSON = {"Content-Type": "application/json"}
_DEFAULT_TYPE = {"Content-Type": "application/octet-stream"}


class HttpStore:
    """The nodes at these addresses. The methods are described in client/store.py."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout_s: float = TIMEOUT_S,
        source: random.Random | None = None,
        routing: bool = True,
    ) -> None:
        """routing: see connect(). Raises ValueError for an empty list, or for an address that is none."""
        self._http = HttpClient(endpoints, connections_max=0, routing=routing)  # Caller bounds the calls
        self._timeout_s = timeout_s
        self._caller = Caller(self._http, source)

    @property
    def timeout_s(self) -> float:
        """The deadline of calls that name none."""
        return self._timeout_s

    async def open(self) -> None:
        """Nothing is sent before the first call."""
        self._http.open()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    # -- keys and values -------------------------------------------------------------------------------------------

    async def get(
        self,
        key: str,
        *,
        fence: Fence | None,
        consistency: Consistency | None,
        r: Count | None,
        timeout_s: float | None,
    ) -> Value | None:
        """The value; None where there is none."""
        call = Call(Kind.READ, "GET", key_path(key), _query(consistency=consistency, r=r), _condition(None, fence))
        try:
            return await self._answered(call, timeout_s, lambda answer: value_of(key, answer))
        except BadRequest as error:
            if error.code == "not-found":
                return None
            raise

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        if_match: str | None,
        create: bool,
        fence: Fence | None,
        ttl_s: float | None,
        content_type: str | None,
        consistency: Consistency | None,
        w: Count | None,
        timeout_s: float | None,
    ) -> Written:
        """Writes the value."""
        headers = _DEFAULT_TYPE if content_type is None else {"Content-Type": content_type}
        headers = headers | _condition(if_match, fence) | ({"If-None-Match": "*"} if create else {})
        ttl = None if ttl_s is None else duration_text(ttl_s)
        query = _query(consistency=consistency, w=w, ttl=ttl)
        call = Call(Kind.WRITE, "PUT", key_path(key), query, headers, value)
        return await self._answered(call, timeout_s, written_of)

    async def delete(
        self,
        key: str,
        *,
        if_match: str | None,
        fence: Fence | None,
        consistency: Consistency | None,
        w: Count | None,
        timeout_s: float | None,
    ) -> Written:
        """Deletes."""
        query = _query(consistency=consistency, w=w)
        call = Call(Kind.WRITE, "DELETE", key_path(key), query, _condition(if_match, fence))
        return await self._answered(call, timeout_s, written_of)

    async def page(
        self,
        prefix: str,
        *,
        values: bool,
        after: str | None,
        limit: int,
        consistency: Consistency | None,
        r: Count | None,
        timeout_s: float | None,
    ) -> Page:
        """A part of the keys with this prefix."""
        query = _query(
            prefix=prefix or None,
            values="true" if values else None,
            after=after,
            limit=limit,
            consistency=consistency,
            r=r,
        )
        return await self._answered(Call(Kind.READ, "GET", LISTING, query), timeout_s, page_of)

    async def batch(
        self,
        operations: Sequence[Operation],
        *,
        consistency: Consistency | None,
        r: Count | None,
        w: Count | None,
        timeout_s: float | None,
    ) -> Results:
        """One result for each operation, in order."""
        only_reads = all(isinstance(operation, Get) for operation in operations)
        kind = Kind.REPEATABLE if only_reads else Kind.WRITE
        body = orjson.dumps({"operations": [operation_json(operation) for operation in operations]})
        call = Call(kind, "POST", BATCH, _query(consistency=consistency, r=r, w=w), _JSON, body)
        answer = await self._caller.send(call, self._deadline(timeout_s))
        return read(answer, lambda answer: _results_of(operations, answer), is_read=only_reads)

    # -- locks -----------------------------------------------------------------------------------------------------

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, wait_s: float, permits: int, timeout_s: float | None
    ) -> Lease:
        """Takes the lock. When the call is cancelled its connection closes, and the cluster passes it over."""
        told: dict[str, Any] = {"owner": owner, "ttl": duration_text(ttl_s)}
        if permits != 1:
            told["permits"] = permits

        def body(wait_left_s: float) -> bytes:
            return orjson.dumps({**told, "wait": duration_text(wait_left_s)})

        call = Call(Kind.WRITE, "POST", _path("locks", name), {}, _JSON, body, wait_s)
        grant = await self._answered(call, timeout_s, lambda answer: json.decode(answer.body, type=GrantBody))
        return Lease(name, grant.owner, grant.token, grant.fence, ttl_s)

    async def renew(self, name: str, token: str, *, timeout_s: float | None) -> None:
        """Begins the lease anew."""
        body = orjson.dumps({"token": token})
        call = Call(Kind.REPEATABLE, "PUT", _path("locks", name), {}, _JSON, body)
        await self._answered(call, timeout_s, lambda answer: json.decode(answer.body, type=FenceBody))

    async def release(self, name: str, token: str, *, timeout_s: float | None) -> None:
        """Gives the lock back. Refused as lost once an answer was lost, it was given back by that."""
        headers = {"KV-Lock-Token": token}
        call = Call(Kind.REPEATABLE, "DELETE", _path("locks", name), {}, headers, done_if=LockLost)
        with suppress(AppliedBefore):
            await self._answered(call, timeout_s, lambda answer: json.decode(answer.body, type=FenceBody))

    async def lock_info(self, name: str, *, timeout_s: float | None) -> LockInfo | None:
        """The lock as it stands; None where nobody holds it."""
        try:
            call = Call(Kind.READ, "GET", _path("locks", name))
            return await self._answered(call, timeout_s, lambda answer: lock_info_of(answer.json()))
        except BadRequest as error:
            if error.code == "not-held":
                return None
            raise

    async def locks(self, prefix: str, *, timeout_s: float | None) -> list[LockInfo]:
        """All locks with this prefix that somebody holds."""
        found: list[LockInfo] = []
        after: str | None = None
        while True:
            query = _query(prefix=prefix or None, after=after, limit=LOCKS_PAGE)
            infos, after = await self._answered(Call(Kind.READ, "GET", HELD_LOCKS, query), timeout_s, lock_infos_of)
            found += infos
            if after is None:
                return found

    # -- votes -----------------------------------------------------------------------------------------------------

    async def propose(self, name: str, candidate: str, value: Any, *, timeout_s: float | None) -> Decision:
        """Decides the vote if nobody has. Proposing the same again after a lost answer does no harm."""
        body = orjson.dumps({"candidate": candidate, "value": value})
        call = Call(Kind.REPEATABLE, "POST", _path("votes", name), {}, _JSON, body)
        return await self._answered(call, timeout_s, decision_of)

    async def decision(self, name: str, *, timeout_s: float | None) -> Decision | None:
        """What the vote decided; None while nothing is."""
        try:
            call = Call(Kind.READ, "GET", _path("votes", name))
            return await self._answered(call, timeout_s, decision_of)
        except BadRequest as error:
            if error.code == "not-found":
                return None
            raise

    async def _answered(self, call: Call, timeout_s: float | None, reader: Callable[[Answer], Result]) -> Result:
        answer = await self._caller.send(call, self._deadline(timeout_s))
        return read(answer, reader, is_read=call.kind is Kind.READ)

    def _deadline(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


def _results_of(operations: Sequence[Operation], answer: Answer) -> Results:
    receipt = receipt_of(answer.headers)
    results: Results = []
    for operation, result in zip(operations, answer.json()["results"], strict=True):
        is_read = isinstance(operation, Get)
        if result["status"] < 400:
            results.append(result_of(operation, result, receipt))
        elif is_read and result["status"] == 404:
            results.append(None)
        else:
            results.append(error_of_fields(result["status"], result, {}, is_read))
    return results


def _path(kind: str, name: str) -> str:
    return f"/v1/{kind}/{quote(name, safe='/')}"


def _query(**parameters: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None}


def _condition(if_match: str | None, fence: Fence | None) -> dict[str, str]:
    headers = {}
    if if_match is not None:
        headers["If-Match"] = etag(if_match)
    if fence is not None:
        headers["KV-Fence"] = fence_text(fence)
    return headers
