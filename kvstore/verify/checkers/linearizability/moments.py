"""Moments: between two completions, what is in flight and what it may lead to. Made once, before the search."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from kvstore.verify.checkers.linearizability.steps import UNSEEN, State, Step

FORESIGHT: Final = 4
"""How many reads ahead are looked at: the next few say nearly all that later ones do."""


class Moment(NamedTuple):
    """One completion: what may be done before it, and what must be."""

    must: int
    """The bit of the operation that completes here."""
    exact: Mapping[State, int]
    """Bits of the observers in flight that accept this state alone."""
    observers: tuple[tuple[int, frozenset[State]], ...]
    """The other observers."""
    changes: tuple[Change, ...]
    """Definite ones in flight, the one that completes soonest first."""
    sources: Mapping[State, int]
    """Bits of those that lead to this state."""
    unseen: int
    """Bits of blind changes to UNSEEN among them."""
    available: int
    """Bits of the optional changes that were invoked before."""
    resets: int
    """Bits of changes among `changes` that leave a state of their own, whatever they met."""
    foreseen: tuple[tuple[int, str, int], ...]
    """Texts that are read here or later with no reset invoked from now on: (bit of the read or 0, text, the
    place of its completion)."""


class Change(NamedTuple):
    """A definite change in flight."""

    bit: int
    place: int
    """Of its completion, in the order of all."""
    kind: int
    """The same for all that do the same thing."""
    step: Step


class Placed(NamedTuple):
    """A definite operation, at the place of its completion."""

    bit: int
    since: int
    """The first moment in which it is in flight."""
    step: Step


def kinds_of(optional: Sequence[Step]) -> list[tuple[Step, int]]:
    """One of each that do the same thing, and the bits of all of those."""
    kinds: dict[tuple[object, ...], tuple[Step, int]] = {}
    for index, step in enumerate(optional):
        does = _does(step)
        kinds[does] = step, kinds.get(does, (step, 0))[1] | 1 << index
    return list(kinds.values())


def _does(step: Step) -> tuple[object, ...]:
    return step.accepts, step.target, step.appends


def moments_of(definite: Sequence[Step], optional: Sequence[Step], appends: bool) -> tuple[list[Moment], list[Placed]]:
    """A moment for each completion, in order. A bit is free again for others once its operation has completed."""
    completing = sorted(definite, key=lambda step: step.completed or 0)
    place_of = {step.invoked: place for place, step in enumerate(completing)}
    kinds: dict[tuple[object, ...], int] = {}
    in_flight: dict[int, Placed] = {}
    free: list[int] = []
    bits = invoked = optionals = 0
    foreseen = _foreseen(definite, optional, completing) if appends else {}
    moments, placed = [], []
    for place, step in enumerate(completing):
        now = step.completed or 0
        while invoked < len(definite) and definite[invoked].invoked < now:
            if not free:
                free.append(1 << bits)
                bits += 1
            in_flight[place_of[definite[invoked].invoked]] = Placed(free.pop(), place, definite[invoked])
            invoked += 1
        while optionals < len(optional) and optional[optionals].invoked < now:
            optionals += 1
        exact: dict[State, int] = {}
        sources: dict[State, int] = {}
        observers, changes = [], []
        unseen = resets = 0
        for other_place, (bit, _, other) in sorted(in_flight.items()):
            accepts = other.accepts or frozenset()
            if other.is_change:
                changes.append(Change(bit, other_place, kinds.setdefault(_does(other), len(kinds)), other))
            elif len(accepts) == 1:
                (state,) = accepts
                exact[state] = exact.get(state, 0) | bit
            else:
                observers.append((bit, accepts))
            if other.target is not None:
                sources[other.target] = sources.get(other.target, 0) | bit
                resets |= bit
                if other.accepts is None and other.target == UNSEEN:
                    unseen |= bit
        done = in_flight[place]
        placed.append(done)
        ahead = tuple(
            (next((one.bit for one in in_flight.values() if one.step is read), 0), text, far)
            for read, text, far in foreseen.get(now, ())
        )
        available = (1 << optionals) - 1
        moments.append(
            Moment(done.bit, exact, tuple(observers), tuple(changes), sources, unseen, available, resets, ahead)
        )
        del in_flight[place]
        free.append(done.bit)
    return moments, placed


def _foreseen(
    definite: Sequence[Step], optional: Sequence[Step], completing: Sequence[Step]
) -> dict[int, list[tuple[Step, str, int]]]:
    """For each completion the reads, that completion's or later ones', before which nothing resets the text."""
    if any(step.appends is None for step in optional):
        return {}
    resets = sorted(step.invoked for step in definite if step.target is not None)
    reads = [step for step in completing if not step.is_change and step.accepts is not None and len(step.accepts) == 1]
    place = {step.invoked: index for index, step in enumerate(completing)}
    seen: dict[int, list[tuple[Step, str, int]]] = {}
    first = 0
    for step in completing:
        now = step.completed or 0
        while first < len(reads) and (reads[first].completed or 0) < now:
            first += 1
        after = resets[bisect_right(resets, now)] if resets and resets[-1] > now else None
        ahead = []
        for read in reads[first : first + FORESIGHT]:
            if after is not None and (read.completed or 0) > after:
                break
            ahead.append((read, str(next(iter(read.accepts or ()))), place[read.invoked]))
        seen[now] = ahead
    return seen
