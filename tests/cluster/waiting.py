"""Clients that wait for locks, many at once, each on a connection of its own, and who the keeper of a lock is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp

from cluster.locks.lock_state import lock_key
from cluster.membership.placement import partition_of, replica_set
from tests.cluster.harness import READY_TIMEOUT_S, ClusterHarness, NotInTime

PARTITIONS = 64


def keepers_of(cluster: ClusterHarness, lock: str) -> tuple[str, ...]:
    """The nodes that keep the lock, in order of preference: the first that lives is its keeper."""
    return replica_set(partition_of(lock_key(lock), PARTITIONS), dict.fromkeys(cluster.names, ""), 3)


async def until(condition: Any, what: str) -> None:
    """Waits until the asynchronous condition is true. Raises NotInTime."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not await condition():  # noqa: ASYNC110 - what happens in other processes sets no event here
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise NotInTime(f"waited {READY_TIMEOUT_S:g} s in vain for: {what}") from None


@dataclass
class Lockers:
    """Asks for locks through any node. `granted` tells who was granted one, in the order in which it was heard."""

    cluster: ClusterHarness
    granted: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Lockers:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._waiting: set[asyncio.Task[Any]] = set()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        await self._session.close()

    async def acquire(self, node: str, lock: str, owner: str, ttl: str = "30s", wait: str = "0s") -> Any:
        """The grant, or the problem; with `status`."""
        wish = {"owner": owner, "ttl": ttl, "wait": wait}
        async with self._session.post(self._url(node, lock), json=wish) as answer:
            return {"status": answer.status, **await answer.json(content_type=None)}

    async def release(self, node: str, lock: str, token: str) -> int:
        """The status."""
        async with self._session.delete(self._url(node, lock), headers={"KV-Lock-Token": token}) as answer:
            return answer.status

    async def renew(self, node: str, lock: str, token: str) -> int:
        """The status."""
        async with self._session.put(self._url(node, lock), json={"token": token}) as answer:
            return answer.status

    async def waiters(self, node: str, lock: str) -> int:
        """How many wait, as this node tells it."""
        async with self._session.get(self._url(node, lock)) as answer:
            return int((await answer.json(content_type=None)).get("waiters", 0))

    def take_turn(self, node: str, lock: str, owner: str, ttl: str = "30s", wait: str = "120s") -> asyncio.Task[Any]:
        """Waits for the lock, notes that it was granted, and releases it at once, all in the background."""

        async def turn() -> Any:
            grant = await self.acquire(node, lock, owner, ttl, wait)
            if grant["status"] == 201:
                self.granted.append(owner)
                await self.release(node, lock, grant["token"])
            return grant

        task = asyncio.get_running_loop().create_task(turn())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task

    async def in_line(self, node: str, lock: str, count: int) -> None:
        """Waits until so many stand in the line."""

        async def are_there() -> bool:
            return await self.waiters(node, lock) == count

        await until(are_there, f"{count} to wait for {lock}")

    async def have_been_granted(self, count: int) -> None:
        """Waits until so many have had their turn."""

        async def are_through() -> bool:
            return len(self.granted) >= count

        await until(are_through, f"{count} to be granted the lock")

    def _url(self, node: str, lock: str) -> str:
        return self.cluster.url(node, "/v1/locks/" + quote(lock, safe=""))
