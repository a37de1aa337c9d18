"""Waiting: who waits for a state, and whether leaving it now is leaving it for good (6. in search.py)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from kvstore.verify.checkers.linearizability.moments import Moment, Placed
from kvstore.verify.checkers.linearizability.steps import NEVER, State, Step

LOOK_BACK: Final = 16
"""How many of those that wait for a state are looked at: the last to complete are nearly always the last invoked."""


class Waiting:
    """For each state who accepts it alone, and which changes lead to it: is leaving it now leaving it for good?"""

    def __init__(self, placed: Sequence[Placed], optional: Sequence[Step], moments: Sequence[Moment]) -> None:
        self._placed, self._moments = placed, moments
        self._completions = [one.step.completed or 0 for one in placed]
        self._optional = optional
        self._places: dict[State, list[int]] = defaultdict(list)
        self._until: dict[State, list[int]] = defaultdict(list)
        self._sources: dict[State, list[int]] = defaultdict(list)
        self._spare: dict[State, int] = defaultdict(int)
        for place, one in enumerate(placed):
            if one.step.accepts is not None and len(one.step.accepts) == 1:
                (state,) = one.step.accepts
                self._places[state].append(place)
                self._until[state].append(self._completions[place])
            if one.step.target is not None:
                self._sources[one.step.target].append(one.step.invoked)
        for invoked in self._sources.values():
            invoked.sort()
        for index, step in enumerate(optional):
            if step.target is not None:
                self._spare[step.target] |= 1 << index

    def last(self, passed: int, state: State, done: int, used: int) -> int | None:
        """The place of the latest invoked of those that must meet the state before it is left; None: it may be left."""
        places = self._places.get(state)
        if places is None or self._moments[passed].sources.get(state, 0) & ~done:
            return None
        found, latest = None, -1
        end = bisect_left(self._until[state], self._next_source(passed, state, used))
        for place in reversed(places[max(0, end - LOOK_BACK) : end]):
            if place < passed:
                break
            one = self._placed[place]
            if one.step.invoked > latest and not (one.since <= passed and done & one.bit):
                found, latest = place, one.step.invoked
        return found

    def first(self, passed: int, state: State, done: int) -> int:
        """The place of the first completion of those that wait for the state, or beyond all."""
        places = self._places.get(state, ())
        for index in range(bisect_left(places, passed), len(places)):
            one = self._placed[places[index]]
            if not (one.since <= passed and done & one.bit):
                return places[index]
        return len(self._placed)

    def is_missed(self, passed: int, state: State, done: int, last: int) -> bool:
        """Whether something of another state completes before the one at `last` is invoked."""
        end = self._placed[last].step.invoked
        for place in range(passed, last):
            if self._completions[place] > end:
                return False
            one = self._placed[place]
            if one.since <= passed and done & one.bit:
                continue
            if one.step.is_change or one.step.accepts is None or state not in one.step.accepts:
                return True
        return False

    def _next_source(self, passed: int, state: State, used: int) -> int:
        """When the next change to this state is invoked, of those that are not in flight."""
        sources = self._sources.get(state, ())
        index = bisect_right(sources, self._completions[passed])
        moment = sources[index] if index < len(sources) else NEVER
        spare = self._spare.get(state, 0) & ~used
        return min(moment, self._optional[(spare & -spare).bit_length() - 1].invoked) if spare else moment
