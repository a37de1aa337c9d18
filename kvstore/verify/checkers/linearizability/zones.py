"""Contradictions that are seen without a search: what happened inside a stretch in which a register held one state.

Where one change alone can have led to a state in time for those who met it, all of those and the change stand in one
stretch of the order, with nothing of another state between. So from the first completion among them to the last
invocation, the stretch's *zone*, the state stood (Gibbons and Korach, "Testing shared memories", 1997):

* two zones do not overlap;
* no operation of another state begins and ends inside a zone;
* nobody met the state before the change was invoked.

Among many operations at once a search would go through all orders of the others before it knows that much.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from kvstore.verify.checkers.linearizability.steps import NEVER, State, Step


class Contradiction(NamedTuple):
    """Operations that can't all be as they were told."""

    place: int
    """The place of the completion by which there is surely no order."""
    invoked: frozenset[int]
    """The operations, by their invocations."""


class _Zone(NamedTuple):
    begin: int
    end: int
    place: int
    """The place of the latest completion that it rests on."""
    invoked: frozenset[int]
    """What it rests on."""


def contradiction(
    completing: Sequence[Step], optional: Sequence[Step], beginnings: Collection[State]
) -> Contradiction | None:
    """The one that is seen earliest; None: none is seen, and a search must tell.

    completing: the definite operations, in the order of their completions.
    """
    needs: dict[State, list[int]] = defaultdict(list)
    sources: dict[State, list[Step]] = defaultdict(list)
    for place, step in enumerate(completing):
        if step.accepts is not None and len(step.accepts) == 1:
            needs[next(iter(step.accepts))].append(place)
    for step in (*completing, *optional):
        if step.target is not None:
            sources[step.target].append(step)
    completions = [step.completed or 0 for step in completing]
    found: list[Contradiction] = []
    zones: dict[State, _Zone] = {}
    for state, places in needs.items():
        is_first = state in beginnings
        if is_first and len(beginnings) > 1:
            continue
        changes = sorted(sources.get(state, ()), key=lambda step: step.invoked)
        change = None if is_first or not changes else changes[0]
        others = changes if change is None else changes[1:]
        until = others[0].invoked if others else NEVER
        met = places[: bisect_left(places, until, key=completions.__getitem__)]
        if met and change is not None and completions[met[0]] < change.invoked:
            found.append(Contradiction(met[0], frozenset((change.invoked, completing[met[0]].invoked))))
        elif met and (is_first or change is not None):
            zone = _zone(met, change, completing, completions)
            if zone.begin < zone.end:
                zones[state] = zone
    found += _inside(zones, completing, completions)
    found += _overlapping(zones.values())
    return min(found, key=lambda one: one.place, default=None)


def _zone(met: Sequence[int], change: Step | None, completing: Sequence[Step], completions: Sequence[int]) -> _Zone:
    """change: None where the register began so."""
    last = max(met, key=lambda place: completing[place].invoked)
    end = completing[last].invoked
    if change is None:
        return _Zone(-1, end, last, frozenset((end,)))
    begin, rests_on = completions[met[0]], {change.invoked, completing[met[0]].invoked, end}
    if change.completed is not None and change.completed < begin:
        begin, rests_on = change.completed, {change.invoked, end}
    return _Zone(begin, max(end, change.invoked), last, frozenset(rests_on))


def _inside(
    zones: Mapping[State, _Zone], completing: Sequence[Step], completions: Sequence[int]
) -> list[Contradiction]:
    """Of each zone one, a blind change rather than what itself rests on a state: that is easier to explain."""
    found = []
    for state, zone in zones.items():
        within: Step | None = None
        for place in range(bisect_left(completions, zone.begin), bisect_left(completions, zone.end)):
            step = completing[place]
            is_of_it = step.target == state or (step.accepts is not None and state in step.accepts)
            if step.invoked > zone.begin and not is_of_it and (within is None or step.accepts is None):
                within, at = step, max(place, zone.place)
                if step.accepts is None:
                    break
        if within is not None:
            found.append(Contradiction(at, zone.invoked | {within.invoked}))
    return found


def _overlapping(zones: Iterable[_Zone]) -> list[Contradiction]:
    found = []
    longest: _Zone | None = None
    for zone in sorted(zones, key=lambda zone: zone.begin):
        if longest is not None and zone.begin < longest.end:
            found.append(Contradiction(max(zone.place, longest.place), zone.invoked | longest.invoked))
        if longest is None or zone.end > longest.end:
            longest = zone
    return found
