"""Locks and elections, with `await`: objects over a store's acquire, renew and release.

    async with client.lock("reports", ttl=10) as lock:      # renewed in the background for as long as the body runs
        await client.put("report", text, fence=lock)        # refused by the store should another hold the lock by now

When the lock is lost the body is cancelled, and leaving it raises LockLost: as asyncio.timeout() does it, so that
a cancellation from outside is never taken for ours, nor ours for one from outside.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from types import TracebackType
from typing import Self

from kvstore.client.leases import Clock, LeaseKeeper
from kvstore.client.store import WAIT_S_MAX, Opened, Store
from kvstore.client.values import Fence, Leader, Lease
from kvstore.errors import KvstoreError, LockLost, NoNodeReachable, OutcomeUnknown, Unavailable

ASK_AGAIN_S = 0.2
"""After a wait that broke off, before the next one."""
GIVE_BACK_S = 1.0
"""For a lock that was granted and can't be used: the lease frees it anyway, only later."""

log = logging.getLogger("kvstore.client")


class AsyncHold:
    """What locks and elections have in common: taking, keeping and giving back a lease. A context manager.

    One object holds at most once at a time, and may be used again afterwards.
    """

    def __init__(
        self,
        opened: Opened,
        name: str,
        owner: str | None,
        *,
        ttl_s: float,
        wait_s: float | None,
        permits: int = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        """wait_s: None is as long as can be; 0 tries once."""
        self.name = name
        self.owner = default_owner() if owner is None else owner
        """Who it is, for people who look."""
        self._opened, self._clock = opened, clock
        self._ttl_s, self._wait_s, self._permits = ttl_s, WAIT_S_MAX if wait_s is None else wait_s, permits
        self._keeper: LeaseKeeper | None = None
        self._body: asyncio.Task[object] | None = None
        self._is_cancelling = False
        self._cancelling_before = 0

    @property
    def is_held(self) -> bool:
        """Whether it is surely held now: taken, and its lease not over."""
        return self._keeper is not None and self._keeper.is_held

    @property
    def fenced(self) -> Fence:
        """The fence, for writes that only the holder may make. Raises LockLost when it is not held any more."""
        return Fence(self.name, self._held().lease.fence)

    @property
    def token(self) -> str:
        """The secret that proves the holder. Raises LockLost when it is not held any more."""
        return self._held().lease.token

    def check(self) -> None:
        """Raises LockLost when it is not held any more."""
        self._held()

    async def renew(self) -> None:
        """Begins the lease anew, now. The background does so by itself. Raises LockLost."""
        await self._held().renew()

    async def take(self) -> None:
        """acquire() or campaign(), whichever it is called."""
        if self._keeper is not None:
            raise RuntimeError(f"{self.name!r} is held by this object already; make another to take it twice")
        store = await self._opened()
        lease, sent_s = await self._acquired(store)
        keeper = LeaseKeeper(store, lease, sent_s, self._lost, self._clock)
        if keeper.is_due:  # it had to wait: nobody knows how much of the lease was left when the answer came
            keeper = await self._renewed_first(store, keeper)
        self._keeper = keeper
        keeper.start()

    async def _acquired(self, store: Store) -> tuple[Lease, float]:
        """The lease, and when it was asked for.

        A wait that breaks off, as when its node dies, is begun again at the end of the line. If the lock had been
        granted just then, nobody has that token: the second wait lasts until that lease is over, and harms nobody.
        """
        ends_s = self._clock() + self._wait_s
        while True:
            sent_s = self._clock()
            wait_s = max(0.0, ends_s - sent_s)
            try:
                lease = await store.acquire(
                    self.name, owner=self.owner, ttl_s=self._ttl_s, wait_s=wait_s, permits=self._permits, timeout_s=None
                )
            except OutcomeUnknown:
                if self._clock() + ASK_AGAIN_S >= ends_s:
                    raise
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                return lease, sent_s

    async def _renewed_first(self, store: Store, waited: LeaseKeeper) -> LeaseKeeper:
        lease = waited.lease
        keeper = LeaseKeeper(store, lease, self._clock(), self._lost, self._clock)
        try:
            await keeper.renew()
        except LockLost:
            raise
        except BaseException:
            try:
                await store.release(self.name, lease.token, timeout_s=GIVE_BACK_S)
            except KvstoreError as error:
                log.info("the lock %r frees itself in %g s: %s", self.name, lease.ttl, error)
            raise
        return keeper

    async def give_back(self) -> None:
        """release() or resign(). Raises LockLost, and what the store raises; free for another time in any case."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            raise RuntimeError(f"{self.name!r} is not held by this object")
        await keeper.stop()
        if not keeper.is_held:
            raise keeper.lost()
        store = await self._opened()
        await store.release(self.name, keeper.lease.token, timeout_s=min(keeper.left_s, store.timeout_s))

    async def abandon(self) -> None:
        """Stops renewing what is held, if it is: the client closes."""
        if self._keeper is not None:
            await self._keeper.stop()

    def _held(self) -> LeaseKeeper:
        keeper = self._keeper
        if keeper is None:
            raise LockLost(f"The lock {self.name!r} is not held by this object: it was not taken, or given back.")
        if not keeper.is_held:
            raise keeper.lost()
        return keeper

    # -- as a context manager ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        body = asyncio.current_task()
        assert body is not None
        await self.take()
        self._body, self._cancelling_before = body, body.cancelling()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        body, self._body = self._body, None
        is_ours = self._uncancelled(body, error) if self._is_cancelling and body is not None else False
        try:
            await self.leave()
        except LockLost as lost:
            if error is None or is_ours:
                raise lost from error
            error.add_note(f"Meanwhile: {lost.detail}")

    async def leave(self) -> None:
        """Gives it back at the end of a body, if that did not. Raises LockLost if it was lost; other failures pass."""
        if self._keeper is None:
            return
        try:
            await self.give_back()
        except (OutcomeUnknown, Unavailable, NoNodeReachable) as error:
            log.warning("the lock %r was not given back and frees itself within its lease: %s", self.name, error)

    def _lost(self) -> None:
        """Ends the body of an `async with`."""
        if self._body is not None and not self._is_cancelling:
            self._is_cancelling = True
            self._body.cancel(f"the lock {self.name!r} is lost")

    def _uncancelled(self, body: asyncio.Task[object], error: BaseException | None) -> bool:
        """Takes our cancellation back. Whether the error is ours alone, and not somebody's who cancels as well."""
        self._is_cancelling = False
        is_ours_alone = body.uncancel() <= self._cancelling_before
        return is_ours_alone and isinstance(error, asyncio.CancelledError)


class AsyncLock(AsyncHold):
    """A lock that several may want and one holds, or as many as it has permits."""

    @property
    def fence(self) -> int:
        """The number of this grant; it grows with each. Raises LockLost when it is not held any more."""
        return self.fenced.fence

    async def acquire(self) -> None:
        """Takes it and renews it in the background until release(). Raises LockHeld when the wait is over.

        Without `async with` nothing is cancelled when it is lost: ask is_held or check().
        """
        await self.take()

    async def release(self) -> None:
        """Gives it back. Raises LockLost if it was lost."""
        await self.give_back()


class AsyncElection(AsyncHold):
    """Who leads: the lock of the same name, seen as leadership. Its fence is the term."""

    @property
    def candidate(self) -> str:
        """Who stands."""
        return self.owner

    @property
    def term(self) -> int:
        """The number of this leadership; it grows with each. Raises LockLost when it is over."""
        return self.fenced.fence

    @property
    def is_leader(self) -> bool:
        """Whether this one surely leads now."""
        return self.is_held

    async def campaign(self) -> None:
        """Waits to be the leader, and stays it until resign(). Raises LockHeld when the wait is over."""
        await self.take()

    async def resign(self) -> None:
        """Leads no more. Raises LockLost if that was so already."""
        await self.give_back()

    async def leader(self) -> Leader | None:
        """Who leads, whoever it is; None while nobody does."""
        info = await (await self._opened()).lock_info(self.name, timeout_s=None)
        return None if info is None else Leader(info.name, info.holder, info.fence)


def default_owner() -> str:
    """This process on this machine."""
    return f"{socket.gethostname()[:200]}:{os.getpid()}"
