"""Differences: what two replicas' digests and rows say, and what is to be done about it. Pure.

A key differs where its accepted ballots differ, and the higher ballot is the newer record, whoever holds it: that is
what the acceptor will say of it, too. There is one exception. Where a tombstone stands on one side and nothing on the
other, and a floor covers it, it was deleted for good on the one side and is still to be on the other. (Not where it has
fences: no floor ever purges those.)

It also differs where one ballot bears other fences on one side than on the other. Neither is newer then: both lack
something, and both are to have the fences joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cluster.repair.hash_trees import LEAVES, digest
from storage.ballot import NONE
from storage.engine import Row

RUN_LEAVES = 16
"""Leaves that are compared with one message at most: with 64 partitions of a million keys 1,000 entries."""
GAP_LEAVES = 3
"""Leaves that are equal and compared all the same, where that saves a message."""


class Difference(NamedTuple):
    """A key whose record is not the same here and there; None where there is no record."""

    key: bytes
    here: Row | None
    there: Row | None

    @property
    def is_newer_here(self) -> bool:
        """Whether the other side is the one that lacks something."""
        return ballot_of(self.here) > ballot_of(self.there)

    @property
    def is_of_fences(self) -> bool:
        """Whether it is the same write on both sides, and only its fences are not."""
        return self.here is not None and self.there is not None and self.here.ballot == self.there.ballot


def ballot_of(row: Row | None) -> int:
    """The ballot of its record, NONE where there is none."""
    return row.ballot if row is not None else NONE


def digests_of(rows: Iterable[Row]) -> dict[int, Row]:
    """Digest -> row. A promise alone is no entry."""
    return {digest(row.key, row.ballot, row.fences): row for row in rows if row.ballot != NONE}


def differences(own: Mapping[int, Row], missing: Iterable[int], theirs: Iterable[Row]) -> list[Difference]:
    """What differs, given the digests that the other side lacks, and its rows that this side did not name."""
    here = {row.key: row for row in (own.get(number) for number in missing) if row is not None}
    there = {row.key: row for row in theirs if row.ballot != NONE}
    return [Difference(key, here.get(key), there.get(key)) for key in sorted(here.keys() | there.keys())]


def is_covered(difference: Difference, floor: int, now_ms: int) -> bool:
    """Whether the key is gone for good on one side, and only not yet on the other.

    floor: the higher of both sides'. Sent across it would be a deletion risen from the dead, to be purged once more.
    """
    row = difference.here or difference.there
    if row is None or (difference.here is not None and difference.there is not None) or row.ballot > floor:
        return False
    if row.fences:
        return False
    return row.tombstone or 0 < row.expires_at_ms <= now_ms


def runs(leaves: Iterable[int]) -> list[tuple[int, int]]:
    """Leaves that differ, put together to be compared with few messages: (first leaf, how many), within a partition."""
    found: list[tuple[int, int]] = []
    for leaf in sorted(leaves):
        if found:
            first, count = found[-1]
            is_near = leaf - (first + count) <= GAP_LEAVES and leaf - first < RUN_LEAVES
            if is_near and leaf // LEAVES == first // LEAVES:
                found[-1] = (first, leaf - first + 1)
                continue
        found.append((leaf, 1))
    return found
