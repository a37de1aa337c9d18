"""convergence: weak and eventual writes through all nodes, on both sides of any cut; in the end, equal replicas."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from kvstore.client_errors import ClientError
from kvstore.http_client import HttpClient
from kvstore.verify.history import Kind
from kvstore.verify.workloads.mixed import WEAK_LEVELS, weak_put
from kvstore.verify.workloads.worker import Worker
from kvstore.verify.workloads.workload import RotatingKeys, Unique, seen

KEYS_AT_ONCE = 4
CALLS_EACH = 100
WRITES, DELETIONS = 0.7, 0.8
"""Up to here a step writes, deletes; above it reads."""
EQUAL_WITHIN_S = 60.0
"""Once the network is whole. Anti-entropy looks every few seconds; hints and read repair are quicker."""
LOOK_EVERY_S = 0.5


class Convergence:
    """A few keys that everybody writes to, without asking anybody."""

    name = "convergence"

    def __init__(self, prefix: str, http: HttpClient, weak_copies: int = 1) -> None:
        """http: to ask each node what the replicas hold. weak_copies: replicas that acknowledge each write."""
        self._copies = weak_copies
        self._keys = RotatingKeys(f"{prefix}e", KEYS_AT_ONCE, CALLS_EACH)
        self._unique = Unique()
        self._http = http
        self._is_inspected = False

    async def step(self, worker: Worker) -> None:
        """One call."""
        key, draw = self._keys.draw(worker.dice), worker.dice.random()
        if draw < WRITES:
            await weak_put(worker, key, self._unique(), self._copies)
            return
        level = worker.dice.choice(WEAK_LEVELS)
        if draw < DELETIONS:
            await worker.call(
                Kind.WEAK_DELETE,
                key,
                lambda: worker.client.delete(key, consistency=level, w=self._copies),
                lambda written: {"version": written.version},
                level=level,
            )
        else:
            await worker.call(Kind.WEAK_READ, key, lambda: worker.client.get(key, consistency=level), seen, level=level)

    async def finish(self, worker: Worker) -> bool:
        """Waits until the replicas are equal, a while at most; then each node is asked what they hold."""
        if self._is_inspected:  # by another worker: once is enough
            return True
        self._is_inspected = True
        await self._wait_equal()
        for endpoint in self._http.endpoints:
            for key in self._keys.all():
                await self._inspect(worker, key, endpoint)
        return True

    async def _wait_equal(self) -> None:
        now_s = asyncio.get_running_loop().time
        end_s = now_s() + EQUAL_WITHIN_S
        waiting = self._keys.all()
        while waiting and now_s() < end_s:
            waiting = [key for key in waiting if not await self._are_equal(key)]
            if waiting:
                await asyncio.sleep(LOOK_EVERY_S)

    async def _are_equal(self, key: str) -> bool:
        held = await self._held(key, self._http.endpoints[0])
        return held is not None and "unreachable" not in held.values() and len(set(held.values())) == 1

    async def _inspect(self, worker: Worker, key: str, endpoint: str) -> None:
        """One call for each replica, for each is looked at by itself."""
        held = await self._held(key, endpoint) or {}
        for name, version in held.items():
            if version == "unreachable":
                continue
            told = partial(_echo, {"version": version})
            await worker.call(Kind.INSPECT, key, told, dict, node=name, asked=endpoint)

    async def _held(self, key: str, endpoint: str) -> dict[str, Any] | None:
        """Replica -> the version that it holds; None when the node does not answer."""
        query = {"key": key, "versions": "true"}
        try:
            answer = await self._http.request("GET", "/v1/cluster/partitions", query=query, only=endpoint)
        except ClientError:
            return None
        return {replica["name"]: replica["version"] for replica in answer.json()["replicas"]}


async def _echo(said: dict[str, Any]) -> dict[str, Any]:
    return said
