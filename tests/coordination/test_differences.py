"""What differs between two replicas, and which leaves are looked at for it."""

from __future__ import annotations

import pytest

from cluster.repair.anti_entropy.differences import (
    GAP_LEAVES,
    RUN_LEAVES,
    Difference,
    differences,
    digests_of,
    is_covered,
    runs,
)
from cluster.repair.hash_trees import LEAVES
from storage.engine import Row

FLOOR, NOW_MS = 100, 1_000


def row(key: bytes, ballot: int, *, tombstone: bool = False, expires_at_ms: int = 0) -> Row:
    return Row(key, ballot, ballot, ballot, tombstone, expires_at_ms)


def compared(mine: list[Row], theirs: list[Row]) -> list[Difference]:
    own, other = digests_of(mine), digests_of(theirs)
    return differences(own, own.keys() - other.keys(), [row for number, row in other.items() if number not in own])


def test_only_what_differs_is_found_and_the_higher_ballot_is_newer() -> None:
    same, older, newer = row(b"same", 5), row(b"both", 5), row(b"both", 6)
    only_here, only_there = row(b"here", 1), row(b"there", 1)
    found = compared([same, newer, only_here], [only_there, older, same])
    assert found == [(b"both", newer, older), (b"here", only_here, None), (b"there", None, only_there)]
    assert [one.is_newer_here for one in found] == [True, True, False]


def test_a_promise_alone_is_no_entry() -> None:
    promise = Row(b"key", 9, 0, 0, False, 0)
    assert compared([promise], []) == compared([], [promise]) == []
    assert compared([row(b"key", 1)], [promise]) == [(b"key", row(b"key", 1), None)]


@pytest.mark.parametrize(
    ("here", "there", "covered"),
    [
        (row(b"k", FLOOR, tombstone=True), None, True),
        (None, row(b"k", FLOOR, tombstone=True), True),
        (row(b"k", FLOOR + 1, tombstone=True), None, False),
        (row(b"k", FLOOR), None, False),
        (row(b"k", FLOOR, expires_at_ms=NOW_MS), None, True),
        (row(b"k", FLOOR, expires_at_ms=NOW_MS + 1), None, False),
        (row(b"k", FLOOR, tombstone=True), row(b"k", FLOOR - 1), False),
    ],
)
def test_what_is_gone_for_good_on_one_side_is_covered(here: Row | None, there: Row | None, covered: bool) -> None:
    assert is_covered(Difference(b"k", here, there), FLOOR, NOW_MS) is covered


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ([], []),
        ([7], [(7, 1)]),
        ([9, 7, 8], [(7, 3)]),
        ([7, 8 + GAP_LEAVES], [(7, 2 + GAP_LEAVES)]),
        ([7, 9 + GAP_LEAVES], [(7, 1), (9 + GAP_LEAVES, 1)]),
        ([LEAVES - 1, LEAVES], [(LEAVES - 1, 1), (LEAVES, 1)]),
        (list(range(RUN_LEAVES + 2)), [(0, RUN_LEAVES), (RUN_LEAVES, 2)]),
    ],
)
def test_leaves_near_one_another_are_compared_together(leaves: list[int], expected: list[tuple[int, int]]) -> None:
    assert runs(leaves) == expected
