"""Finding: from the roots of all shared partitions down to the keys that differ.

Under load leaves differ all the time, each for the moment in which a write is on its way to the other side. To list
their rows would write the rows of all that is journalled (storage/sqlite/state_journal.py), many times a second, for
nothing. So leaves are looked at again for as long as that leaves fewer than half of them, and rows are listed only of
those that still differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from cluster.protocol.repair_messages import (
    CompareEntries,
    CompareLeaves,
    CompareRoots,
    EntriesCompared,
    LeavesCompared,
    RootsCompared,
)
from cluster.repair.anti_entropy.answering import ROWS_MAX, OnHigherFloor
from cluster.repair.anti_entropy.asking import Asking
from cluster.repair.anti_entropy.at_once import at_once
from cluster.repair.anti_entropy.differences import Difference, differences, is_covered, runs
from cluster.repair.anti_entropy.leaf_rows import LeafRows
from cluster.repair.anti_entropy.ledger import Ledger
from cluster.repair.hash_trees import LEAVES, pack, unpack
from cluster.repair.parts import Parts
from storage.ballot import NONE
from storage.engine import StorageError

RUNS_AT_ONCE = 4
"""Runs of leaves that are compared at a time with one peer."""
LOOK_AGAIN_S = 0.25
"""Between two looks at the leaves: what was on its way at the first is there at the next, most of it."""
LOOKS_MAX = 5
"""At leaves; a leaf whose keys are all written all the time differs at each."""
MANY_LEAVES = LEAVES // 4
"""Of a partition, on average: so many are not on their way but missing, and there is no need to look again."""
PARTITIONS_TOGETHER = 16
"""Whose leaves are looked at again together: each look takes a moment, and one batch may have enough to do by then."""
KEYS_PER_BATCH = 5_000
"""About how many differences are looked for before they are looked at again and brought together."""
log = structlog.get_logger()


@dataclass(slots=True)
class Found:
    """What a comparison with one peer found."""

    differences: list[Difference] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)
    """Partitions whose roots differ and that were not looked into to the end, for there was enough to do."""


class Finding:
    """Compares this node's replicas with a peer's."""

    def __init__(self, parts: Parts, ledger: Ledger, on_higher_floor: OnHigherFloor) -> None:
        self._parts, self._ledger, self._on_higher_floor = parts, ledger, on_higher_floor
        self._leaf_rows = LeafRows(parts)

    async def find(self, asking: Asking, partitions: Sequence[int], looks_max: int = LOOKS_MAX) -> Found | None:
        """The keys that differ, about KEYS_PER_BATCH of them at most; None when the peer can't be compared with now.

        looks_max: at leaves; with one only, keys are among them of which a write is on its way.
        """
        told = await self._compare_roots(asking, partitions)
        if told is None:
            return None
        differing = [partition for partition in told.differing if partition in set(partitions)]
        self._parts.context.random.shuffle(differing)  # whoever else compares with that peer begins elsewhere
        found = Found(left_out=set(differing))
        floors = dict(told.floors)
        while differing and not asking.is_vain and len(found.differences) < KEYS_PER_BATCH:
            some, differing = differing[:PARTITIONS_TOGETHER], differing[PARTITIONS_TOGETHER:]
            for partition, leaves in (await self._lasting_leaves(asking, some, looks_max)).items():
                if asking.is_vain or len(found.differences) >= KEYS_PER_BATCH:
                    break
                floor = max(floors.get(partition, NONE), self._parts.marks.floors.get(partition, NONE))
                if await self._look_into(asking, leaves, floor, found.differences):
                    found.left_out.discard(partition)
        return found

    async def _compare_roots(self, asking: Asking, partitions: Sequence[int]) -> RootsCompared | None:
        parts = self._parts
        floors: Mapping[int, int] = parts.marks.floors
        differed = self._ledger.differing.get(asking.slot)
        request = CompareRoots(
            parts.slot,
            [(partition, parts.trees.root(partition)) for partition in partitions],
            [(partition, floors[partition]) for partition in partitions if partition in floors],
            None if differed is None else sorted(differed),
        )
        await parts.commits.wait(parts.commits.ticket)
        answer = await asking.compare(request)
        if not isinstance(answer, RootsCompared):
            return None
        for partition, floor in answer.floors:
            if partition in partitions and floor > floors.get(partition, NONE):
                self._on_higher_floor(partition, floor)
        return answer

    async def _lasting_leaves(self, asking: Asking, partitions: Sequence[int], looks_max: int) -> dict[int, set[int]]:
        """Partition -> its leaves that differ, and not only for a moment; those of which the peer tells."""
        differing = await self._differing_leaves(asking, partitions)
        for _ in range(looks_max - 1):
            before = sum(map(len, differing.values()))
            if not before or before > MANY_LEAVES * len(partitions):
                break
            await asyncio.sleep(LOOK_AGAIN_S)
            again = await self._differing_leaves(asking, [partition for partition in differing if differing[partition]])
            for partition, leaves in again.items():
                differing[partition] &= leaves
            if sum(map(len, differing.values())) > before / 2:
                break
        return differing

    async def _differing_leaves(self, asking: Asking, partitions: Sequence[int]) -> dict[int, set[int]]:
        """Partition -> its leaves that differ just now; those of which the peer tells."""
        trees = self._parts.trees
        differing = {}
        for partition in partitions:
            if asking.is_vain:
                break
            answer = await asking.compare(CompareLeaves(partition, pack(trees.leaf_sums(partition))))
            if isinstance(answer, LeavesCompared):
                differing[partition] = set(answer.leaves).intersection(trees.leaves_of(partition))
        return differing

    async def _look_into(self, asking: Asking, leaves: Iterable[int], floor: int, found: list[Difference]) -> bool:
        """Adds what differs in these leaves; whether that is all."""
        now_ms = self._parts.context.ballots.now_ms()
        is_complete = True

        async def compare(run: tuple[int, int]) -> None:
            nonlocal is_complete
            is_full = asking.is_vain or len(found) >= KEYS_PER_BATCH
            differing, is_all = ([], False) if is_full else await self._compare_run(asking, *run)
            is_complete = is_complete and is_all
            found.extend(one for one in differing if not is_covered(one, floor, now_ms))

        await at_once(RUNS_AT_ONCE, runs(leaves), compare)
        return is_complete

    async def _compare_run(self, asking: Asking, first: int, count: int) -> tuple[list[Difference], bool]:
        """What differs in these leaves, and whether that is all."""
        try:
            own = await self._leaf_rows.of(first, count)
        except StorageError as error:
            log.error("rows can't be compared", first_leaf=first, error=str(error))
            return [], False
        answer = await asking.compare(CompareEntries(first, count, pack(own)))
        if not isinstance(answer, EntriesCompared):
            return [], False
        is_all = len(answer.rows) < ROWS_MAX
        if not is_all and count > 1:  # more than fits one reply: one half after the other
            half = count // 2
            some, is_some = await self._compare_run(asking, first, half)
            rest, is_rest = await self._compare_run(asking, first + half, count - half)
            return some + rest, is_some and is_rest
        return differences(own, unpack(answer.missing), answer.rows), is_all
