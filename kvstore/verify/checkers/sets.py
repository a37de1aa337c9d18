"""Is a set's every acknowledged element still there, and nothing that nobody added?

Jepsen's set-full. An element is *known* from the moment its add was acknowledged, or a read that shows it was: from
then on every read that is invoked later shows it, where the set is strong. Of a weak or eventual set that holds for
the last read alone, which comes after the faults: elements may arrive late, but must arrive.

* lost: known, and absent from the last read that should show it: a violation.
* stale: known, absent from a later read, there again after that: a violation of a strong set.
* recovered: the outcome of its add was unknown, and it is there. never read: no read came after its add. Both are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import UNSET

from kvstore.verify.history import History, Kind, Operation, Outcome
from kvstore.verify.verdict import Finding, Judgement, Verdict

NAME: Final = "set"
STRONG: Final = "strong"


def check(history: History) -> Judgement:
    """Judges every set of the history."""
    sets: dict[str, list[Operation]] = {}
    for operation in history.of(Kind.ADD, Kind.READ_ALL):
        sets.setdefault(operation.key, []).append(operation)
    findings: list[Finding] = []
    notes: list[str] = []
    undecided: list[str] = []
    for key, operations in sets.items():
        one = _Set(key, operations)
        findings += one.findings()
        notes += one.notes()
        if not one.reads:
            undecided.append(key)
    verdict = Verdict.VIOLATED if findings else Verdict.UNDECIDED if undecided or not sets else Verdict.VALID
    judged = sum(map(len, sets.values()))
    return Judgement(NAME, verdict, tuple(findings), tuple(undecided), tuple(notes), judged, len(sets))


class _Set:
    """One set's adds and reads."""

    def __init__(self, key: str, operations: Sequence[Operation]) -> None:
        self.key = key
        self.adds = [op for op in operations if op.kind == Kind.ADD and op.outcome not in _NOT_DONE]
        self.reads = [
            op
            for op in operations
            if op.kind == Kind.READ_ALL and op.outcome is Outcome.OK and isinstance(op.result, list)
        ]
        self.reads.sort(key=lambda read: read.invoked)
        self._shown = [set(map(_plain, read.result)) for read in self.reads]
        self._added: dict[Any, Operation] = {}
        for add in self.adds:
            self._added.setdefault(_plain(add.argument), add)
        self._is_strong = all(op.more.get("level", STRONG) == STRONG for op in operations)

    def findings(self) -> Iterable[Finding]:
        yield from self._strangers()
        lost: list[tuple[Operation, Operation]] = []
        for element, add in self._added.items():
            missing = self._missing(element, add)
            if missing is not None and self._is_lost(element, missing):
                lost.append((add, missing))
            elif missing is not None and self._is_strong:
                yield self._stale(element, add, missing)
        if lost:
            add, read = lost[0]
            elements = [add.argument for add, _ in lost]
            what = f"{_named(elements)} of set {self.key!r} {'was' if len(lost) == 1 else 'were'} lost: acknowledged"
            what += f" or read before, and absent from {'the' if len(lost) == 1 else 'a'} read that came later."
            yield Finding(NAME, self.key, what, _in_order([add, *self._showing(add), read]), details={"lost": elements})

    def notes(self) -> Iterable[str]:
        if not self.reads:
            yield f"set {self.key!r} was never read"
            return
        recovered = [
            add.argument for add in self.adds if add.is_open and any(_plain(add.argument) in s for s in self._shown)
        ]
        if recovered:
            yield f"set {self.key!r}: {_named(recovered)} recovered: the outcome of the add was unknown"
        last = self.reads[-1].invoked
        never = [add.argument for add in self.adds if add.completed is not None and add.completed > last]
        if never:
            yield f"set {self.key!r}: {_named(never)} never read: added after the last read began"

    def _known(self, element: Any, add: Operation) -> int | None:
        moments = [] if add.completed is None else [add.completed]
        moments += [
            read.completed or 0 for read, shown in zip(self.reads, self._shown, strict=True) if element in shown
        ]
        return min(moments, default=None)

    def _missing(self, element: Any, add: Operation) -> Operation | None:
        """The first read that should show the element and does not."""
        known = self._known(element, add)
        if known is None:
            return None
        pairs = list(zip(self.reads, self._shown, strict=True))
        bound = pairs if self._is_strong else pairs[-1:]
        return next((read for read, shown in bound if read.invoked > known and element not in shown), None)

    def _is_lost(self, element: Any, missing: Operation) -> bool:
        """Whether no read that began after the one without it shows it."""
        after = missing.completed or 0
        pairs = zip(self.reads, self._shown, strict=True)
        return not any(element in shown for read, shown in pairs if read.invoked > after)

    def _stale(self, element: Any, add: Operation, missing: Operation) -> Finding:
        what = f"Element {element!r} of set {self.key!r} was known, then absent from a read, then there again."
        return Finding(NAME, self.key, what, _in_order([add, *self._showing(add), missing]), details={"stale": element})

    def _showing(self, add: Operation) -> list[Operation]:
        """Where the add was not acknowledged: the read that made it known."""
        if add.completed is not None:
            return []
        element = _plain(add.argument)
        return [read for read, shown in zip(self.reads, self._shown, strict=True) if element in shown][:1]

    def _strangers(self) -> Iterable[Finding]:
        for read, shown in zip(self.reads, self._shown, strict=True):
            early = [
                element
                for element in sorted(shown, key=repr)
                if element not in self._added or self._added[element].invoked > (read.completed or 0)
            ]
            if early:
                what = f"A read of set {self.key!r} shows {_named(early)}, which nobody had added."
                yield Finding(NAME, self.key, what, (read,), details={"strangers": early})
            if len(read.result) > len(shown):
                what = f"A read of set {self.key!r} shows an element more than once."
                yield Finding(NAME, self.key, what, (read,))


_NOT_DONE: Final = (Outcome.FAIL, Outcome.CONFLICT)
SHOWN_MAX: Final = 5
"""Elements that a sentence names; all are in the details."""


def _plain(element: Any) -> Any:
    return element if isinstance(element, str | int) or element in (None, UNSET) else repr(element)


def _named(elements: Sequence[Any]) -> str:
    first = ", ".join(map(repr, elements[:SHOWN_MAX]))
    more = f" and {len(elements) - SHOWN_MAX} more" if len(elements) > SHOWN_MAX else ""
    return f"element{'s' if len(elements) > 1 else ''} {first}{more}"


def _in_order(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    return tuple(sorted(operations, key=lambda operation: operation.invoked))
