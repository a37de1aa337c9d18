"""The dumb twin of the search: tries every order of every subset, with no memory and no cleverness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec import UNSET

from kvstore.verify.history import Kind, Operation, Outcome

FOR_EVER = 10**9
DELETES = (Kind.DELETE, Kind.WEAK_DELETE)
WEAK = (Kind.WEAK_PUT, Kind.WEAK_DELETE)

Held = tuple[Any, Any]
"""(value, version): version UNSET where nobody was told."""


class Known(NamedTuple):
    """What versions are known from all operations together."""

    versions: set[Any]
    """Those that writes were told."""
    values: dict[Any, Any]
    """What a read showed under a version: no other value has it."""


def has_order(operations: Sequence[Operation], initial: Any = None) -> bool:
    """Whether some order of the operations on one key explains every answer."""
    done = [op for op in operations if op.outcome is not Outcome.FAIL]
    known = Known(
        {op.version for op in done if op.outcome is not Outcome.CONFLICT and op.kind != Kind.READ} - {UNSET},
        {op.version: op.result for op in done if op.kind == Kind.READ and UNSET not in (op.version, op.result)},
    )
    return _search(done, (initial, UNSET), known)


def _search(left: list[Operation], held: Held, known: Known) -> bool:
    if all(_is_optional(op) for op in left):
        return True
    first_end = min(_end(op) for op in left)
    for index, op in enumerate(left):
        if op.invoked > first_end:
            continue
        others = left[:index] + left[index + 1 :]
        after = _apply(op, held, known)
        if after is not None and _search(others, after, known):
            return True
        if _is_optional(op) and _search(others, held, known):  # it never happens
            return True
    return False


def _is_optional(op: Operation) -> bool:
    return op.kind in WEAK or op.completed is None


def _end(op: Operation) -> int:
    return FOR_EVER if _is_optional(op) else (op.completed or 0)


def _apply(op: Operation, held: Held, known: Known) -> Held | None:
    """What is there afterwards; None if the answer can't be explained here."""
    if op.kind == Kind.READ:
        return held if op.completed is None or _is(held, op.result, op.version, known) else None
    if op.outcome is Outcome.CONFLICT:
        return held if _is(held, op.result, op.version, known) and not _holds(op, held, known) else None
    if op.kind == Kind.CAS and not _holds(op, held, known):
        return None
    if op.kind == Kind.APPEND:
        return f"{held[0] or ''}{op.argument}", UNSET
    return (None, UNSET) if op.kind in DELETES or op.argument is None else (op.argument, op.version)


def _is(held: Held, value: Any, version: Any, known: Known) -> bool:
    if value is not UNSET and held[0] != value:
        return False
    if version is UNSET:
        return True
    if held[0] is None or version is None:
        return held[0] is None and version is None
    if held[1] is not UNSET:
        return bool(held[1] == version)
    return version not in known.versions and known.values.get(version, held[0]) == held[0]


def _holds(op: Operation, held: Held, known: Known) -> bool:
    if op.expected_version is not UNSET:
        if op.outcome is Outcome.CONFLICT and held[1] is UNSET and held[0] is not None:
            return False  # its version may be another one
        return _is(held, UNSET, op.expected_version, known)
    return bool(held[0] == op.expected)
