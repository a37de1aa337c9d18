"""A lock that is held for a command: taken, renewed in the background, watched, and given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.locking.names import held
from cli.output import note, visible
from kvstore.errors import KvstoreError, LockHeld, LockLost

if TYPE_CHECKING:
    from kvstore.client.store import Store
    from kvstore.client.values import Lease

GRACE_S = 2.0
"""From SIGTERM to SIGKILL, for a command whose lock is lost."""
GRACE_SHARE = 1 / 3
"""Of the lease, at most: a short one must leave time to renew it."""
RELEASE_S = 5.0
"""Nobody waits longer for a lock to be given back; its lease frees it, too."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to hold, and for which command."""

    name: str
    owner: str
    ttl_s: float
    wait_s: float
    permits: int
    command: Sequence[str]

    @property
    def grace_s(self) -> float:
        """How long the command may take to end once it must."""
        return min(GRACE_S, self.ttl_s * GRACE_SHARE)


class HeldLock:
    """The lock, renewed in the background from acquired() to give_back()."""

    def __init__(self, store: Store, lease: Lease, sent_s: float) -> None:
        from kvstore.client.leases import LeaseKeeper  # noqa: PLC0415 - see cli/connection.py

        self._store, self._lease = store, lease
        self._is_lost = asyncio.Event()
        self._keeper = LeaseKeeper(store, lease, sent_s, self._is_lost.set)

    @classmethod
    async def acquired(cls, store: Store, wish: Wish) -> HeldLock:
        """Stands in line if need be. Raises CommandFailed when it is held by others, and KvstoreError."""
        sent_s = time.monotonic()
        try:
            lease = await store.acquire(
                wish.name, owner=wish.owner, ttl_s=wish.ttl_s, wait_s=wish.wait_s, permits=wish.permits, timeout_s=None
            )
        except LockHeld as error:
            raise held(wish.name, "the lock", error, wish.wait_s) from error
        held_lock = cls(store, lease, sent_s)
        if held_lock._keeper.is_due:  # it stood in line: nobody knows how much of the lease was left by then
            held_lock = cls(store, lease, time.monotonic())
            try:
                await held_lock._keeper.renew()
            except BaseException:
                await held_lock.give_back()
                raise
        held_lock._keeper.start()
        return held_lock

    @property
    def fence(self) -> int:
        """The number of this grant."""
        return self._lease.fence

    @property
    def why_lost(self) -> str:
        """In words, once until_lost() has ended."""
        if self._keeper.is_held:
            return f"The lock {visible(self._lease.name)!r} could not be renewed, and its lease is almost over."
        return visible(self._keeper.lost().detail)

    async def until_lost(self, grace_s: float) -> None:
        """Waits until the lock is lost, or no renewal came through until so much of the lease is left."""
        while self._keeper.is_held and self._keeper.left_s > grace_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._keeper.left_s - grace_s):
                    await self._is_lost.wait()

    async def give_back(self) -> bool:
        """Releases it, whatever became of it. False if it was no longer held; trouble is only told."""
        await self._keeper.stop()
        was_held = self._keeper.is_held
        try:
            await self._store.release(self._lease.name, self._lease.token, timeout_s=RELEASE_S)
        except LockLost:
            return False
        except KvstoreError as error:
            note(
                f"kvstore: the lock {visible(self._lease.name)!r} could not be given back; "
                f"its lease frees it within {self._lease.ttl:g} s: {error}"
            )
            return was_held
        return True
