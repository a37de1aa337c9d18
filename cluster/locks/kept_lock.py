"""One lock as its keeper has it: who waits, and the work on it, one piece at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

import structlog

from cluster.clock import Clock
from cluster.locks.lease_watch import LeaseWatch
from cluster.locks.line import Line
from cluster.locks.lock import Busy, Held, Lock
from cluster.locks.lock_state import Grant, Identity, Wish
from cluster.locks.outcomes import LockBusy, LockGranted, LockLost, LockQueued, LockReleased
from cluster.locks.register import MayBeChanged, NotChanged, RegisterError
from cluster.protocol.lock_messages import Ended, Waiting
from cluster.requests import Overloaded, Unavailable, Unknown
from cluster.tasks import Tasks

STEP_S = 5.0
"""How long one change of a register may take that no client waits for."""
LOOK_AGAIN_S = 2.0
"""How often a line looks whether the lock is free that nobody here has heard of being released."""
PAUSE_S = 0.2
"""After a change that could not be made, as when a majority is lost."""

REST_S_MIN = 0.005
"""A lease that is just over is not asked about in a busy loop."""

Step = Callable[[], Coroutine[Any, Any, None]]
End = Callable[[Ended], None]
log = structlog.get_logger()


class Keeping(Protocol):
    """What the keeper does for each of its locks."""

    async def reign(self, key: bytes) -> None:
        """Returns once all who wait for the lock are known here, as far as they can be."""
        ...

    async def confirm(self, waiting: Waiting) -> bool | None:
        """Whether its client is still there; None where its node does not say."""
        ...

    def offer(self, waiting: Waiting, grant: Grant) -> None:
        """Tells its desk that its wish is granted; a grant that surely nobody is or was told of is given back."""
        ...

    def silent(self) -> frozenset[int]:
        """The nodes whose waiters are passed over for now."""
        ...

    def seen(self, key: bytes) -> None:
        """The lock was looked at: its leases are to be watched."""
        ...

    def idle(self, key: bytes) -> None:
        """Nobody waits, and there is nothing to do."""
        ...


class KeptLock:
    """One lock that somebody asks for."""

    def __init__(self, lock: Lock, watch: LeaseWatch, keeping: Keeping, clock: Clock, tasks: Tasks) -> None:
        self._lock, self._watch, self._keeping, self._clock, self._tasks = lock, watch, keeping, clock, tasks
        self.line = Line()
        self._steps: deque[Step] = deque()
        self._is_doubtful = True
        """Whether the register is to be looked at, whatever was last seen of it."""
        self._wake = asyncio.Event()
        self._is_running = False

    # -- what is asked of it -----------------------------------------------------------------------------------

    def add(self, waiting: Waiting) -> int:
        """Somebody waits; its stamp."""
        stamp = self.line.add(waiting, self._clock.monotonic_s(), self._clock.wall_ms())
        self._begin()
        return stamp

    def submit(self, step: Step) -> None:
        """Does this once what was asked before it is done."""
        self._steps.append(step)
        self._begin()

    async def acquire(self, waiting: Waiting, waits: bool, timeout_s: float, end: End) -> None:
        """A step: grants the wish, or puts it in the line."""
        if self.line.is_empty:
            try:
                result = await self._lock.acquire(waiting.wish, timeout_s)
            except RegisterError as error:
                end(ended_badly(error))
                return
            self._seen()
            if isinstance(result, Held):
                end(granted(result.grant, waiting.wish))
                return
        end(LockQueued(self.add(waiting)) if waits else self._busy(waiting.wish))

    async def renew(self, token: bytes, timeout_s: float, end: End) -> None:
        """No step: a lease that runs must not wait for the line's work."""
        try:
            grant = await self._lock.renew(token, timeout_s)
        except RegisterError as error:
            end(ended_badly(error))
            return
        self._seen()
        permits = self._lock.state.permits if self._lock.state is not None else 1
        end(LockLost() if grant is None else LockGranted(grant.owner, grant.fence, grant.ttl_ms, permits))

    async def release(self, token: bytes, timeout_s: float, end: End, only: Identity | None = None) -> None:
        """A step: gives the grant back, and to who is next in the same change, if somebody is.

        only: this very grant, not renewed since, or none.
        """
        heir = None if self.line.is_empty else await self._next_confirmed()
        result: Held | Busy | None = None
        try:
            if heir is None:
                given_back = await self._lock.release(token, timeout_s, only)
            else:
                given_back, result = await self._lock.hand_on(token, heir.wish, timeout_s, only)
        except RegisterError as error:
            self._is_doubtful = True
            end(ended_badly(error))
            return
        end(LockLost() if given_back is None else LockReleased(given_back.fence))
        self._seen()
        if heir is not None and isinstance(result, Held):
            self._give(heir, result.grant)

    async def expire(self) -> None:
        """A step: takes away what is over, so that everybody sees that nobody holds it."""
        try:
            await self._lock.expire(STEP_S)
        except RegisterError as error:
            log.info("a lease is over, and could not be ended yet", reason=str(error))
        self._seen()

    async def give_back(self, grant: Grant) -> None:
        """A step: nobody can be told of this grant, so it ends at once. Tried until it is done, or its lease over.

        If it was renewed meanwhile, it was another keeper that found it, and its holder may have been told there.
        """
        ends: list[Ended] = []
        await self.release(grant.token, STEP_S, ends.append, grant.identity)
        if not isinstance(ends[0], LockReleased | LockLost) and not self._watch.over(self._lock.key):
            await asyncio.sleep(PAUSE_S)
            self.submit(partial(self.give_back, grant))

    # -- the work ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._wake.set()
        if not self._is_running:
            self._is_running = True
            self._tasks.spawn(self._run(), "keep a lock")

    async def _run(self) -> None:
        try:
            while self._steps or not self.line.is_empty:
                await self._keeping.reign(self._lock.key)
                self._wake.clear()
                if self._steps:
                    await self._steps.popleft()()
                elif not self._may_be_had() or not await self._grant_next():
                    await self._rest()
        finally:
            self._is_running = False
            self._keeping.idle(self._lock.key)

    def _may_be_had(self) -> bool:
        """Whether it is worth trying: there is a permit left, or a lease is over, or nobody knows."""
        state = self._lock.state
        if state is None or self._is_doubtful or self._watch.over(self._lock.key):
            return True
        return len(state.grants) < state.permits

    async def _grant_next(self) -> bool:
        """Grants to whoever is first and there; False where that was not to be."""
        waiting = await self._next_confirmed()
        if waiting is None:
            return self.line.is_empty
        self._is_doubtful = False
        try:
            result = await self._lock.acquire(waiting.wish, STEP_S)
        except RegisterError as error:
            log.info("a lock could not be granted yet", reason=str(error))
            self._is_doubtful = True
            await asyncio.sleep(PAUSE_S)
            return True
        self._seen()
        if isinstance(result, Held):
            self._give(waiting, result.grant)
        return isinstance(result, Held)

    async def _next_confirmed(self) -> Waiting | None:
        """The first in the line whose client is there; None where there is none just now."""
        while (waiting := self.line.first(self._clock.monotonic_s(), self._keeping.silent())) is not None:
            is_there = await self._keeping.confirm(waiting)
            if is_there:
                return waiting
            if is_there is False:
                self.line.remove(waiting.slot, waiting.number)
        return None

    async def _rest(self) -> None:
        """Until somebody asks for something, a lease is over, or it is time to look again."""
        ends_s = self._watch.next_end_s(self._lock.key)
        longest_s = LOOK_AGAIN_S if ends_s is None else min(ends_s, LOOK_AGAIN_S)
        if self._keeping.silent():
            longest_s = min(longest_s, PAUSE_S)
        try:
            async with asyncio.timeout(max(longest_s, REST_S_MIN)):
                await self._wake.wait()
        except TimeoutError:
            self._is_doubtful = self._is_doubtful or longest_s == LOOK_AGAIN_S

    def _give(self, waiting: Waiting, grant: Grant) -> None:
        self.line.remove(waiting.slot, waiting.number)
        self._keeping.offer(waiting, grant)

    def _seen(self) -> None:
        self._keeping.seen(self._lock.key)
        self._wake.set()

    def _busy(self, wish: Wish) -> LockBusy:
        state = self._lock.state
        if state is None or state.is_free:  # others wait, and come first
            first = self.line.first(self._clock.monotonic_s(), ())
            return LockBusy(first.wish.owner if first is not None else "", 0.0, wish.permits)
        return LockBusy(state.grants[0].owner, self._watch.next_end_s(self._lock.key) or 0.0, state.permits)


def granted(grant: Grant, wish: Wish) -> LockGranted:
    """What is told of a grant."""
    return LockGranted(grant.owner, grant.fence, grant.ttl_ms, wish.permits)


def ended_badly(error: RegisterError) -> Ended:
    """What is told of a step that did not come about, or may have."""
    assert isinstance(error, NotChanged | MayBeChanged)
    why = error.why
    assert isinstance(why, Unavailable | Overloaded | Unknown), why
    return why
