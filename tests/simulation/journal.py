"""What clients asked and were told, and what can be said of it in the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

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

    def by_key(self) -> dict[str, list[Operation]]:
        """The operations of each key, in the order of their beginning."""
        keys: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations:
            keys[operation.key].append(operation)
        return dict(keys)


def is_write(operation: Operation) -> bool:
    """Whether it writes."""
    return operation.kind not in ("read", "weak-read")


def strong_history(operations: Iterable[Operation]) -> list[Operation]:
    """What must be linearizable: strong operations, and weak writes as blind ones that happen some time, or never.

    Of writes that may be left out, those are whose value nobody saw: they explain nothing. Where such a value could
    expire it explains as much as a deletion does.
    """
    kept = [one for one in operations if one.kind != "weak-read" and one.outcome != "fail"]
    expiring = {one.expected for one in kept if one.kind == "expiry"}
    seen = {one.seen for one in kept} | {one.expected for one in kept if one.kind == "cas"}
    there = seen | {one.value for one in kept if is_write(one) and not is_optional(one)}
    history: list[Operation] = []
    for one in kept:
        if one.kind == "expiry":
            if one.expected in there:
                history.append(one)
        elif one.outcome == "conflict" or not is_optional(one) or one.value is None or one.value in seen:
            history.append(one)
        elif one.value in expiring:
            history.append(replace(one, value=None))
    return history


def is_optional(one: Operation) -> bool:
    """Whether it may never have taken effect, as far as strong readers are concerned."""
    if one.kind == "expiry":
        return True
    return is_write(one) and one.outcome != "conflict" and (one.kind.startswith("weak") or one.outcome == "unknown")
