"""The lock: mutual exclusion over a register. One step at a time; who waits, and for how long, is its caller's.

    messages         keeper.py: the primary of the lock's key keeps a queue of those who wait
    shared memory    kvstore/embedded: each process tries again and again

At most one holder: a grant is made by a change of the register that applies only where there is a permit left, or to
grants that the watch (lease_watch.py) knows to be over. Herlihy, "Wait-Free Synchronization" (1991): a register with
such a change is as strong as any object there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from cluster.locks.lease_watch import LeaseWatch
from cluster.locks.lock_state import (
    Grant,
    Identity,
    LockState,
    Wish,
    acquired,
    decode,
    encode,
    expired,
    released,
    renewed,
)
from cluster.locks.register import MayBeChanged, Register

PAUSE_S = 0.02
"""Between two tries of a step, after one of which nobody knows what became."""
TRY_S_MIN = 0.001

Step = Callable[[LockState, int], LockState | None]


class Held(msgspec.Struct, frozen=True, gc=False):
    """The wish is granted."""

    grant: Grant


class Busy(msgspec.Struct, frozen=True, gc=False):
    """Others hold the lock."""

    state: LockState
    retry_after_s: float
    """When the first of their leases may be over, if nobody renews it."""


class _Found:
    """The grant that a token gives back, as the last look found it; a try in doubt may have given it back already."""

    def __init__(self, token: bytes, only: Identity | None) -> None:
        self._token, self._only = token, only
        self._latest: Grant | None = None
        self._before: Grant | None = None

    def look(self, state: LockState) -> None:
        grant = state.of_token(self._token)
        self._latest = grant if grant is not None and self._only in (None, grant.identity) else None

    def doubt(self) -> None:
        """Nobody knows what became of the try that looked last."""
        self._before = self._latest or self._before

    @property
    def grant(self) -> Grant | None:
        return self._latest or self._before


class Lock:
    """One lock, as one process sees it."""

    def __init__(self, key: bytes, register: Register, watch: LeaseWatch) -> None:
        """key: what the watch knows the lock by."""
        self.key, self._register, self._watch = key, register, watch
        self.state: LockState | None = None
        """As it was when it was last read or changed here; None before the first time."""

    async def acquire(self, wish: Wish, timeout_s: float) -> Held | Busy:
        """Takes the lock if it is free, or over. Raises RegisterError.

        After MayBeChanged the wish may be granted, now or later: acquire() again, or release().
        """
        over = self._watch.over(self.key)
        state = await self._step(lambda state, now_ms: acquired(state, wish, over, now_ms), timeout_s)
        return self._held_or_busy(state, wish)

    async def renew(self, token: bytes, timeout_s: float) -> Grant | None:
        """Begins the token's lease anew; None if it holds nothing any more. Raises RegisterError."""
        state = await self._step(lambda state, _: renewed(state, token), timeout_s)
        return state.of_token(token)

    async def release(self, token: bytes, timeout_s: float, only: Identity | None = None) -> Grant | None:
        """Gives the token's grant back, and tells which it was; None if it held nothing any more.

        only: this very grant, not renewed since, or none. Raises RegisterError.
        """
        found = _Found(token, only)

        def step(state: LockState, _: int) -> LockState | None:
            found.look(state)
            return released(state, token, only)

        await self._step(step, timeout_s, found.doubt)
        return found.grant

    async def hand_on(
        self, token: bytes, heir: Wish, timeout_s: float, only: Identity | None = None
    ) -> tuple[Grant | None, Held | Busy]:
        """Releases and grants to who is next in one change: what the token gave back, and what became of the heir.

        only: as in release(). Raises RegisterError.
        """
        over = self._watch.over(self.key)
        found = _Found(token, only)

        def step(state: LockState, now_ms: int) -> LockState | None:
            found.look(state)
            left = released(state, token, only)
            return None if left is None else acquired(left, heir, over, now_ms) or left

        state = await self._step(step, timeout_s, found.doubt)
        return found.grant, self._held_or_busy(state, heir)

    async def expire(self, timeout_s: float) -> LockState:
        """Takes away the grants that are over, if there are any; the state then. Raises RegisterError."""
        over = self._watch.over(self.key)
        return await self._step(lambda state, _: expired(state, over), timeout_s)

    async def look(self, timeout_s: float) -> LockState:
        """The state now. Raises NotChanged."""
        return self._saw(decode(await self._register.read(timeout_s)))

    def _held_or_busy(self, state: LockState, wish: Wish) -> Held | Busy:
        grant = state.of_token(wish.token)
        if grant is not None:
            return Held(grant)
        return Busy(state, self._watch.next_end_s(self.key) or 0.0)

    async def _step(self, step: Step, timeout_s: float, on_doubt: Callable[[], None] | None = None) -> LockState:
        """The state after the step. Each of them may be tried again when nobody knows whether it was done: on_doubt."""

        def function(value: bytes | None, now_ms: int) -> bytes | None:
            before = decode(value)
            after = step(before, now_ms)
            return None if after is None or after == before else encode(after)

        ends_s = self._watch.now_s + timeout_s
        while True:
            try:
                changed = await self._register.change(function, max(ends_s - self._watch.now_s, TRY_S_MIN))
            except MayBeChanged:
                if self._watch.now_s + PAUSE_S >= ends_s:
                    raise
                if on_doubt is not None:
                    on_doubt()
                await asyncio.sleep(PAUSE_S)
            else:
                return self._saw(decode(changed.value))

    def _saw(self, state: LockState) -> LockState:
        self.state = state
        self._watch.saw(self.key, state)
        return state
