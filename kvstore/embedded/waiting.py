"""Waiting for a lock in shared memory: nobody can wake who waits, so it looks again and again.

Looking takes no write lock. The register is changed only when a try may succeed, or when it is time to say that
somebody still waits: so a hundred who wait hardly slow down the one that holds the lock.
"""

from __future__ import annotations

import asyncio
import random

from cluster.locks.lease_watch import LeaseWatch
from cluster.locks.lock import Held, Lock
from cluster.locks.lock_state import Grant, Wish, acquired
from cluster.locks.register import NotChanged
from kvstore.embedded.file_register import LockRegister, Wanted
from kvstore.embedded.told import held_error
from storage.shared_file.errors import FileBusy

FIRST_PAUSE_S = 0.005
PAUSE_GROWTH = 0.05
"""Of the time waited: whoever has waited for a second does not mind another twentieth of it."""
PAUSE_S_MAX, PAUSE_S_MAX_BEHIND = 0.05, 0.1
"""For who is first in the line, and for those behind."""


class Wait:
    """One wish for a lock, until it is granted, or given up."""

    def __init__(
        self, lock: Lock, register: LockRegister, watch: LeaseWatch, wish: Wish, wait_s: float, source: random.Random
    ) -> None:
        self._lock, self._register, self._watch, self._wish, self._wait_s = lock, register, watch, wish, wait_s
        self._random = source
        self._began_s = watch.now_s
        register.wanted = Wanted(wish.token, wish.owner, wait_s > 0)

    async def granted(self, timeout_s: float) -> Grant:
        """The grant. Raises LockHeld, RegisterError. timeout_s: for each step."""
        may_try_at_once = True
        while True:
            grant = await self._tried(timeout_s)
            if grant is not None:
                return grant
            if may_try_at_once and self._is_ready():  # over, by what this try has learned of the lease
                may_try_at_once = False
                continue
            if self._left_s() <= 0:
                raise self._held()
            await self._until_worth_a_try(timeout_s)
            may_try_at_once = True

    async def give_up(self, timeout_s: float) -> None:
        """Leaves the line, and gives back what may have been granted. Raises RegisterError."""
        self._register.wanted, self._register.leaving = None, self._wish.token
        await self._lock.release(self._wish.token, timeout_s)

    async def _tried(self, timeout_s: float) -> Grant | None:
        try:
            outcome = await self._lock.acquire(self._wish, timeout_s)
        except NotChanged as error:
            if isinstance(error.why, FileBusy) and self._left_s() > 0:
                return None
            raise
        return outcome.grant if isinstance(outcome, Held) else None

    async def _until_worth_a_try(self, timeout_s: float) -> None:
        while not self._is_ready() and (left_s := self._left_s()) > 0:
            await asyncio.sleep(min(self._pause_s(), left_s))
            try:
                await self._lock.look(timeout_s)
            except NotChanged as error:
                if not isinstance(error.why, FileBusy):
                    raise
            if self._register.notes.is_heartbeat_due(self._wish.token, self._register.now()):
                return

    def _is_ready(self) -> bool:
        """Whether a try made now would succeed, as far as was seen."""
        state = self._lock.state
        if state is None or self._register.notes.place_of(self._wish.token) > 0:
            return False
        return acquired(state, self._wish, self._watch.over(self._lock.key), 0) is not None

    def _pause_s(self) -> float:
        place = self._register.notes.place_of(self._wish.token)
        growing_s = FIRST_PAUSE_S * (1 + place) + (self._watch.now_s - self._began_s) * PAUSE_GROWTH
        return min(growing_s, PAUSE_S_MAX if place == 0 else PAUSE_S_MAX_BEHIND) * self._random.uniform(0.5, 1.0)

    def _left_s(self) -> float:
        return self._began_s + self._wait_s - self._watch.now_s

    def _held(self) -> Exception:
        state, line = self._lock.state, self._register.notes.line
        holders = [grant.owner for grant in state.grants] if state is not None else []
        owner = next(iter(holders), None) or next((one.owner for one in line if one.token != self._wish.token), None)
        permits = state.permits if state is not None and state.grants else self._wish.permits
        return held_error(owner, permits, self._wish.permits, self._watch.next_end_s(self._lock.key) or 0.0)
