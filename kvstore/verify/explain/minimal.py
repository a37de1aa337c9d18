"""Of a key whose operations have no order, as few of them as have none by themselves.

Only what is sound is left out: if all operations had an order, those that are left would have one.

* *A read or a conflict.* It changes nothing; without it fewer answers must be explained.
* *A write whose state nobody accepts.* The next change after it is blind, or there is none: without it nobody would
  notice. So with the last reader of a write the write can go.
* *Everything after* the completion that the search got stuck at. What was under way then becomes open.
* *Everything before* some moment, if the key may have held anything at that moment. What was under way then may have
  been done before, so writes become optional, and answers count no more. Used where the rest is still long.

What comes out is minimal: none of it could be left out in these ways, and not always the smallest of all such sets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec import UNSET

from kvstore.verify.checkers.linearizability.steps import State
from kvstore.verify.checkers.linearizability.translation import Translation, says_something
from kvstore.verify.checkers.linearizability.windows import since, until
from kvstore.verify.checkers.registers import NAME
from kvstore.verify.explain.text import told
from kvstore.verify.history import Kind, Operation, Outcome
from kvstore.verify.verdict import Finding

TRIAL_STEPS: Final = 5_000
"""A trial that takes longer counts as "has an order": then the operations stay."""
ALL_STEPS: Final = 500_000
"""For all trials together: some ten seconds at most."""
FEW: Final = 4
"""So few need no cutting off of what came before."""
SUSPECTS_MAX: Final = 1_000
LONG: Final = 250
"""So many are first cut off in front."""


@dataclass
class _Trials:
    """Asks whether operations have an order, within a budget for all such questions."""

    initial: Any
    left: int = ALL_STEPS
    is_cut_short: bool = False

    def have_none(self, operations: Sequence[Operation], any_beginning: bool) -> bool:
        """Whether it is sure that there is no order."""
        return self.have_one(operations, any_beginning) is False

    def have_one(self, operations: Sequence[Operation], any_beginning: bool) -> bool | None:
        """Whether there is an order; None where that took too long."""
        if self.left <= 0:
            self.is_cut_short = True
            return None
        search = Translation(operations, self.initial, any_beginning=any_beginning).search()
        answer = search.run(min(TRIAL_STEPS, self.left))
        self.left -= search.steps + len(operations)
        return answer


def explain_register(operations: Sequence[Operation], initial: Any, stuck_at: int) -> Finding:
    """What to tell of a key's operations, whose completion at `stuck_at` nothing explains."""
    trials = _Trials(initial)
    up_to = until(operations, stuck_at)
    if trials.have_one(up_to, any_beginning=False):  # a later write told a version that was read before
        up_to = list(operations)
    shown = _fewest_of_suspects(up_to, trials)
    any_beginning = False
    if not shown and len(up_to) <= LONG:
        shown = _fewest(up_to, trials, any_beginning=False)
    if not shown or len(shown) > FEW:
        latest = _latest_beginning(up_to, trials)
        if latest is not None:
            fewer = _fewest(latest, trials, any_beginning=True)
            if not shown or len(fewer) < len(shown):
                shown, any_beginning = fewer, True
    shown = shown or up_to
    return _finding(operations, shown, trials, any_beginning)


def _fewest_of_suspects(operations: Sequence[Operation], trials: _Trials) -> list[Operation]:
    """Out of those that are seen to contradict one another without a search, and all that may lead to what they met.

    What else there is can go: it leads to no state that somebody among these accepts. None where these are too many.
    """
    translation = Translation(operations, trials.initial)
    suspects = translation.search().suspects
    leading: dict[State, list[int]] = defaultdict(list)
    for index, step in enumerate(translation.steps):
        if step.target is not None:
            leading[step.target].append(index)
    left = [index for index, step in enumerate(translation.steps) if step.invoked in suspects]
    kept = set(left)
    while left and len(kept) <= SUSPECTS_MAX:
        for state in translation.steps[left.pop()].accepts or ():
            more = [index for index in leading[state] if index not in kept]
            kept.update(more)
            left += more
    core = [translation.operations[index] for index in sorted(kept)]
    if not core or len(core) > SUSPECTS_MAX or not trials.have_none(core, any_beginning=False):
        return []
    return _fewest(core, trials, any_beginning=False)


def _latest_beginning(operations: Sequence[Operation], trials: _Trials) -> list[Operation] | None:
    """The operations from the latest moment on from which there is no order, whatever the key held."""
    moments = sorted(operation.invoked for operation in operations)
    few, many = 0, 4
    best: list[Operation] | None = None
    while best is None:
        left = since(operations, moments[-min(many, len(moments))])
        if trials.have_none(left, any_beginning=True):
            best = left
        elif many >= len(moments) or trials.is_cut_short:
            return None
        else:
            few, many = many, many * 2
    while many - few > 1:
        middle = (few + many) // 2
        left = since(operations, moments[-min(middle, len(moments))])
        if trials.have_none(left, any_beginning=True):
            best, many = left, middle
        else:
            few = middle
    return best


def _fewest(operations: Sequence[Operation], trials: _Trials, any_beginning: bool) -> list[Operation]:
    """Leaves out from the front first, and from the back first: whichever comes to less."""
    forward = _leave_out(operations, trials, any_beginning, latest_first=False)
    backward = _leave_out(operations, trials, any_beginning, latest_first=True)
    return min(forward, backward, key=len)


def _leave_out(
    operations: Sequence[Operation], trials: _Trials, any_beginning: bool, latest_first: bool
) -> list[Operation]:
    """In larger parts first, then one by one, until nothing more can go."""

    def useful(some: Sequence[Operation]) -> list[Operation]:
        return Translation(some, trials.initial, any_beginning=any_beginning).operations

    left = useful(operations)
    part = max(len(left) // 2, 1)
    while True:
        candidates = _can_go(left, trials.initial, any_beginning)
        if latest_first:
            candidates.reverse()
        before = len(left)
        for start in range(0, len(candidates), part):
            going = set(candidates[start : start + part])
            fewer = [operation for operation in left if operation.invoked not in going]
            if trials.have_none(fewer, any_beginning):
                left = useful(fewer)
        if part == 1 and len(left) == before:
            return left
        part = max(part // 2, 1)


def _can_go(operations: Sequence[Operation], initial: Any, any_beginning: bool) -> list[int]:
    """Those that may be left out, each alone or several at once, by their places in the order of invocation."""
    unseen = {op.invoked for op in Translation(operations, initial, any_beginning=any_beginning).unseen}
    return [
        op.invoked
        for op in operations
        if op.kind == Kind.READ or op.outcome is Outcome.CONFLICT or op.invoked in unseen
    ]


def _finding(
    operations: Sequence[Operation], shown: Sequence[Operation], trials: _Trials, any_beginning: bool
) -> Finding:
    original = {operation.invoked: operation for operation in operations}
    as_told = tuple(original[operation.invoked] for operation in sorted(shown, key=lambda op: op.invoked))
    key = operations[0].key
    stranger = _stranger(operations, shown)
    if stranger is not None:
        what = f"{told(stranger)}: nobody had written that."
        as_told, any_beginning = (stranger,), False
    elif len(as_told) == 1:
        what = f"{told(as_told[0])}: that can't be, by itself."
    else:
        what = f"No order of these {len(as_told)} operations explains what they were told"
        what += ", whatever the key held before." if any_beginning else "."
    details = {
        "any_beginning": any_beginning,
        "answer_not_needed": [op.invoked for op in shown if op.is_open and not original[op.invoked].is_open],
    }
    return Finding(NAME, key, what, as_told, is_minimal=not trials.is_cut_short, details=details)


def _stranger(operations: Sequence[Operation], shown: Sequence[Operation]) -> Operation | None:
    """The observer of a value or version that comes from nobody, where it is that simple."""
    observers = [op for op in shown if op.kind == Kind.READ and says_something(op)]
    if len(observers) != 1 or any(op.kind == Kind.APPEND for op in operations):
        return None
    read = observers[0]
    earlier = [op for op in operations if op.invoked < (read.completed or 0) and op.kind != Kind.READ]
    if read.result is UNSET or read.result is None or any(op.argument == read.result for op in earlier):
        return None
    return read
