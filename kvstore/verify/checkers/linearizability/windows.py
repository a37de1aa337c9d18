"""A stretch out of a long history that has no order by itself, whatever the key held before it.

Where a search has many ways to use changes that may or may not have happened, an answer that is wrong at the end makes
it go through all of them. But most violations are local: a stale read contradicts the few operations around it. So
short stretches are tried first, each as if the key could have held anything before.

That is sound: if all operations have an order, so do those that are left of them here.

* Cut off behind: what completed later becomes optional, for it may have taken effect by then; what was invoked later
  did not.
* Cut off in front: what completed before is in what the key held. What was under way may have taken effect before, so
  writes become optional and answers count no more.
* Of optional changes that do the same thing so many are kept as there are definite operations: between two of those
  one way from state to state, which meets none twice, is enough.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from kvstore.verify.history import Kind, Operation, Outcome

SIZES: Final = (12, 48)
"""Completions in a stretch; the next begins half of that later."""
WORK_MAX: Final = 3_000_000
"""Operations looked at, for all stretches of one size."""


def until(operations: Iterable[Operation], moment: int) -> list[Operation]:
    """What can be said at that moment."""
    left = []
    for operation in operations:
        if operation.invoked > moment:
            continue
        is_told = operation.completed is None or operation.completed <= moment
        kept = operation if is_told else opened(operation)
        if kept is not None:
            left.append(kept)
    return left


def since(operations: Iterable[Operation], moment: int) -> list[Operation]:
    """What is left where one looks from that moment on."""
    left = []
    for operation in operations:
        if operation.completed is not None and operation.completed < moment:
            continue
        kept = operation if operation.invoked >= moment else opened(operation)
        if kept is not None:
            left.append(kept)
    return left


def opened(operation: Operation) -> Operation | None:
    """What it is where its answer does not count: an optional change, or nothing."""
    if operation.kind == Kind.READ or operation.outcome in (Outcome.CONFLICT, Outcome.FAIL):
        return None
    if operation.is_open:
        return operation
    return msgspec.structs.replace(operation, completed=None, end=None, outcome=Outcome.UNKNOWN)


def stretches(operations: Sequence[Operation], optional: Sequence[bool]) -> Iterator[tuple[int, list[Operation]]]:
    """(its last completion, what is left of the operations) for each stretch, short ones first.

    optional: for each operation whether it is an optional change in all of the history.
    """
    definite = [op for op, is_optional in zip(operations, optional, strict=True) if not is_optional]
    free = [op for op, is_optional in zip(operations, optional, strict=True) if is_optional]
    completions = sorted(op.completed for op in definite if op.completed is not None)
    for size in SIZES:
        count = 2 * len(completions) // size + 1
        if size >= len(completions) or count * (size + len(free)) > WORK_MAX:
            continue
        yield from _of_size(definite, free, completions, size)


def _of_size(
    definite: Sequence[Operation], free: Sequence[Operation], completions: Sequence[int], size: int
) -> Iterator[tuple[int, list[Operation]]]:
    under_way: list[Operation] = []
    kept: dict[Hashable, list[Operation]] = {}
    begun = freed = 0
    for start in range(0, len(completions), size // 2):
        first, last = completions[start], completions[min(start + size, len(completions)) - 1]
        while begun < len(definite) and definite[begun].invoked < last:
            under_way.append(definite[begun])
            begun += 1
        while freed < len(free) and free[freed].invoked < last:
            same = kept.setdefault(_does(free[freed]), [])
            if len(same) < 2 * size:
                same.append(free[freed])
            freed += 1
        under_way = [op for op in under_way if op.completed is None or op.completed >= first]
        optional = [op for same in kept.values() for op in same]
        yield last, sorted([*until(since(under_way, first), last), *optional], key=lambda op: op.invoked)


def _does(operation: Operation) -> Hashable:
    return (
        operation.kind,
        repr(operation.argument),
        repr(operation.expected),
        operation.expected_version,
        operation.version,
    )
