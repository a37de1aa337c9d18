"""Is there an order? Wing and Gong's search for the order of one register's operations, with Lowe's memory.

Herlihy and Wing (1990): each operation takes effect at one moment between its invocation and its completion. The
search (Wing, Gong 1993) builds an order from the front; Lowe (2017) remembers each (operations done, state) that it
has been at, for the way there does not matter. Five things keep it small, and each only leaves out what can't help.
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

Whoever uses a search gives it steps as long as they like: it stops and goes on where it was.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Sequence
from typing import Final, NamedTuple

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
    observers: tuple[tuple[int, frozenset[State]], ...]
    changes: tuple[tuple[int, Step], ...]
    """Definite ones in flight, the one that completes soonest last, for it is tried first."""
    unseen: int
    """Bits of blind changes to UNSEEN among them."""
    available: int
    """Bits of the optional changes that were invoked before."""
    resets: int
    """Bits of changes among `changes` that leave a state of their own, whatever they met."""
    foreseen: tuple[tuple[int, str, int], ...]
    """Texts that are read here or later with no reset invoked from now on: (bit of the read or 0, text, the
    place of its completion)."""


_Node = tuple[int, State, int, int]
"""(completions passed, state, bits done of those in flight, bits of optional changes used)."""


class Search:
    """The search over one register's operations."""

    def __init__(self, steps: Iterable[Step], initial: Iterable[State]) -> None:
        """initial: the state at the beginning, or several if it is one of them and not known which."""
        ordered = sorted(steps, key=lambda step: step.invoked)
        optional = [step for step in ordered if step.completed is None and step.is_change]
        definite = [step for step in ordered if step.completed is not None]
        self._appends = any(step.appends is not None for step in ordered)
        self._moments = _moments(definite, optional, self._appends)
        self._kinds = _kinds(optional)
        self._been: dict[tuple[int, State, int], list[int]] = {}
        self._open: list[_Node] = []
        self.completions = sorted(step.completed for step in definite if step.completed is not None)
        self.steps = 0
        """How many places were visited."""
        self.furthest = 0
        """How many completions were passed, or looked ahead to. The next one is not explained, if the answer is no."""
        self.answer: bool | None = None
        for state in initial:
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
                self._expand(self._open.pop())
        return self.answer

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
            for bit, accepts in moment.observers:
                if not done & bit and state in accepts:
                    done |= bit
            if state == UNSEEN:
                done |= moment.unseen
            if not done & moment.must:
                break
            done ^= moment.must
            passed += 1
        self.furthest = max(self.furthest, passed)
        if moment.foreseen and self._is_hopeless(moment, state, done):
            return
        been = self._been.setdefault((passed, state, done), [])
        for other in been:
            if other & used == other:
                return
        been.append(used)
        self._open.append((passed, state, done, used))

    def _expand(self, node: _Node) -> None:
        passed, state, done, used = node
        moment = self._moments[passed]
        if moment.available:
            self._try_optional(node, moment)
        for bit, step in moment.changes:
            if done & bit:
                continue
            if step.accepts is None:
                hidden = moment.unseen if step.appends is None else 0
                target = step.target if step.appends is None else f"{state}{step.appends}"
                self._reach(passed, target, done | bit | hidden, used)
            elif state in step.accepts:
                self._reach(passed, step.target, done | bit, used)
            if self.answer:
                return

    def _try_optional(self, node: _Node, moment: _Moment) -> None:
        passed, state, done, used = node
        free = moment.available & ~used
        needed = None if self._appends else self._needed(moment, done, free)
        for step, twins in self._kinds:
            mine = twins & free
            if not mine or (step.accepts is not None and state not in step.accepts):
                continue
            target = step.target if step.appends is None else f"{state}{step.appends}"
            if target == state or (needed is not None and target not in needed):
                continue
            hidden = moment.unseen if step.accepts is None and step.appends is None else 0
            self._reach(passed, target, done | hidden, used | (mine & -mine))

    def _needed(self, moment: _Moment, done: int, free: int) -> set[State]:
        """The states that somebody waits for. `free`: the optional changes that are left."""
        needed: set[State] = set()
        for bit, accepts in moment.observers:
            if not done & bit:
                needed |= accepts
        for bit, step in moment.changes:
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
        does = step.accepts, step.target, step.appends
        kinds[does] = step, kinds.get(does, (step, 0))[1] | 1 << index
    return list(kinds.values())


def _moments(definite: Sequence[Step], optional: Sequence[Step], appends: bool) -> list[_Moment]:
    """A moment for each completion, in order. A bit is free again for others once its operation has completed."""
    completing = sorted(definite, key=lambda step: step.completed or 0)
    in_flight: dict[int, tuple[int, Step]] = {}
    free: list[int] = []
    bits = invoked = optionals = 0
    foreseen = _foreseen(definite, optional, completing) if appends else {}
    moments = []
    for step in completing:
        now = step.completed or 0
        while invoked < len(definite) and definite[invoked].invoked < now:
            if not free:
                free.append(1 << bits)
                bits += 1
            in_flight[definite[invoked].invoked] = free.pop(), definite[invoked]
            invoked += 1
        while optionals < len(optional) and optional[optionals].invoked < now:
            optionals += 1
        pending = list(in_flight.values())
        observers = tuple((bit, other.accepts or frozenset()) for bit, other in pending if not other.is_change)
        changes = [(bit, other) for bit, other in pending if other.is_change]
        changes.sort(key=lambda pair: -(pair[1].completed or 0))
        unseen = _bits(bit for bit, other in changes if other.accepts is None and other.target == UNSEEN)
        resets = _bits(bit for bit, other in changes if other.target is not None)
        must, _ = in_flight.pop(step.invoked)
        reads = foreseen.get(now, ())
        ahead = tuple(
            (next((bit for bit, other in pending if other is read), 0), text, place) for read, text, place in reads
        )
        moments.append(_Moment(must, observers, tuple(changes), unseen, (1 << optionals) - 1, resets, ahead))
        free.append(must)
    return moments


def _bits(bits: Iterable[int]) -> int:
    together = 0
    for bit in bits:
        together |= bit
    return together


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
