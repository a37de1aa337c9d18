"""Does a counter stand where its increments can have brought it?

A read shows at least what was acknowledged before it was invoked, and at most what was tried before it was answered:
an unknown increment may be in it or not. Where counters only grow, a later read shows no less than an earlier one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from kvstore.verify.history import History, Kind, Operation, Outcome
from kvstore.verify.verdict import Finding, Judgement, Verdict

NAME: Final = "counter"
SHOWN_MAX: Final = 12
"""Increments that a finding shows; its sentence has the sums of all."""


def check(history: History) -> Judgement:
    """Judges every counter of the history."""
    counters: dict[str, list[Operation]] = {}
    for operation in history.of(Kind.INCREMENT, Kind.COUNT):
        counters.setdefault(operation.key, []).append(operation)
    findings: list[Finding] = []
    unread: list[str] = []
    for key, operations in counters.items():
        increments = [op for op in operations if op.kind == Kind.INCREMENT and op.outcome not in _NOT_DONE]
        reads = [op for op in operations if op.kind == Kind.COUNT and op.outcome is Outcome.OK]
        findings += _out_of_bounds(key, increments, reads)
        if all(op.argument >= 0 for op in increments):
            findings += _going_back(key, reads)
        if not reads:
            unread.append(key)
    verdict = Verdict.VIOLATED if findings else Verdict.UNDECIDED if unread or not counters else Verdict.VALID
    notes = tuple(f"counter {key!r} was never read" for key in unread)
    judged = sum(map(len, counters.values()))
    return Judgement(NAME, verdict, tuple(findings), tuple(unread), notes, judged, len(counters))


_NOT_DONE: Final = (Outcome.FAIL, Outcome.CONFLICT)


class _Sums:
    """How much was added by a moment."""

    def __init__(self, moments: Iterable[tuple[int, int]]) -> None:
        """moments: (order, amount)."""
        ordered = sorted(moments)
        self._orders = [order for order, _ in ordered]
        self._sums = [0, *accumulate(amount for _, amount in ordered)]

    def before(self, order: int) -> int:
        return self._sums[bisect_left(self._orders, order)]


def _out_of_bounds(key: str, increments: Sequence[Operation], reads: Sequence[Operation]) -> Iterable[Finding]:
    done = [(op.completed, op.argument) for op in increments if op.completed is not None]
    done_up = _Sums((order, max(amount, 0)) for order, amount in done)
    done_down = _Sums((order, min(amount, 0)) for order, amount in done)
    tried_up = _Sums((op.invoked, max(op.argument, 0)) for op in increments)
    tried_down = _Sums((op.invoked, min(op.argument, 0)) for op in increments)
    for read in reads:
        ended = read.completed or 0
        low = done_up.before(read.invoked) + tried_down.before(ended)
        high = tried_up.before(ended) + done_down.before(read.invoked)
        if low <= read.result <= high:
            continue
        side = "too low: increments were lost" if read.result < low else "too high: some were done twice, or by nobody"
        what = f"Counter {key!r} was read as {read.result}, which is {side}. "
        what += f"Acknowledged before the read began: {low}; tried before it was answered: {high}."
        shown = [op for op in increments if op.invoked < ended][-SHOWN_MAX:]
        yield Finding(
            NAME,
            key,
            what,
            (*shown, read),
            is_minimal=False,
            details={"read": read.result, "low": low, "high": high},
        )


def _going_back(key: str, reads: Sequence[Operation]) -> Iterable[Finding]:
    """Reads that show less than one that was answered before they began."""
    answered = sorted(reads, key=lambda read: read.completed or 0)
    highest: Operation | None = None
    position = 0
    for read in sorted(reads, key=lambda read: read.invoked):
        while position < len(answered) and (answered[position].completed or 0) < read.invoked:
            if highest is None or answered[position].result > highest.result:
                highest = answered[position]
            position += 1
        if highest is not None and read.result < highest.result:
            what = f"Counter {key!r} went back: {highest.result} was read, and {read.result} later."
            yield Finding(NAME, key, what, (highest, read))
