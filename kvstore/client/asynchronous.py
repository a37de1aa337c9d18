"""AsyncClient: what an application calls, over any store. client/facade.py has the same methods without `await`."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from kvstore.client.comparing import Comparison
from kvstore.client.leases import Clock
from kvstore.client.listing import Pages
from kvstore.client.locking import AsyncElection, AsyncHold, AsyncLock
from kvstore.client.store import Store
from kvstore.client.values import (
    Consistency,
    Count,
    Decision,
    Entry,
    Fence,
    Fencing,
    LockInfo,
    LockInfos,
    Operation,
    Results,
    Value,
    Written,
    fence_of,
)

Hold = TypeVar("Hold", bound=AsyncHold)


class AsyncClient:
    """A client of a cluster or a file, for one event loop. Usable at once; `async with` closes it.

    Every call has one deadline, `timeout` seconds, whatever it takes to keep it: other nodes, later tries. What a
    call raises is a KvstoreError, which says whether the data may have changed (kvstore/errors.py).
    `consistency`, `r` and `w` are explained in docs/client.md.
    """

    def __init__(self, store: Store, *, consistency: Consistency | None = None, clock: Clock = time.monotonic) -> None:
        """consistency: of calls that name none; None is the cluster's default. clock: what leases are counted by."""
        self._store, self._consistency, self._clock = store, consistency, clock
        self._opening = asyncio.Lock()
        self._is_open = self._is_closed = False
        self._holds: weakref.WeakSet[AsyncHold] = weakref.WeakSet()

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes it, for good. Locks that are held are renewed no longer, and free themselves with their leases."""
        for hold in list(self._holds):
            await hold.abandon()
        was_open, self._is_closed = self._is_open and not self._is_closed, True
        if was_open:
            await self._store.close()

    # -- keys and values -------------------------------------------------------------------------------------------

    async def get(
        self,
        key: str,
        *,
        fence: Fence | Fencing | None = None,
        consistency: Consistency | None = None,
        r: Count | None = None,
        timeout: float | None = None,
    ) -> Value | None:
        """The value of a key; None where there is none.

        fence: a held lock, or its fence, for a value that decides what is written under it: from this read on who held
        the lock before does not write to the key. Fenced if the key has seen a higher one.
        """
        store = await self._opened()
        return await store.get(
            key, fence=fence_of(fence), consistency=consistency or self._consistency, r=r, timeout_s=timeout
        )

    async def put(
        self,
        key: str,
        value: bytes | str,
        *,
        if_match: Value | Written | str | None = None,
        create: bool = False,
        fence: Fence | Fencing | None = None,
        ttl: float | None = None,
        content_type: str | None = None,
        consistency: Consistency | None = None,
        w: Count | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Writes a value; text as UTF-8.

        if_match: only over this version, `*` over any, else VersionMismatch. create: only where there is no value,
        else Exists. fence: a held lock, or its fence: only if the key has seen no higher one, else Fenced.
        ttl: the value expires after so many seconds.
        """
        store = await self._opened()
        return await store.put(
            key,
            _bytes(value),
            if_match=_version(if_match),
            create=create,
            fence=fence_of(fence),
            ttl_s=ttl,
            content_type=content_type,
            consistency=consistency or self._consistency,
            w=w,
            timeout_s=timeout,
        )

    async def delete(
        self,
        key: str,
        *,
        if_match: Value | Written | str | None = None,
        fence: Fence | Fencing | None = None,
        consistency: Consistency | None = None,
        w: Count | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Deletes a key; deleting what is not there succeeds. The conditions are those of put()."""
        store = await self._opened()
        return await store.delete(
            key,
            if_match=_version(if_match),
            fence=fence_of(fence),
            consistency=consistency or self._consistency,
            w=w,
            timeout_s=timeout,
        )

    async def compare_and_set(
        self,
        key: str,
        expected: Value | bytes | str | None,
        value: bytes | str | None,
        *,
        fence: Fence | Fencing | None = None,
        ttl: float | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Writes the value if the key is as expected, as one step; value None deletes. Always strong.

        expected: bytes or text that the value must equal; a Value, whose version must still be there; None, the key
        must be absent. Raises VersionMismatch where it is not so, Exists where it should have been absent.
        """
        store = await self._opened()
        comparison = Comparison(
            store, key, None if value is None else _bytes(value), fence=fence, ttl_s=ttl, content_type=content_type
        )
        deadline_s = asyncio.get_running_loop().time() + (store.timeout_s if timeout is None else timeout)
        if isinstance(expected, Value):
            return await comparison.over_version(expected.version, deadline_s)
        if expected is None:
            return await comparison.over_nothing(deadline_s)
        return await comparison.over_value(_bytes(expected), deadline_s)

    async def list(
        self,
        prefix: str = "",
        *,
        values: bool = False,
        after: str | None = None,
        limit: int | None = None,
        consistency: Consistency | None = None,
        r: Count | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Entry]:
        """The keys with this prefix, in byte order, those behind `after`. No snapshot: pages are read as they come.

        timeout: for each page.
        """
        pages = self.pages(
            prefix, values=values, after=after, limit=limit, consistency=consistency, r=r, timeout=timeout
        )
        while not pages.is_over:
            for entry in await pages.next_page():
                yield entry

    def pages(
        self,
        prefix: str = "",
        *,
        values: bool = False,
        after: str | None = None,
        limit: int | None = None,
        consistency: Consistency | None = None,
        r: Count | None = None,
        timeout: float | None = None,
    ) -> Pages:
        """The same listing, a page at a time."""
        return Pages(
            self._opened,
            prefix,
            values=values,
            after=after,
            limit=limit,
            consistency=consistency or self._consistency,
            r=r,
            timeout_s=timeout,
        )

    async def batch(
        self,
        operations: Sequence[Operation],
        *,
        consistency: Consistency | None = None,
        r: Count | None = None,
        w: Count | None = None,
        timeout: float | None = None,
    ) -> Results:
        """Carries out many operations, Put, Get and Delete, with one result for each, in order. Not atomic.

        What was refused, or may have happened, is an error in the list; a Get of what is not there is None. Raises
        where nothing is known of any of them: OutcomeUnknown then holds for each.
        """
        store = await self._opened()
        return await store.batch(
            [_with_fence(operation) for operation in operations],
            consistency=consistency or self._consistency,
            r=r,
            w=w,
            timeout_s=timeout,
        )

    # -- locks, votes, elections -----------------------------------------------------------------------------------

    def lock(
        self, name: str, *, ttl: float = 10.0, wait: float | None = None, owner: str | None = None, permits: int = 1
    ) -> AsyncLock:
        """A lock, for `async with` or acquire() and release(). Nothing is sent yet.

        ttl: seconds that a dead holder keeps it; a living one renews it in the background. wait: how long to wait
        for it; None is 10 minutes, 0 tries once. permits: how many may hold it at once.
        """
        return self._remembered(
            AsyncLock(self._opened, name, owner, ttl_s=ttl, wait_s=wait, permits=permits, clock=self._clock)
        )

    async def locks(self, prefix: str = "", *, timeout: float | None = None) -> LockInfos:
        """The locks with this prefix that somebody holds."""
        return await (await self._opened()).locks(prefix, timeout_s=timeout)

    async def lock_info(self, name: str, *, timeout: float | None = None) -> LockInfo | None:
        """Who holds a lock; None where nobody does."""
        return await (await self._opened()).lock_info(name, timeout_s=timeout)

    async def vote(self, name: str, candidate: str, value: Any = None, *, timeout: float | None = None) -> Decision:
        """Proposes a candidate, with JSON that goes with it. The first proposal wins, and all are told the same."""
        return await (await self._opened()).propose(name, candidate, value, timeout_s=timeout)

    async def vote_result(self, name: str, *, timeout: float | None = None) -> Decision | None:
        """What a vote decided; None while nothing is."""
        return await (await self._opened()).decision(name, timeout_s=timeout)

    def election(
        self, name: str, *, candidate: str | None = None, ttl: float = 10.0, wait: float | None = None
    ) -> AsyncElection:
        """An election, for `async with` (leads while the body runs) or campaign() and resign(). Nothing is sent yet."""
        return self._remembered(AsyncElection(self._opened, name, candidate, ttl_s=ttl, wait_s=wait, clock=self._clock))

    # ---------------------------------------------------------------------------------------------------------------

    async def _opened(self) -> Store:
        if self._is_closed:
            raise RuntimeError("this client is closed")
        if not self._is_open:
            async with self._opening:
                if not self._is_open:
                    await self._store.open()
                    self._is_open = True
        return self._store

    def _remembered(self, hold: Hold) -> Hold:
        self._holds.add(hold)
        return hold


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _version(named: Value | Written | str | None) -> str | None:
    return named if named is None or isinstance(named, str) else named.version


def _with_fence(operation: Operation) -> Operation:
    """The operation with the fence itself, where it was given a held lock."""
    if operation.fence is None:
        return operation
    return msgspec.structs.replace(operation, fence=fence_of(operation.fence))
