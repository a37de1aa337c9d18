"""The line: who waits for one lock, in the order of their places. Pure.

A place is given once, by the keeper that the wait came to first, and is kept when the keeper changes: the next one
hears of it from the desks. A waiter that no desk has spoken of for a while is forgotten; it has gone, or its node has.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection

from cluster.protocol.lock_messages import Waiting

HEARD_S_MAX = 6.0
"""Three times as long as desks take between two announcements."""
STAMPS_PER_MS = 1_000


class Line:
    """Those who wait for one lock."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        self._heard_s: dict[tuple[int, int], float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: Waiting, now_s: float, now_ms: int) -> int:
        """Puts somebody in at its place, or at the end if it has none yet; its stamp. Adding twice changes nothing."""
        name = waiting.slot, waiting.number
        if name in self._heard_s:
            self._heard_s[name] = now_s
            return next(one.stamp for one in self._waiting if (one.slot, one.number) == name)
        stamp = waiting.stamp
        if not stamp:
            last = self._waiting[-1].stamp if self._waiting else 0
            stamp = max(last + 1, now_ms * STAMPS_PER_MS)
        self._heard_s[name] = now_s
        insort(
            self._waiting,
            Waiting(waiting.key, waiting.slot, waiting.number, stamp, waiting.wish),
            key=lambda one: one.place,
        )
        return stamp

    def remove(self, slot: int, number: int) -> None:
        """It waits no longer; nothing happens if it did not."""
        if self._heard_s.pop((slot, number), None) is not None:
            self._waiting = [one for one in self._waiting if (one.slot, one.number) != (slot, number)]

    def first(self, now_s: float, silent: Collection[int]) -> Waiting | None:
        """Whose turn it is: the first whose node is not silent. Forgets those who were not heard of for long."""
        while self._waiting:
            found = next((one for one in self._waiting if one.slot not in silent), None)
            if found is None or now_s - self._heard_s[found.slot, found.number] <= HEARD_S_MAX:
                return found
            self.remove(found.slot, found.number)
        return None

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting
