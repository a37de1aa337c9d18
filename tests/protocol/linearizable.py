"""Is a history of one register linearizable? Wing and Gong's search with Lowe's memory of what was tried.

Herlihy and Wing (1990): each call takes effect at one moment between its start and its end. A call whose outcome is
unknown may take effect at any moment after its start, or never.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NEVER = 10**9
EXPIRES = "~"
"""A value that ends so may expire: be deleted by nobody, at any moment after it was written, and for good."""


@dataclass
class Call:
    """One call of a client and what it was told."""

    kind: str
    value: str | None
    """What it writes; None deletes."""
    expected: str | None
    start: int
    end: int | None = None
    outcome: str = "unknown"
    seen: str | None = None


def _operations(history: Iterable[Call]) -> Iterable[tuple[int, int, str, str | None, str | None, bool]]:
    """(start, end, kind, expected, value, optional) for each call that says something."""
    for call in history:
        if call.outcome == "fail" or (call.kind == "read" and call.outcome != "ok"):
            continue
        if call.kind == "read" or call.outcome == "conflict":
            yield call.start, call.end or NEVER, "read", None, call.seen, False
            continue
        optional = call.outcome != "ok"
        kind = "cas" if call.kind == "cas" else "write"
        yield call.start, NEVER if optional else call.end or NEVER, kind, call.expected, call.value, optional


def is_linearizable(history: Iterable[Call]) -> bool:
    """Whether some order explains every answer."""
    calls = list(_operations(history))
    must = sum(1 << i for i, call in enumerate(calls) if not call[5])
    tried: set[tuple[int, str | None]] = set()

    def search(done: int, current: str | None) -> bool:
        if done & must == must:
            return True
        if (done, current) in tried:
            return False
        tried.add((done, current))
        if current is not None and current.endswith(EXPIRES) and search(done, None):
            return True
        first_end = min(call[1] for i, call in enumerate(calls) if not done >> i & 1)
        for i, (start, _, kind, expected, value, _) in enumerate(calls):
            if done >> i & 1 or start > first_end:
                continue
            if kind == "read":
                if value == current and search(done | 1 << i, current):
                    return True
            elif (kind == "write" or expected == current) and search(done | 1 << i, value):
                return True
        return False

    return search(0, None)
