"""A lease and its renewal: until when a holder may believe that it holds the lock.

The holder counts from before it sent what got it the lease, by its own monotonic clock; whoever may take the lock over
counts from after it saw the grant. So the holder's count ends first, whatever the clocks of the day say and however
long messages take: see cluster/locks/lease_watch.py. What it can't see is a machine that sleeps with its clock
stopped, or a pause between looking at the clock and acting; for those there is the fence.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from kvstore.client.store import Store
from kvstore.client.values import Lease
from kvstore.errors import KvstoreError, LockLost

RENEWED_AFTER = 1 / 3
"""Of the lease: two tries may fail and the third still comes in time."""
RETRY_AFTER = 1 / 20
"""Of the lease: how soon a renewal that failed is tried again."""

Clock = Callable[[], float]
"""Seconds that never go back, such as time.monotonic."""

log = logging.getLogger("kvstore.client")


class LeaseKeeper:
    """Keeps one lease: knows when it is over, and renews it from when start() is called until stop()."""

    def __init__(
        self, store: Store, lease: Lease, sent_s: float, on_lost: Callable[[], None], clock: Clock = time.monotonic
    ) -> None:
        """sent_s: when what got the lease was sent, by the clock. on_lost is called once, by start()'s task."""
        self.lease = lease
        self._store, self._clock, self._on_lost = store, clock, on_lost
        self._since_s = sent_s
        self._lost_because = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def is_held(self) -> bool:
        """Whether the lease surely is not over."""
        return not self._lost_because and self.left_s > 0

    @property
    def left_s(self) -> float:
        """Until the lease is over if it is not renewed; below 0 when it is."""
        return self._since_s + self.lease.ttl - self._clock()

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next renewal."""
        return self._due_in_s <= 0

    def lost(self) -> LockLost:
        """What who holds it no longer is told."""
        why = self._lost_because or "its lease is over, and it was not renewed in time"
        detail = f"The lock {self.lease.name!r} is no longer held: {why}. Others may hold it; stop what it guards."
        return LockLost(detail, fence=self.lease.fence)

    async def renew(self) -> None:
        """Begins the lease anew. Raises LockLost, and what the store raises: then it runs on as it did."""
        sent_s, left_s = self._clock(), self.left_s
        if not self.is_held:
            raise self.lost()
        try:
            async with asyncio.timeout(left_s):
                await self._store.renew(self.lease.name, self.lease.token, timeout_s=min(left_s, self._store.timeout_s))
        except LockLost as error:
            self._lost_because = error.detail.rstrip(".")
            raise self.lost() from error
        except TimeoutError:
            raise self.lost() from None
        self._since_s = max(self._since_s, sent_s)

    def start(self) -> None:
        """Renews in the background."""
        work = self._keep()
        self._task = asyncio.get_running_loop().create_task(work, name=f"lease of {self.lease.name}")

    async def stop(self) -> None:
        """Ends what start() began, and waits for that."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        pause_s = self._due_in_s
        while True:
            await asyncio.sleep(pause_s)
            pause_s = await self._renewed()
            if not self.is_held:
                self._lost_because = self._lost_because or "its lease is over, and it could not be renewed in time"
                log.warning("the lock %r is lost: %s", self.lease.name, self._lost_because)
                self._on_lost()
                return

    async def _renewed(self) -> float:
        """Tries once; returns the seconds until the next time."""
        try:
            await self.renew()
        except LockLost:
            return 0.0
        except KvstoreError as error:
            log.info("the lock %r was not renewed and is tried again: %s", self.lease.name, error)
        except Exception:
            log.exception("the lock %r could not be renewed", self.lease.name)
        else:
            return max(self._due_in_s, 0.0)
        return max(min(self.lease.ttl * RETRY_AFTER, self.left_s), 0.0)

    @property
    def _due_in_s(self) -> float:
        return self._since_s + self.lease.ttl * RENEWED_AFTER - self._clock()
