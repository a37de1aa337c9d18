"""Locks and votes for tests: the real steps of cluster/locks over registers in memory, and a queue of who waits.

It is honest: at most as many hold a lock as have permits, waiters get it in order, a client that is gone is passed
over, leases run out (by the loop's clock). For what registers in memory never do, a test stages `next_outcome`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from cluster.locks.lease_watch import LeaseWatch
from cluster.locks.lock import Held, Lock
from cluster.locks.lock_state import Grant, LockState, Wish, lock_key, name_of_lock
from cluster.locks.outcomes import (
    AcquireOutcome,
    Client,
    HolderShown,
    LockBusy,
    LockFailure,
    LockGranted,
    LockLost,
    LockReleased,
    LockShown,
    LocksListed,
    LookFailure,
    ReleaseOutcome,
    RenewOutcome,
)
from cluster.locks.vote import Decision, Proposal, Vote, Voted, vote_key
from cluster.requests import Unavailable
from tests.kvstore.http.honest_backend import NOW_MS
from tests.locks.memory_register import MemoryRegister

STOPPING = "this node is stopping"


class LoopClock:
    """Monotonic time is the loop's; wall time stands."""

    def wall_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


class HonestLocks:
    """A LockBackend whose replicas never fail."""

    def __init__(self) -> None:
        self._clock = LoopClock()
        self._watch = LeaseWatch(self._clock)
        self._registers: dict[bytes, MemoryRegister] = {}
        self._waiting: dict[str, list[asyncio.Event]] = defaultdict(list)
        self._is_stopping = False
        self._news = asyncio.Event()
        self.seen: list[tuple[Any, ...]] = []
        self.clients: list[Client] = []
        self.next_outcome: Any = None
        """Answered once, instead of the truth; an exception is raised."""

    async def acquire(self, name: str, wish: Wish, wait_s: float, timeout_s: float, client: Client) -> AcquireOutcome:
        self._saw("acquire", name, wish, wait_s, timeout_s)
        self.clients.append(client)
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        ends_s = self._clock.monotonic_s() + wait_s
        my_turn = asyncio.Event()
        client.when_gone(my_turn.set)
        line = self._waiting[name]
        line.append(my_turn)
        self._news.set()
        try:
            while True:
                if self._is_stopping:
                    return Unavailable(2, 0, (), STOPPING)
                if not client.is_here:
                    return LockBusy("", 0.0, 1)
                outcome = await self._try(name, wish, timeout_s) if line[0] is my_turn or not wait_s else None
                if isinstance(outcome, LockGranted):
                    return outcome
                left_s = ends_s - self._clock.monotonic_s()
                if left_s <= 0:
                    return outcome or await self._try(name, wish, timeout_s)
                my_turn.clear()
                end_s = self._watch.next_end_s(lock_key(name))
                await self._rest(my_turn, left_s if end_s is None else min(left_s, end_s))
        finally:
            line.remove(my_turn)
            self._changed(name)

    async def renew(self, name: str, token: bytes, timeout_s: float) -> RenewOutcome:
        self._saw("renew", name, token, timeout_s)
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        grant = await self._lock(name).renew(token, timeout_s)
        return LockLost() if grant is None else self._granted(grant, await self._lock(name).look(timeout_s))

    async def release(self, name: str, token: bytes, timeout_s: float) -> ReleaseOutcome:
        self._saw("release", name, token, timeout_s)
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        grant = await self._lock(name).release(token, timeout_s)
        if grant is None:
            return LockLost()
        self._changed(name)
        return LockReleased(grant.fence)

    async def show(self, name: str, timeout_s: float) -> LockShown | LookFailure:
        self._saw("show", name, timeout_s)
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        return await self._shown(name, timeout_s)

    async def list_held(
        self, prefix: str, after: str | None, limit: int, timeout_s: float
    ) -> LocksListed | LookFailure:
        self._saw("list", prefix, after, limit, timeout_s)
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        names = sorted(name_of_lock(key) for key in self._registers if key.startswith(lock_key(prefix)))
        locks = [await self._shown(name, timeout_s) for name in names if after is None or name > after]
        held = [lock for lock in locks if lock.holders]
        return LocksListed(held[:limit], held[limit - 1].name if len(held) > limit else None)

    async def propose(self, name: str, proposal: Proposal, timeout_s: float) -> Voted | LockFailure:
        self._saw("propose", name, proposal, timeout_s)
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        return await Vote(self._register(vote_key(name))).propose(proposal, timeout_s)

    async def decision(self, name: str, timeout_s: float) -> Decision | LookFailure | None:
        self._saw("decision", name, timeout_s)
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        return await Vote(self._register(vote_key(name))).decision(timeout_s)

    def stop_waiting(self) -> None:
        self._is_stopping = True
        for name in self._waiting:
            for turn in self._waiting[name]:
                turn.set()

    def waiters(self, name: str) -> int:
        """How many stand in line, the one who is just being served too."""
        return len(self._waiting[name])

    async def waited_for(self, name: str, count: int) -> None:
        """Waits until so many stand in line."""
        async with asyncio.timeout(10):
            while self.waiters(name) != count:
                self._news.clear()
                await self._news.wait()

    async def _try(self, name: str, wish: Wish, timeout_s: float) -> LockGranted | LockBusy:
        tried = await self._lock(name).acquire(wish, timeout_s)
        if isinstance(tried, Held):
            return self._granted(tried.grant, await self._lock(name).look(timeout_s))
        return LockBusy(tried.state.grants[0].owner, tried.retry_after_s, tried.state.permits)

    async def _rest(self, until: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await until.wait()
        except TimeoutError:
            pass

    def _changed(self, name: str) -> None:
        self._news.set()
        if self._waiting[name]:
            self._waiting[name][0].set()

    async def _shown(self, name: str, timeout_s: float) -> LockShown:
        state = await self._lock(name).look(timeout_s)
        key = lock_key(name)
        holders = tuple(
            HolderShown(grant.owner, grant.fence, grant.ttl_ms, self._watch.left_s(key, grant))
            for grant in state.grants
        )
        return LockShown(name, state.fence, state.permits, holders, self.waiters(name))

    def _granted(self, grant: Grant, state: LockState) -> LockGranted:
        return LockGranted(grant.owner, grant.fence, grant.ttl_ms, state.permits)

    def _lock(self, name: str) -> Lock:
        key = lock_key(name)
        return Lock(key, self._register(key), self._watch)

    def _register(self, key: bytes) -> MemoryRegister:
        return self._registers.setdefault(key, MemoryRegister(self._clock))

    def _saw(self, *what: Any) -> None:
        self.seen.append(what)
        self._news.set()

    def _staged(self) -> Any:
        outcome, self.next_outcome = self.next_outcome, None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
