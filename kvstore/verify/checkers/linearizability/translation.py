"""One key's reads, puts, deletes, compare-and-sets and appends, translated for the search.

A state of a key is a write of it: its value and the version that was told of it. What an operation accepts is the set
of states that agree with all that it said:

* a read, the states with its value, and with its version if it told one;
* a compare-and-set that was done, those with the expected value or version;
* a conflict, those with what it saw instead, and not with what was expected. A conflict that saw nothing: all others.

So the model goes by values where only values were told, and by versions where those were. By values alone two writes
of one value are the same state, and a reader may have read either: workloads write unique values, or record versions.
A write whose version nobody knows may be the one with a version that no acknowledged write has. It is not tied to the
first read that shows such a version, so of several such writes of one value a mistake between them can go unseen.

Optional, at any time after their invocation, once or never: what is unknown, and every weak write, whatever was said
of it. Left out: what is proved not done, reads without an answer, and optional changes that are of no use, for no
definite operation accepts their state, nor does any other optional change that is of use. That is sound: take an order
with such changes. What follows one of them, up to the next blind change, would have to accept its state, so it is of no
use either. Leave all of them out: up to that blind change the state is what it was before, and nobody looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from msgspec import UNSET

from kvstore.verify.checkers.linearizability.search import Search
from kvstore.verify.checkers.linearizability.steps import UNSEEN, State, Step
from kvstore.verify.history import Kind, Operation, Outcome

WRITES: Final = frozenset((Kind.PUT, Kind.DELETE, Kind.CAS, Kind.FENCED_PUT, Kind.WEAK_PUT, Kind.WEAK_DELETE))
WEAK: Final = frozenset((Kind.WEAK_PUT, Kind.WEAK_DELETE))
KINDS: Final = frozenset((*WRITES, Kind.READ, Kind.APPEND))
STRONG: Final = KINDS - WEAK - {Kind.FENCED_PUT}
"""What promises an order."""


@dataclass(frozen=True)
class _Place:
    """A state, before those that nobody can tell apart are made one."""

    value: State
    version: Any
    """UNSET when nobody told."""


class _Else:
    """A value or version that is none of those in the history. It equals itself alone."""


@dataclass(frozen=True)
class _Claim:
    """What an observer says of the state it met."""

    value: Any = UNSET
    version: Any = UNSET
    but_value: Any = UNSET
    but_version: Any = UNSET


class Translation:
    """One key's operations, as steps of a search."""

    def __init__(self, operations: Sequence[Operation], initial: Any = None, *, any_beginning: bool = False) -> None:
        """any_beginning: the key may have held anything at the beginning, instead of `initial`."""
        self.operations = [operation for operation in operations if says_something(operation)]
        self._is_text = any(operation.kind == Kind.APPEND for operation in self.operations)
        if self._is_text:
            self.operations = [op for op in self.operations if op.result is not UNSET or not _observes(op)]
            self.steps = [_text_step(operation) for operation in self.operations]
            self.unseen = self._unseen_texts()
            self.beginnings: set[State] = self._texts() if any_beginning else {"" if initial is None else initial}
            return
        self._known_versions = {
            operation.version
            for operation in self.operations
            if operation.kind in WRITES and operation.outcome is not Outcome.CONFLICT and _has(operation.version)
        }
        self._value_of_version = _values_of_versions(self.operations)
        places: dict[_Place, int] = {_Place(_token(initial), None if initial is None else UNSET): 0}
        if any_beginning:
            for place in self._anything():
                places.setdefault(place, len(places))
        beginnings = set(places.values())
        targets = [self._target(operation, places) for operation in self.operations]
        by_value: dict[Any, list[tuple[_Place, int]]] = {}
        for place, number in places.items():
            by_value.setdefault(place.value, []).append((place, number))
        accepts = [self._accepts(operation, places, by_value) for operation in self.operations]
        self._join(targets, accepts, beginnings)

    def search(self) -> Search:
        """A new search."""
        return Search(self.steps, self.beginnings)

    def _anything(self) -> Iterable[_Place]:
        """What a key may have held before the first operation: what somebody claims to have seen, or something else."""
        yield _Place(_Else(), _Else())
        for operation in self.operations:
            claim = _claim_of(operation)
            if claim is not None and (claim.value is not UNSET or claim.version is not UNSET):
                value = self._value_of_version.get(claim.version, _Else()) if claim.value is UNSET else claim.value
                yield _Place(value, None if value is None else claim.version)

    def _unseen_texts(self) -> list[Operation]:
        """Changes whose text is in none that was accepted: before the next one of those, a reset wiped it out."""
        accepted = [str(state) for step in self.steps for state in step.accepts or ()]
        unseen = []
        for operation, step in zip(self.operations, self.steps, strict=True):
            if step.appends is not None:
                seen = any(step.appends in text for text in accepted)
            else:
                seen = any(text.startswith(str(step.target)) for text in accepted)
            if step.is_change and not seen:
                unseen.append(operation)
        return unseen

    def _texts(self) -> set[State]:
        """The same for texts: the beginning of a text that is read, or something else."""
        read = [str(state) for step in self.steps for state in step.accepts or ()]
        return {"\0", *(text[:length] for text in read for length in range(len(text) + 1))}

    def _target(self, operation: Operation, places: dict[_Place, int]) -> int | None:
        if _observes(operation):
            return None
        value = None if operation.kind in (Kind.DELETE, Kind.WEAK_DELETE) else operation.argument
        place = _Place(_token(value), None) if value is None else _Place(_token(value), operation.version)
        return places.setdefault(place, len(places))

    def _accepts(
        self,
        operation: Operation,
        places: Mapping[_Place, int],
        by_value: Mapping[Any, Sequence[tuple[_Place, int]]],
    ) -> frozenset[State] | None:
        claim = _claim_of(operation)
        if claim is None:
            return None
        if claim.value is not UNSET:
            likely: Iterable[tuple[_Place, int]] = by_value.get(claim.value, ())
        else:
            likely = places.items()
        return frozenset(number for place, number in likely if self._agrees(place, claim))

    def _agrees(self, place: _Place, claim: _Claim) -> bool:
        if claim.value is not UNSET and place.value != claim.value:
            return False
        if claim.version is not UNSET and not self._may_have(place, claim.version):
            return False
        if claim.but_value is not UNSET and place.value == claim.but_value:
            return False
        return claim.but_version is UNSET or place.version is UNSET or place.version != claim.but_version

    def _may_have(self, place: _Place, version: Any) -> bool:
        if place.version is not UNSET:
            return bool(place.version == version)
        if version is None or version in self._known_versions:
            return False
        return bool(self._value_of_version.get(version, place.value) == place.value)

    def _useful(self, targets: Sequence[int | None], accepts: Sequence[frozenset[State] | None]) -> list[int]:
        """All but the optional changes that lead, by other optional ones or at once, to nothing that must be."""
        left = [index for index, operation in enumerate(self.operations) if is_optional(operation)]
        useful = sorted(set(range(len(self.operations))).difference(left))
        needed: set[State | None] = {state for index in useful for state in accepts[index] or ()}
        left = [
            index for index in left if targets[index] not in (accepts[index] or ()) or len(accepts[index] or ()) > 1
        ]
        grows = True
        while grows:
            found = [index for index in left if targets[index] in needed]
            left = [index for index in left if targets[index] not in needed]
            useful += found
            needed.update(state for index in found for state in accepts[index] or ())
            grows = bool(found)
        return sorted(useful)

    def _join(self, targets: list[int | None], accepts: list[frozenset[State] | None], beginnings: set[int]) -> None:
        """Drops what is of no use, and makes one state of all those that the same observers accept."""
        kept = self._useful(targets, accepts)
        observers: dict[State | None, list[int]] = {}
        for index in kept:
            for state in accepts[index] or ():
                observers.setdefault(state, []).append(index)
        names: dict[tuple[int, ...], int] = {}
        everywhere: set[State] = {*beginnings, *(target for target in targets if target is not None)}
        one: dict[State | None, int] = {
            state: names.setdefault(tuple(observers[state]), len(names)) if state in observers else UNSEEN
            for state in everywhere
        }
        self.operations = [self.operations[index] for index in kept]
        self.steps = []
        self.unseen = []
        for index, operation in zip(kept, self.operations, strict=True):
            accepted, target = accepts[index], targets[index]
            self.steps.append(
                Step(
                    operation.invoked,
                    None if is_optional(operation) else operation.completed,
                    None if accepted is None else frozenset(one[state] for state in accepted),
                    None if target is None else one[target],
                )
            )
            if target is not None and one[target] == UNSEEN:
                self.unseen.append(operation)
        self.beginnings = {one[state] for state in beginnings}


def says_something(operation: Operation) -> bool:
    """Whether the operation constrains a register, or may change it."""
    if operation.kind not in KINDS or operation.outcome is Outcome.FAIL:
        return False
    if operation.kind == Kind.READ:
        return operation.outcome is Outcome.OK and (_has(operation.result) or _has(operation.version))
    if operation.outcome is Outcome.CONFLICT:
        return operation.kind == Kind.CAS or (operation.kind in (Kind.PUT, Kind.DELETE) and saw(operation))
    return True


def is_optional(operation: Operation) -> bool:
    """Whether it takes effect at some time after its invocation, or never."""
    return operation.kind in WEAK or operation.is_open


def _observes(operation: Operation) -> bool:
    """Whether it changes nothing, and only tells what it met."""
    return operation.kind == Kind.READ or operation.outcome is Outcome.CONFLICT


def saw(operation: Operation) -> bool:
    """Whether it tells anything of what it met."""
    return operation.result is not UNSET or operation.version is not UNSET


def _has(told: Any) -> bool:
    return told is not UNSET


def _claim_of(operation: Operation) -> _Claim | None:
    if operation.kind == Kind.READ:
        return _Claim(*_seen(operation))
    if operation.outcome is Outcome.CONFLICT:
        value, version = _seen(operation)
        expected = operation.expected if operation.expected is UNSET else _token(operation.expected)
        return _Claim(value, version, expected, operation.expected_version)
    if operation.kind != Kind.CAS:
        return None
    if operation.expected_version is not UNSET:
        if operation.expected_version is None:
            return _Claim(_token(None))
        return _Claim(version=operation.expected_version)
    return _Claim(_token(None if operation.expected is UNSET else operation.expected))


def _seen(operation: Operation) -> tuple[Any, Any]:
    """(value, version) that was told; an absent key has neither."""
    value = operation.result if operation.result is UNSET else _token(operation.result)
    if operation.result is None or (operation.result is UNSET and operation.version is None):
        return _token(None), UNSET
    return value, operation.version


def _values_of_versions(operations: Iterable[Operation]) -> dict[Any, State]:
    return {
        operation.version: _token(operation.result)
        for operation in operations
        if operation.kind == Kind.READ and _has(operation.version) and _has(operation.result)
    }


def _token(value: Any) -> State:
    """The value as something that can be compared: 1, true and "1" differ."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _text_step(operation: Operation) -> Step:
    """Where texts are appended to, a state is the text. Versions are not looked at."""
    completed = None if is_optional(operation) else operation.completed
    if operation.kind == Kind.READ or operation.outcome is Outcome.CONFLICT:
        return Step(operation.invoked, completed, frozenset((_text(operation.result),)))
    if operation.kind == Kind.APPEND:
        return Step(operation.invoked, completed, appends=_text(operation.argument))
    value = None if operation.kind in (Kind.DELETE, Kind.WEAK_DELETE) else operation.argument
    has_expected = operation.kind == Kind.CAS and operation.expected_version is UNSET
    expected = None if operation.expected is UNSET else operation.expected
    accepts = frozenset((_text(expected),)) if has_expected else None
    return Step(operation.invoked, completed, accepts, _text(value))


def _text(value: Any) -> str:
    return "" if value is None else str(value)
