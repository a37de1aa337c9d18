"""Is there an order? Wing and Gong's search for the order of one register's operations, with Lowe's memory.

Herlihy and Wing (1990): each operation takes effect at one moment between its invocation and its completion. The
search (Wing, Gong 1993) builds an order from the front; Lowe (2017) remembers each (operations done, state) that it
has been at, for the way there does not matter. Seven things keep it small, and each only leaves out what can't help.
Below, an *order* is one of all that is left to do, that explains every answer; "definite" is what surely happened.

1. *A window.* What is done is told by the number of completions passed and a bit for each operation in flight, not
   by a bit for each operation: a history with little concurrency takes linear time, however long it is.
2. *An observer that agrees with the state is done at once.* Take an order in which it comes later, and move it here:
   it changes nothing, and it has been invoked. So only changes are tried.
3. *A change that never completed is tried only where the next to be done needs it.* It is optional. In an order where
   the next change over it is blind, and nobody looks in between, it can be left out. So it can be assumed to stand
   right before somebody who accepts its state and has been invoked: a definite one, or another optional change that
   is itself needed. Where texts are appended to, this does not hold, and all are tried.
4. *Of two ways to the same place the one that used fewer optional changes can do all that the other can.* Those that
   do the same thing are used in the order of their invocation, so one way's are a subset of the other's or neither's.
5. *A change that no observer ever accepts* is done for nothing where the state is of that kind already, or right
   before a blind change: nobody can tell. (States that the same observers accept are one state: translation.py.)
6. *A state is not left while somebody waits for it whom no other change can serve in time.* Whoever accepts this state
   alone must meet it before it completes; if no change to it is left that is invoked by then, this is the last chance.
   So an operation of another state that completes before the last of those was invoked can't be done any more.
   Where values are unique a wrong turn is so noticed where it is taken. What contradicts itself whatever the turns is
   seen before the search begins (zones.py).
7. *Of changes in flight that do the same thing the one that completes soonest goes first:* where it has gone later,
   that one and the one in its place can change places.

What is left is tried in the order of urgency: first the change that itself, or a reader of whose state, completes
soonest. Where many steps come no further, it goes on from a place of longer ago, and from further back each time: a
wrong turn may lie long before the end that it leads to. No place is forgotten, so the answer is the same.

Whoever uses a search gives it steps as long as they like: it stops and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from kvstore.verify.checkers.linearizability.moments import Moment, kinds_of, moments_of
from kvstore.verify.checkers.linearizability.steps import NEVER, UNSEEN, State, Step
from kvstore.verify.checkers.linearizability.waiting import Waiting
from kvstore.verify.checkers.linearizability.zones import contradiction

RELUCTANCE: Final = 0.5
"""An optional change is used after a definite one that helps the same."""
PATIENCE: Final = 100
"""So many steps may come no further before the search goes on from longer ago."""

_Node = tuple[int, State, int, int]
"""(completions passed, state, bits done of those in flight, bits of optional changes used)."""


class _Way(NamedTuple):
    """Where a change leads."""

    urgency: float
    """The place of the first completion that it helps: lower is more urgent."""
    place: int
    """Of its own completion."""
    target: State
    done: int
    used: int


class Search:
    """The search over one register's operations."""

    def __init__(self, steps: Iterable[Step], initial: Iterable[State]) -> None:
        """initial: the state at the beginning, or several if it is one of them and not known which."""
        ordered = sorted(steps, key=lambda step: step.invoked)
        optional = [step for step in ordered if step.completed is None and step.is_change]
        definite = [step for step in ordered if step.completed is not None]
        self._appends = any(step.appends is not None for step in ordered)
        self._moments, placed = moments_of(definite, optional, self._appends)
        self._waiting = Waiting([] if self._appends else placed, optional, self._moments)
        self._kinds = kinds_of(optional)
        self._been: dict[tuple[int, State, int], list[int]] = {}
        self._open: list[_Node] = []
        self.completions = [one.step.completed or 0 for one in placed]
        self.steps = 0
        """How many places were visited."""
        self.furthest = 0
        """How many completions were passed, or looked ahead to. The next one is not explained, if the answer is no."""
        self.answer: bool | None = None
        self._deepest = self._was_deepest = self._moved_at = 0
        self._back, self._patience = 1, PATIENCE
        beginnings = list(initial)
        seen = None if self._appends else contradiction([one.step for one in placed], optional, beginnings)
        self.suspects: frozenset[int] = frozenset() if seen is None else seen.invoked
        """Operations that contradict one another, by their invocations, where that is seen without a search."""
        if seen is not None:
            self.answer, self.furthest = False, seen.place
            return
        for state in beginnings:
            self._reach(0, state, 0, 0)

    def run(self, steps: int) -> bool | None:
        """Searches on, for so many steps at most. Whether there is an order; None: not known yet."""
        end = self.steps + steps
        while self.answer is None:
            if not self._open:
                self.answer = False
            elif self.steps >= end:
                break
            else:
                self.steps += 1
                self._expand(self._next())
        return self.answer

    def _next(self) -> _Node:
        """The place reached last; after many steps that came no further, one from longer ago."""
        if self._deepest > self._was_deepest:
            self._was_deepest, self._moved_at = self._deepest, self.steps
            self._patience, self._back = PATIENCE, 1
        if self.steps - self._moved_at < self._patience:
            return self._open.pop()
        self._moved_at = self.steps
        index, least = len(self._open) - 1, self._deepest - self._back
        while index > 0 and self._open[index - 1][0] >= least:
            index -= 1
        self._back *= 2
        if self._back > 2 * self._deepest:
            self._back, self._patience = 1, 2 * self._patience
        return self._open.pop(index)

    @property
    def stuck_at(self) -> int:
        """When the answer is no: the order of the completion that nothing explains."""
        return self.completions[self.furthest]

    def _reach(self, passed: int, state: State, done: int, used: int) -> None:
        """Does what costs nothing here, passes the completions of what is done, and keeps the place for later."""
        moments = self._moments
        while True:
            if passed == len(moments):
                self.answer = True
                return
            moment = moments[passed]
            done |= moment.exact.get(state, 0)
            for bit, accepts in moment.observers:
                if not done & bit and state in accepts:
                    done |= bit
            if state == UNSEEN:
                done |= moment.unseen
            if not done & moment.must:
                break
            done ^= moment.must
            passed += 1
        self._deepest = max(self._deepest, passed)
        self.furthest = max(self.furthest, passed)
        if moment.foreseen and self._is_hopeless(moment, state, done):
            return
        been = self._been.setdefault((passed, state, done), [])
        for other in been:
            if other & used == other:
                return
        been.append(used)
        last = self._waiting.last(passed, state, done, used)
        if last is not None and self._waiting.is_missed(passed, state, done, last):
            self.furthest = max(self.furthest, last)
            return
        self._open.append((passed, state, done, used))

    def _expand(self, node: _Node) -> None:
        """Reaches every place that a change leads to, and what is most urgent last: it is gone on with first."""
        passed, state, _, _ = node
        ways = sorted(self._ways(node), key=lambda way: (way.urgency, way.place), reverse=True)
        for way in ways:
            if way.target != state:
                last = self._waiting.last(passed, state, way.done, way.used)
                if last is not None:
                    self.furthest = max(self.furthest, last)
                    continue
            self._reach(passed, way.target, way.done, way.used)
            if self.answer:
                return

    def _ways(self, node: _Node) -> Iterator[_Way]:
        passed, state, done, used = node
        moment = self._moments[passed]
        if moment.available:
            yield from self._optional_ways(node, moment)
        tried: set[int] = set()
        for bit, place, kind, step in moment.changes:
            if done & bit or kind in tried or (step.accepts is not None and state not in step.accepts):
                continue
            tried.add(kind)
            is_blind = step.accepts is None and step.appends is None
            target = self._after(step, state)
            after = done | bit | (moment.unseen if is_blind else 0)
            yield _Way(min(place, self._waiting.first(passed, target, done)), place, target, after, used)

    def _optional_ways(self, node: _Node, moment: Moment) -> Iterator[_Way]:
        passed, state, done, used = node
        free = moment.available & ~used
        needed = None if self._appends else self._needed(moment, done, free)
        for step, twins in self._kinds:
            mine = twins & free
            if not mine or (step.accepts is not None and state not in step.accepts):
                continue
            target = self._after(step, state)
            if target == state or (needed is not None and target not in needed):
                continue
            hidden = moment.unseen if step.accepts is None and step.appends is None else 0
            urgency = self._waiting.first(passed, target, done) + RELUCTANCE
            yield _Way(urgency, NEVER, target, done | hidden, used | (mine & -mine))

    def _after(self, step: Step, state: State) -> State:
        return step.target if step.appends is None else f"{state}{step.appends}"

    def _needed(self, moment: Moment, done: int, free: int) -> set[State]:
        """The states that somebody waits for. `free`: the optional changes that are left."""
        needed: set[State] = {state for state, bits in moment.exact.items() if bits & ~done}
        for bit, accepts in moment.observers:
            if not done & bit:
                needed |= accepts
        for bit, _, _, step in moment.changes:
            if not done & bit and step.accepts is not None:
                needed |= step.accepts
        conditional = [step for step, twins in self._kinds if step.accepts is not None and twins & free]
        grows = True
        while grows and conditional:
            useful = [step for step in conditional if step.target in needed]
            conditional = [step for step in conditional if step.target not in needed]
            before = len(needed)
            for step in useful:
                needed |= step.accepts or frozenset()
            grows = len(needed) > before
        return needed

    def _is_hopeless(self, moment: Moment, state: State, done: int) -> bool:
        """Texts only grow until the next reset: one that is read later must begin with what is there."""
        if moment.resets & ~done:
            return False
        for bit, text, place in moment.foreseen:
            if not done & bit and not text.startswith(str(state)):
                self.furthest = max(self.furthest, place)
                return True
        return False
