"""Client: the methods of AsyncClient without `await`, for any number of threads."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.background_loop import BackgroundLoop
from kvstore.client.holding import Election, Lock
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
)

Result = TypeVar("Result")


class Client:
    """A client of a cluster or a file. Usable at once, by any thread; `with` closes it.

    Entered with `async with` it gives an AsyncClient instead, whose methods are to be awaited. Otherwise its work is
    done by a thread of its own, with an event loop, from the first call on; a process that forks makes its clients
    afterwards. Each method is that of AsyncClient, which describes it.
    """

    def __init__(self, store: Store, *, consistency: Consistency | None = None) -> None:
        """consistency: of calls that name none; None is the cluster's default."""
        self._async = AsyncClient(store, consistency=consistency)
        self._background = BackgroundLoop(self._async.close)
        self._is_async = False
        weakref.finalize(self, self._background.close, 0.0).atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> AsyncClient:
        if self._background.is_started or self._is_async:
            raise RuntimeError("this client is in use; make another for `async with`")
        self._is_async = True
        return await self._async.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._async.__aexit__(kind, error, trace)

    def close(self) -> None:
        """Closes it, for good. Locks that are held are renewed no longer, and free themselves with their leases."""
        self._background.close()

    # -- keys and values -------------------------------------------------------------------------------------------

    def get(
        self,
        key: str,
        *,
        fence: Fence | Fencing | None = None,
        consistency: Consistency | None = None,
        r: Count | None = None,
        timeout: float | None = None,
    ) -> Value | None:
        """The value of a key; None where there is none."""
        return self._run(lambda: self._async.get(key, fence=fence, consistency=consistency, r=r, timeout=timeout))

    def put(
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
        """Writes a value; text as UTF-8."""
        return self._run(
            lambda: self._async.put(
                key,
                value,
                if_match=if_match,
                create=create,
                fence=fence,
                ttl=ttl,
                content_type=content_type,
                consistency=consistency,
                w=w,
                timeout=timeout,
            )
        )

    def delete(
        self,
        key: str,
        *,
        if_match: Value | Written | str | None = None,
        fence: Fence | Fencing | None = None,
        consistency: Consistency | None = None,
        w: Count | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Deletes a key; deleting what is not there succeeds."""
        return self._run(
            lambda: self._async.delete(
                key, if_match=if_match, fence=fence, consistency=consistency, w=w, timeout=timeout
            )
        )

    def compare_and_set(
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
        """Writes the value if the key is as expected, as one step; value None deletes."""
        return self._run(
            lambda: self._async.compare_and_set(
                key, expected, value, fence=fence, ttl=ttl, content_type=content_type, timeout=timeout
            )
        )

    def list(
        self,
        prefix: str = "",
        *,
        values: bool = False,
        after: str | None = None,
        limit: int | None = None,
        consistency: Consistency | None = None,
        r: Count | None = None,
        timeout: float | None = None,
    ) -> Iterator[Entry]:
        """The keys with this prefix, in byte order, those behind `after`. timeout: for each page."""
        pages = self._async.pages(
            prefix, values=values, after=after, limit=limit, consistency=consistency, r=r, timeout=timeout
        )
        while not pages.is_over:
            yield from self._run(pages.next_page)

    def batch(
        self,
        operations: Sequence[Operation],
        *,
        consistency: Consistency | None = None,
        r: Count | None = None,
        w: Count | None = None,
        timeout: float | None = None,
    ) -> Results:
        """Carries out many operations, with one result for each, in order. Not atomic."""
        return self._run(lambda: self._async.batch(operations, consistency=consistency, r=r, w=w, timeout=timeout))

    # -- locks, votes, elections -----------------------------------------------------------------------------------

    def lock(
        self, name: str, *, ttl: float = 10.0, wait: float | None = None, owner: str | None = None, permits: int = 1
    ) -> Lock:
        """A lock, for `with` or acquire() and release(). Nothing is sent yet."""
        return Lock(self._run, self._async.lock(name, ttl=ttl, wait=wait, owner=owner, permits=permits))

    def locks(self, prefix: str = "", *, timeout: float | None = None) -> LockInfos:
        """The locks with this prefix that somebody holds."""
        return self._run(lambda: self._async.locks(prefix, timeout=timeout))

    def lock_info(self, name: str, *, timeout: float | None = None) -> LockInfo | None:
        """Who holds a lock; None where nobody does."""
        return self._run(lambda: self._async.lock_info(name, timeout=timeout))

    def vote(self, name: str, candidate: str, value: Any = None, *, timeout: float | None = None) -> Decision:
        """Proposes a candidate. The first proposal wins, and all are told the same."""
        return self._run(lambda: self._async.vote(name, candidate, value, timeout=timeout))

    def vote_result(self, name: str, *, timeout: float | None = None) -> Decision | None:
        """What a vote decided; None while nothing is."""
        return self._run(lambda: self._async.vote_result(name, timeout=timeout))

    def election(
        self, name: str, *, candidate: str | None = None, ttl: float = 10.0, wait: float | None = None
    ) -> Election:
        """An election, for `with` (leads while the body runs) or campaign() and resign(). Nothing is sent yet."""
        return Election(self._run, self._async.election(name, candidate=candidate, ttl=ttl, wait=wait))

    # ---------------------------------------------------------------------------------------------------------------

    def _run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        if self._is_async:
            raise RuntimeError("this client was entered with `async with`; await the methods of what that gave")
        return self._background.run(work)
