"""The lease watch: when a grant may be taken over.

No clock is compared across machines, and none that people can set is looked at. A contender may take a grant over
only after it has itself seen the same grant, unrenewed, for the whole lease, by its own monotonic clock; and it does
so by a change that applies to exactly that grant. The holder counts its lease from before it asked for it, the watcher
from after it saw it, so the holder's ends first, however long messages take. (Gray and Cheriton, "Leases", 1989,
section 2, without the clock error that they have to add, for only rates of clocks matter here.)
"""

from __future__ import annotations

from collections import OrderedDict

from cluster.clock import Clock
from cluster.locks.lock_state import Grant, Identity, LockState

RATE_MARGIN = 1.01
"""Two monotonic clocks run at rates that differ by some hundred millionths; one per cent is far beyond."""
LOCKS_MAX = 100_000
"""Locks whose grants are remembered; one that falls out is watched anew from when it is seen again."""


class LeaseWatch:
    """Since when this process has seen each grant as it stands."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[bytes, dict[Identity, tuple[float, Grant]]] = OrderedDict()

    @property
    def now_s(self) -> float:
        """By the clock that leases are watched with."""
        return self._clock.monotonic_s()

    def saw(self, key: bytes, state: LockState) -> None:
        """The register of this lock was read or changed, and held this state."""
        before = self._seen.pop(key, {})
        if state.is_free:
            return
        now_s = self._clock.monotonic_s()
        self._seen[key] = {grant.identity: before.get(grant.identity, (now_s, grant)) for grant in state.grants}
        if len(self._seen) > LOCKS_MAX:
            self._seen.popitem(last=False)

    def heard_of(self, key: bytes, state: LockState) -> None:
        """Somebody else has seen this state, a while ago: what this process has seen itself is worth more."""
        if key not in self._seen:
            self.saw(key, state)

    def over(self, key: bytes) -> frozenset[Identity]:
        """The grants whose whole lease has passed, unrenewed, as far as was seen."""
        now_s = self._clock.monotonic_s()
        seen = self._seen.get(key, {})
        return frozenset(identity for identity, (since_s, grant) in seen.items() if now_s >= _ends(since_s, grant))

    def next_end_s(self, key: bytes) -> float | None:
        """Seconds until the first of the lock's grants may be taken over; None if none is known."""
        ends = [_ends(since_s, grant) for since_s, grant in self._seen.get(key, {}).values()]
        return max(0.0, min(ends) - self._clock.monotonic_s()) if ends else None

    def left_s(self, key: bytes, grant: Grant) -> float:
        """How long this grant will still stand if nobody renews it."""
        since_s, _ = self._seen.get(key, {}).get(grant.identity, (self._clock.monotonic_s(), grant))
        return max(0.0, _ends(since_s, grant) - self._clock.monotonic_s())


def _ends(since_s: float, grant: Grant) -> float:
    return since_s + grant.ttl_ms / 1000 * RATE_MARGIN
