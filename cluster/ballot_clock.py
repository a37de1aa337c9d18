"""The hybrid logical clock that gives out ballots.

Kulkarni et al., "Logical Physical Clocks" (2014): the larger of the physical time and one more than anything seen.
Here the low bits are a counter and the node's slot (storage/ballot.py), so ballots of all nodes differ.

Two promises:

* Ballots of one folder only grow, over restarts too: before a ballot leaves the node, a ceiling above it is on disk
  (`when_durable`), and a node starts from its ceiling. No second ballot is ever the same.
* The physical part follows the monotonic clock. The wall clock is looked at now and then (`follow_wall`), and a
  step of it beyond the allowed offset is followed only once a majority of the members' wall clocks agree with it.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.clock import Clock
from cluster.tasks import safely
from storage.ballot import COUNTER_BITS, COUNTERS_MAX, EPOCH_MS, NONE, SLOT_BITS, SLOTS_MAX, unix_ms_of

BALLOT_MS_SHIFT = COUNTER_BITS + SLOT_BITS

SEALED_MS = 1 << 62
"""Stands for a ceiling that will never be asked for again."""
AHEAD_MS_MAX = 366 * 86_400_000
"""Ballots further ahead than a year are no clock's: they are refused, so that they can't use up the numbers."""
RESERVE_MS = 3_000
"""How far ahead the ceiling is put. A node that was killed starts this much ahead of time at most; a disk write
each half of it, and only while ballots are given out."""


def ballot_below(ballot: int, steps: int) -> int:
    """So many steps below a ballot, of the room that was left there."""
    return ballot - (steps << SLOT_BITS)


class BallotClock:
    """Gives out ballots; not for several threads."""

    def __init__(
        self, clock: Clock, slot: int, ceiling_ms: int, reserve: Callable[[int, Callable[[], None]], None]
    ) -> None:
        """ceiling_ms: the one found on disk, 0 for a new folder.

        reserve(ceiling_ms, done) puts a new ceiling on disk and then calls done.
        """
        self._clock, self._slot, self._reserve = clock, slot, reserve
        self._offset_ms = clock.wall_ms() - int(clock.monotonic_s() * 1000)
        self._ceiling_ms = self._asked_ms = ceiling_ms
        self._last = max(ceiling_ms - EPOCH_MS, 0) * COUNTERS_MAX
        self._waiting: list[Callable[[], None]] = []
        self.credible_max = self._bound()
        """No clock can have given out this ballot by now, or one above; kept up by follow_wall."""

    def now_ms(self) -> int:
        """Physical Unix time in milliseconds, as this clock sees it."""
        return self._offset_ms + int(self._clock.monotonic_s() * 1000)

    def _bound(self) -> int:
        return (self.now_ms() + AHEAD_MS_MAX - EPOCH_MS) << BALLOT_MS_SHIFT

    def tick(self, above: int = NONE, room: int = 0) -> int:
        """A new ballot, above `above` and above every ballot given out or absorbed before.

        room: how many below it are left to whoever asks, above all those, too: ballot_below() gives them.
        """
        physical = (self.now_ms() - EPOCH_MS) << COUNTER_BITS
        self._last = max(physical, self._last + 1, (above >> SLOT_BITS) + 1) + room
        return (self._last << SLOT_BITS) | self._slot

    @property
    def highest(self) -> int:
        """No ballot that was given out or absorbed is above this one."""
        return (self._last << SLOT_BITS) | (SLOTS_MAX - 1)

    def absorb(self, ballot: int) -> None:
        """From now on ballots are above this one, which another node gave out.

        Unless it is no clock's: that one must not use up the numbers.
        """
        if ballot < self.credible_max:
            self._last = max(self._last, ballot >> SLOT_BITS)

    def horizon(self, ballot: int, allowed_offset_s: float) -> int:
        """No write that is under way now, beside the one of this ballot, has an origin above this one.

        Unless the clock of its node is further ahead than is allowed.
        """
        latest_ms = max(self.now_ms(), unix_ms_of(ballot)) + int(allowed_offset_s * 1000) + 1
        return (latest_ms - EPOCH_MS) << BALLOT_MS_SHIFT

    def check_durable(self) -> bool:
        """Whether a ceiling above every ballot given out is on disk; asks for the next one in good time."""
        last_ms = (self._last >> COUNTER_BITS) + EPOCH_MS
        if last_ms + RESERVE_MS // 2 >= self._asked_ms:
            self._ask(last_ms)
        return last_ms < self._ceiling_ms

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Calls back once every ballot given out so far may leave the node."""
        if self.check_durable():
            callback()
        else:
            self._waiting.append(callback)

    def _ask(self, last_ms: int) -> None:
        ceiling_ms = self._asked_ms = last_ms + RESERVE_MS
        self._reserve(ceiling_ms, lambda: self._raised(ceiling_ms))

    def _raised(self, ceiling_ms: int) -> None:
        if self._asked_ms == SEALED_MS:
            return
        self._ceiling_ms = max(self._ceiling_ms, ceiling_ms)
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            safely(self.when_durable, callback)

    def seal(self) -> int:
        """At a graceful stop: the lowest ceiling that covers what was given out, for the disk.

        No ballot above it is durable from now on, so whatever still runs stays silent.
        """
        ceiling_ms = (self._last >> COUNTER_BITS) + EPOCH_MS + 1
        self._ceiling_ms, self._asked_ms = min(self._ceiling_ms, ceiling_ms), SEALED_MS
        return ceiling_ms

    def follow_wall(self, allowed_offset_s: float, *, is_shared: bool = False) -> float:
        """Sets the physical part by the wall clock, unless that stepped too far. Gives the step in seconds.

        is_shared: whether a majority of the members' wall clocks agree with ours; then any step is followed.
        """
        step_ms = self._clock.wall_ms() - self.now_ms()
        if is_shared or abs(step_ms) <= allowed_offset_s * 1000:
            self._offset_ms += step_ms
        self.credible_max = self._bound()
        return step_ms / 1000
