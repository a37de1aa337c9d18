"""Findings: what a recovering replica makes of what the others list. Pure.

The witnesses are the replicas that promised the round's ballot for the whole partition, so that nothing older is
accepted there any more. Where they all hold a key under one ballot, with the same fences, that record is settled. Where
they don't, it takes a round of the key's own. (A fence that only one of them was told may have been on a majority all
the same, with this replica as the other half.) Where none holds it, a floor says that it is deleted for good, or it was
never settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from storage.ballot import NONE
from storage.engine import Row
from storage.keyspace import hash_of

Place = tuple[int, bytes]
"""Where a row stands in its partition: (place of the key, key)."""


class Copy(NamedTuple):
    """What one replica holds of a key."""

    ballot: int
    fences: int = 0
    """What stands for them; see Row."""


_ABSENT = Copy(NONE)


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of one replica's rows, in order."""

    rows: Sequence[Row]
    complete: bool


@dataclass(slots=True)
class Findings:
    """What has to be done about a stretch of keys."""

    to_fetch: dict[bytes, int] = field(default_factory=dict)
    """Settled, and newer than here, or with other fences: key -> the ballot that all witnesses hold it under."""
    to_settle: list[bytes] = field(default_factory=list)
    """The witnesses differ."""
    covered: list[bytes] = field(default_factory=list)
    """Only here, and a floor covers it: deleted for good."""
    kept: list[bytes] = field(default_factory=list)
    """Only here, and true: no majority holds it, but it was accepted."""


def end_of(pages: Sequence[Listed]) -> Place | None:
    """Up to where all pages tell everything; None when nobody has more."""
    return min((place_of(page.rows[-1]) for page in pages if not page.complete and page.rows), default=None)


def compare(witnesses: Sequence[Mapping[bytes, Copy]], own: Mapping[bytes, Copy], floor: int) -> Findings:
    """What to do about the keys of one stretch.

    witnesses: for each of them, what it holds by key. own: the same of this replica, from before it was barred. floor:
    the highest that any witness told.
    """
    findings = Findings()
    for key in sorted({key for copies in (*witnesses, own) for key in copies}):
        seen = {copies.get(key, _ABSENT) for copies in witnesses}
        mine = own.get(key, _ABSENT)
        if len(seen) > 1:
            findings.to_settle.append(key)
        elif (copy := seen.pop()).ballot == NONE:
            (findings.covered if mine.ballot <= floor else findings.kept).append(key)
        elif copy.ballot >= mine.ballot and copy != mine:
            findings.to_fetch[key] = copy.ballot
    return findings


def copies_of(rows: Sequence[Row], end: Place | None) -> dict[bytes, Copy]:
    """What the rows with a record say, by key, up to that place."""
    return {
        row.key: Copy(row.ballot, row.fences)
        for row in rows
        if row.ballot != NONE and (end is None or place_of(row) <= end)
    }


def place_of(row: Row) -> Place:
    """Where the row stands."""
    return hash_of(row.key), row.key
