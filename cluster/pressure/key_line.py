"""KeyLine: those that wait for their turn at one key, and whether one more may.

The writes of a key are proposed one after another, so a hot key has a rate of its own, far below the node's. The line
knows how long a turn takes of late, and so how long its last place waits. Refused is who would wait past its deadline;
and, once the line has been long for a while, who would make it long again: a line that is always long serves nobody
sooner than a short one, and some of those in it have hung up by their turn.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

QUEUE_MAX = 1_000
"""Changes that wait for one key. At some hundred a second and key the last would wait longer than any timeout."""
QUEUE_MIN = 32
"""So many may wait in any case, if they make their deadlines: where turns are slow, for values are large, few clients
are a long line."""
SHORT_S = 0.3
"""A line that takes no longer is short. 96 clients that write one key make 0.1 to 0.2 s."""
LONG_S = 0.5
"""How long it may be longer: a burst goes away by itself."""
WEIGHT = 0.2
"""Of the newest turn in the running mean."""

Waiting = TypeVar("Waiting")


class KeyLine(Generic[Waiting]):
    """The line of one key; somebody's turn it is, whether others wait or not. Made and dropped with each write."""

    __slots__ = ("_began_s", "_short_s", "_turn_s", "roomy", "served", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self.roomy = 0
        """The prepared ballot with room below it for writes that go together; see coordination/writing/together.py."""
        self.served = 1
        """Writes that have this turn together."""
        self._turn_s = 0.0
        """How long a turn takes for each write in it; 0 before one was seen from its beginning to its end."""
        self._began_s = self._short_s = float("-inf")

    def too_long_s(self, now_s: float, deadline_s: float) -> float:
        """How long one more would wait, where that is too long; 0 where it may join."""
        count = len(self.waiting)
        wait_s = (count + 1) * self._turn_s
        if wait_s <= SHORT_S / 2:  # not at SHORT_S itself, where a line is that others are kept out of
            self._short_s = now_s
        is_long = count >= QUEUE_MIN and wait_s > SHORT_S and now_s - self._short_s > LONG_S
        if count >= QUEUE_MAX or is_long or now_s + wait_s > deadline_s:
            return max(wait_s, SHORT_S / QUEUE_MAX)
        return 0.0

    def turn_begins(self, now_s: float) -> None:
        """The next one's, right after that of the one before."""
        if self._began_s > float("-inf"):
            took_s = (now_s - self._began_s) / self.served
            self._turn_s += (took_s - self._turn_s) * (WEIGHT if self._turn_s else 1.0)
        self._began_s, self.served = now_s, 1
