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
   before a blind change: nobody can tell. (States that the same observers accept are one state: registers.py.)
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

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from kvstore.verify.checkers.zones import NEVER, contradiction

State = Hashable
UNSEEN: Final = -1
"""The state that no observer accepts: every change to such a state leads here."""


class Step(NamedTuple):
    """One operation, as the search sees it."""

    invoked: int
    completed: int | None
    """None: it may take effect at any time after its invocation, or never."""
    accepts: frozenset[State] | None = None
    """The states that it can meet. None: any."""
    target: State | None = None
    """The state that it leaves. None: it only observes."""
    appends: str | None = None
    """Instead of a target: what it puts behind the text that is there."""

    @property
    def is_change(self) -> bool:
        """Whether it leaves another state than it met."""
        return self.target is not None or self.appends is not None


class _Moment(NamedTuple):
    """One completion: what may be done before it, and what must be."""

    must: int
    """The bit of the operation that completes here."""
    exact: Mapping[State, int]
    """Bits of the observers in flight that accept this state alone."""
    observers: tuple[tuple[int, frozenset[State]], ...]
    """The other observers."""
    changes: tuple[_Change, ...]
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


class _Change(NamedTuple):
    """A definite change in flight."""

    bit: int
    place: int
    """Of its completion, in the order of all."""
    kind: int
    """The same for all that do the same thing."""
    step: Step


class _Placed(NamedTuple):
    """A definite operation, at the place of its completion."""

    bit: int
    since: int
    """The first moment in which it is in flight."""
    step: Step


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


class _Waiting:
    """For each state who accepts it alone, and which changes lead to it: is leaving it now leaving it for good?"""

    def __init__(self, placed: Sequence[_Placed], optional: Sequence[Step], moments: Sequence[_Moment]) -> None:
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


class Search:
    """The search over one register's operations."""

    def __init__(self, steps: Iterable[Step], initial: Iterable[State]) -> None:
        """initial: the state at the beginning, or several if it is one of them and not known which."""
        ordered = sorted(steps, key=lambda step: step.invoked)
        optional = [step for step in ordered if step.completed is None and step.is_change]
        definite = [step for step in ordered if step.completed is not None]
        self._appends = any(step.appends is not None for step in ordered)
        self._moments, placed = _moments(definite, optional, self._appends)
        self._waiting = _Waiting([] if self._appends else placed, optional, self._moments)
        self._kinds = _kinds(optional)
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

    def _optional_ways(self, node: _Node, moment: _Moment) -> Iterator[_Way]:
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

    def _needed(self, moment: _Moment, done: int, free: int) -> set[State]:
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

    def _is_hopeless(self, moment: _Moment, state: State, done: int) -> bool:
        """Texts only grow until the next reset: one that is read later must begin with what is there."""
        if moment.resets & ~done:
            return False
        for bit, text, place in moment.foreseen:
            if not done & bit and not text.startswith(str(state)):
                self.furthest = max(self.furthest, place)
                return True
        return False


def _kinds(optional: Sequence[Step]) -> list[tuple[Step, int]]:
    """One of each that do the same thing, and the bits of all of those."""
    kinds: dict[tuple[object, ...], tuple[Step, int]] = {}
    for index, step in enumerate(optional):
        does = _does(step)
        kinds[does] = step, kinds.get(does, (step, 0))[1] | 1 << index
    return list(kinds.values())


def _does(step: Step) -> tuple[object, ...]:
    return step.accepts, step.target, step.appends


def _moments(definite: Sequence[Step], optional: Sequence[Step], appends: bool) -> tuple[list[_Moment], list[_Placed]]:
    """A moment for each completion, in order. A bit is free again for others once its operation has completed."""
    completing = sorted(definite, key=lambda step: step.completed or 0)
    place_of = {step.invoked: place for place, step in enumerate(completing)}
    kinds: dict[tuple[object, ...], int] = {}
    in_flight: dict[int, _Placed] = {}
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
            in_flight[place_of[definite[invoked].invoked]] = _Placed(free.pop(), place, definite[invoked])
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
                changes.append(_Change(bit, other_place, kinds.setdefault(_does(other), len(kinds)), other))
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
            _Moment(done.bit, exact, tuple(observers), tuple(changes), sources, unseen, available, resets, ahead)
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


FORESIGHT: Final = 4
"""How many reads ahead are looked at: the next few say nearly all that later ones do."""
LOOK_BACK: Final = 16
"""How many of those that wait for a state are looked at: the last to complete are nearly always the last invoked."""
RELUCTANCE: Final = 0.5
"""An optional change is used after a definite one that helps the same."""
PATIENCE: Final = 100
"""So many steps may come no further before the search goes on from longer ago."""
