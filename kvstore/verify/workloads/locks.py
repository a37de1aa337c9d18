"""lock: clients take turns, write under their fences, and now and then sleep through their lease."""

from __future__ import annotations

import asyncio

from kvstore.client.values import Fence, Lease
from kvstore.verify.history import Kind
from kvstore.verify.workloads.worker import Worker
from kvstore.verify.workloads.workload import Unique

LOCKS = 2
LEASE_S = 2.0
WAIT_S = 1.0
"""For the lock, at most; who waits longer has nothing to do meanwhile."""
SLEEPS, SLEEP_S = 0.05, 1.6 * LEASE_S
"""How often a holder is like one that is paused for longer than its lease, and writes once it is awake."""
RENEWS = 0.3


class Locks:
    """A few locks, each of which guards a key by fences."""

    name = "lock"

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._unique = Unique()

    async def step(self, worker: Worker) -> None:
        """Takes a lock, writes under it, gives it back."""
        number, owner = worker.dice.randrange(LOCKS), f"p{worker.process}"
        lock = f"{self._prefix}lock-{number}"
        taken = await worker.call(
            Kind.ACQUIRE,
            lock,
            lambda: worker.store.acquire(lock, owner=owner, ttl_s=LEASE_S, wait_s=WAIT_S, permits=1, timeout_s=None),
            lambda lease: {"fence": lease.fence},
            owner=owner,
            ttl=LEASE_S,
        )
        if taken.result is not None:
            await self._hold(worker, lock, f"{self._prefix}guarded-{number}", taken.result)

    async def finish(self, worker: Worker) -> bool:
        """Nothing more: what was granted and refused says all."""
        return True

    async def _hold(self, worker: Worker, lock: str, guarded: str, lease: Lease) -> None:
        await self._write(worker, lock, guarded, lease)
        if worker.dice.random() < SLEEPS:
            await asyncio.sleep(SLEEP_S)
            await self._write(worker, lock, guarded, lease)
        elif worker.dice.random() < RENEWS:
            await worker.call(
                Kind.RENEW,
                lock,
                lambda: worker.store.renew(lock, lease.token, timeout_s=None),
                fence=lease.fence,
                ttl=LEASE_S,
            )
            await self._write(worker, lock, guarded, lease)
        await worker.call(
            Kind.RELEASE, lock, lambda: worker.store.release(lock, lease.token, timeout_s=None), fence=lease.fence
        )

    async def _write(self, worker: Worker, lock: str, guarded: str, lease: Lease) -> None:
        value = self._unique()
        await worker.call(
            Kind.FENCED_PUT,
            guarded,
            lambda: worker.client.put(guarded, value, fence=Fence(lock, lease.fence), consistency="strong"),
            lambda written: {"version": written.version},
            value=value,
            lock=lock,
            fence=lease.fence,
        )
