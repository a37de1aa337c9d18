"""What clients asked and were told, and what can be said of it in the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import UNSET

from kvstore.verify import history as verify
from kvstore.verify.history import History

STEP_S = 1e-9
"""Two events at one moment of the simulation still have an order."""


class Violation(AssertionError):
    """Something was seen that must not be."""


@dataclass
class Operation:
    """One operation on one key."""

    process: str
    kind: str
    """read, put, delete, cas, weak-put, weak-delete, weak-read, expiry (nobody's: the value may expire)."""
    key: str
    value: str | None
    expected: str | None
    start: float
    end: float | None = None
    outcome: str = "unknown"
    """ok; conflict, with what was seen; fail, surely not applied; unknown, perhaps for ever."""
    seen: str | None = None
    version: int = 0
    replicas: tuple[str, ...] = ()
    fence: int = 0


@dataclass
class Journal:
    """All operations of a run."""

    now_s: float = 0.0
    operations: list[Operation] = field(default_factory=list)
    values: dict[tuple[str, int], str] = field(default_factory=dict)
    """(key, origin) -> the value written under it, from what was committed anywhere."""
    writes: dict[tuple[str, int], Operation] = field(default_factory=dict)
    """(key, version) -> the one write that was told it."""

    def moment(self, now_s: float) -> float:
        """Now, and later than every moment before."""
        self.now_s = max(now_s, self.now_s + STEP_S)
        return self.now_s

    def begin(
        self, now_s: float, process: str, kind: str, key: str, value: str | None = None, expected: str | None = None
    ) -> Operation:
        """An operation begins."""
        operation = Operation(process, kind, key, value, expected, self.moment(now_s))
        self.operations.append(operation)
        return operation

    def end(self, now_s: float, operation: Operation, outcome: str, seen: str | None = None) -> None:
        """It ends."""
        operation.end, operation.outcome, operation.seen = self.moment(now_s), outcome, seen

    def told(self, operation: Operation, version: int) -> None:
        """Its client was told the version that the write has. Raises Violation if another's was told it."""
        operation.version = version
        other = self.writes.setdefault((operation.key, version), operation)
        if other is not operation:
            raise Violation(
                f"two writes of {operation.key} have the version {version}: {other.kind} {other.value} of "
                f"{other.process}, and {operation.kind} {operation.value} of {operation.process}"
            )

    def by_key(self) -> dict[str, list[Operation]]:
        """The operations of each key, in the order of their beginning."""
        keys: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations:
            keys[operation.key].append(operation)
        return dict(keys)


def is_write(operation: Operation) -> bool:
    """Whether it writes."""
    return operation.kind not in ("read", "weak-read")


def is_optional(one: Operation) -> bool:
    """Whether it may never have taken effect, as far as strong readers are concerned."""
    return is_write(one) and one.outcome != "conflict" and (one.kind.startswith("weak") or one.outcome == "unknown")


def history_of(operations: Iterable[Operation]) -> History:
    """The same for the checkers of kvstore/verify. That a value may expire is a compare-and-set of unknown outcome:
    it deletes this value and no other, at some moment or never."""
    operations = list(operations)
    moments = sorted({moment for one in operations for moment in (one.start, one.end) if moment is not None})
    order = {moment: number for number, moment in enumerate(moments)}
    return History(_told(one, order) for one in operations)


def _told(one: Operation, order: dict[float, int]) -> verify.Operation:
    is_open = one.end is None or one.outcome == "unknown"
    kind = "cas" if one.kind == "expiry" else one.kind
    return verify.Operation(
        process=one.process,
        kind=kind,
        key=one.key,
        argument=one.value if is_write(one) else None,
        expected=one.expected if kind == "cas" else UNSET,
        start=one.start,
        end=None if is_open else one.end,
        outcome=verify.Outcome(one.outcome),
        result=one.seen if one.outcome == "conflict" or (one.outcome == "ok" and not is_write(one)) else UNSET,
        invoked=order[one.start],
        completed=None if is_open or one.end is None else order[one.end],
        more={"fence": one.fence} if one.fence else {},
    )
