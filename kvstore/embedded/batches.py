"""A batch within one transaction: one result for each operation, in order; what is refused leaves the others alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.levels import Level
from kvstore.client.values import Delete, Get, Operation, Put, Results, Value, Written, fence_of
from kvstore.embedded import arguments, entries
from kvstore.embedded.entries import Change, Look
from kvstore.embedded.told import storage_error
from kvstore.errors import KvstoreError, TooLarge
from storage.shared_file.errors import EntryDamaged
from storage.shared_file.transaction import Reading, Writing

Step = Change | Look | KvstoreError
"""An operation that was checked, or why it means nothing."""


def steps_of(operations: Sequence[Operation], level: Level) -> list[Step]:
    """The operations, each checked for itself. Raises TooLarge where there is too much of them."""
    if len(operations) > arguments.OPERATIONS_MAX:
        limit = arguments.OPERATIONS_MAX
        detail = f"A batch has {limit:,} operations at most, not {len(operations):,}; nothing was done."
        raise TooLarge(detail, limit=limit)
    size = sum(len(one.value) for one in operations if isinstance(one, Put))
    if size > arguments.BATCH_BYTES_MAX:
        limit = arguments.BATCH_BYTES_MAX
        raise TooLarge(f"A batch has {limit:,} bytes of values at most, not {size:,}; nothing was done.", limit=limit)
    return [_step_of(operation, level) for operation in operations]


def _step_of(operation: Operation, level: Level) -> Step:
    try:
        key = arguments.key_of(operation.key)
        if isinstance(operation, Get):
            return Look(key, level, arguments.fence_of(fence_of(operation.fence), level, is_read=True))
        create = isinstance(operation, Put) and operation.create
        condition = arguments.condition_of(operation.if_match, create, level)
        fence = arguments.fence_of(fence_of(operation.fence), level)
        if isinstance(operation, Delete):
            return Change(key, None, "", level, condition, fence)
        value = operation.value.encode() if isinstance(operation.value, str) else operation.value
        return Change(
            key,
            arguments.value_of(value),
            arguments.content_type_of(operation.content_type),
            level,
            condition,
            fence,
            arguments.ttl_ms_of(operation.ttl),
        )
    except KvstoreError as error:
        return error


def may_change(step: Step) -> bool:
    """Whether the step is more than a read: a change, or one under a fence that is to be remembered."""
    return isinstance(step, Change) or (isinstance(step, Look) and step.fence is not None)


def read(file: Reading, steps: Sequence[Step], now_ms: int) -> Results:
    """The results of steps of which none changes anything. Raises Expired."""
    return _results(steps, lambda look: entries.read(file, look, now_ms), _refuse)


def carry_out(file: Writing, steps: Sequence[Step], now_ms: int) -> Results:
    """The results of all steps, one after another."""
    entries.sweep(file, now_ms)
    return _results(
        steps,
        lambda look: entries.settled(file, look, now_ms),
        lambda change: entries.write(file, change, now_ms),
    )


def _refuse(change: Change) -> Written | KvstoreError:
    raise AssertionError(f"a change of {change.key!r} among reads")


def _results(
    steps: Sequence[Step],
    read: Callable[[Look], Value | KvstoreError | None],
    write: Callable[[Change], Written | KvstoreError],
) -> Results:
    results: Results = []
    left = arguments.BATCH_BYTES_MAX
    for step in steps:
        if isinstance(step, KvstoreError):
            results.append(step)
            continue
        try:
            result = read(step) if isinstance(step, Look) else write(step)
            if isinstance(result, Value):
                left -= len(result.value)
                result = result if left >= 0 else _too_large()
            results.append(result)
        except EntryDamaged as damage:
            results.append(storage_error(damage, isinstance(step, Look)))
    return results


def _too_large() -> KvstoreError:
    limit = arguments.BATCH_BYTES_MAX
    return TooLarge(f"The batch's values are larger than {limit:,} bytes together; get this one alone.", limit=limit)
