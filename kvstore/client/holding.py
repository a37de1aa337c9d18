"""Locks and elections without `await`: the same objects, on the client's own thread.

    with client.lock("reports", ttl=10) as lock:        # renewed in the background for as long as the body runs
        client.put("report", text, fence=lock)          # refused by the store should another hold the lock by now

A thread can't be made to stop. So a lock that is lost is told wherever the body asks (check(), fence, a write that is
fenced by it), and in any case when the body is left: all of them raise LockLost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self

from kvstore.client.locking import AsyncElection, AsyncHold, AsyncLock
from kvstore.client.values import Fence, Leader
from kvstore.errors import KvstoreError, LockLost


class Run(Protocol):
    """Carries work out on the client's own loop."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, Any]], /) -> Any: ...


class Hold:
    """What locks and elections have in common: taking, keeping and giving back a lease. A context manager.

    One object holds at most once at a time, and may be used again afterwards.
    """

    def __init__(self, run: Run, hold: AsyncHold) -> None:
        self._run, self._hold = run, hold
        self.name = hold.name

    @property
    def is_held(self) -> bool:
        """Whether it is surely held now: taken, and its lease not over."""
        return self._hold.is_held

    @property
    def fenced(self) -> Fence:
        """The fence, for writes that only the holder may make. Raises LockLost when it is not held any more."""
        return self._hold.fenced

    @property
    def token(self) -> str:
        """The secret that proves the holder. Raises LockLost when it is not held any more."""
        return self._hold.token

    def check(self) -> None:
        """Raises LockLost when it is not held any more."""
        self._hold.check()

    def renew(self) -> None:
        """Begins the lease anew, now. The background does so by itself. Raises LockLost."""
        self._run(self._hold.renew)

    def _take(self) -> None:
        try:
            self._run(self._hold.take)
        except (KvstoreError, RuntimeError):
            raise
        except BaseException:  # interrupted: it may be held by now, and nobody would give it back
            with contextlib.suppress(KvstoreError, RuntimeError):
                self._run(self._hold.give_back)
            raise

    def __enter__(self) -> Self:
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._hold.leave)
        except LockLost as lost:
            if error is None:
                raise
            error.add_note(f"Meanwhile: {lost.detail}")


class Lock(Hold):
    """A lock that several may want and one holds, or as many as it has permits."""

    def __init__(self, run: Run, lock: AsyncLock) -> None:
        super().__init__(run, lock)
        self.owner = lock.owner
        """Who it is, for people who look."""

    @property
    def fence(self) -> int:
        """The number of this grant; it grows with each. Raises LockLost when it is not held any more."""
        return self.fenced.fence

    def acquire(self) -> None:
        """Takes it and renews it in the background until release(). Raises LockHeld when the wait is over."""
        self._take()

    def release(self) -> None:
        """Gives it back. Raises LockLost if it was lost."""
        self._run(self._hold.give_back)


class Election(Hold):
    """Who leads: the lock of the same name, seen as leadership. Its fence is the term."""

    def __init__(self, run: Run, election: AsyncElection) -> None:
        super().__init__(run, election)
        self.candidate = election.candidate
        """Who stands."""
        self._election = election

    @property
    def term(self) -> int:
        """The number of this leadership; it grows with each. Raises LockLost when it is over."""
        return self.fenced.fence

    @property
    def is_leader(self) -> bool:
        """Whether this one surely leads now."""
        return self.is_held

    def campaign(self) -> None:
        """Waits to be the leader, and stays it until resign(). Raises LockHeld when the wait is over."""
        self._take()

    def resign(self) -> None:
        """Leads no more. Raises LockLost if that was so already."""
        self._run(self._hold.give_back)

    def leader(self) -> Leader | None:
        """Who leads, whoever it is; None while nobody does."""
        found: Leader | None = self._run(self._election.leader)
        return found
