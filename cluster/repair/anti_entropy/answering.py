"""The answering side: what a replica says to one that compares itself with it.

Every reply leaves after the commit of what it shows, so nobody is told of a record that may not be there after a power
cut.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog

from cluster.protocol.messages import Reply, Unfit
from cluster.protocol.repair_messages import (
    CompareEntries,
    CompareLeaves,
    CompareRoots,
    EntriesCompared,
    LeavesCompared,
    RootsCompared,
)
from cluster.repair.anti_entropy.differences import RUN_LEAVES
from cluster.repair.anti_entropy.leaf_rows import LeafRows
from cluster.repair.anti_entropy.ledger import Ledger
from cluster.repair.hash_trees import LEAVES, pack, unpack
from cluster.repair.parts import Parts
from cluster.replica.replica import Respond
from storage.ballot import NONE
from storage.engine import StorageError

ROWS_MAX = 2_000
"""Rows in one reply: with the longest keys, 2 MiB. The next round brings the rest."""
Compare = CompareRoots | CompareLeaves | CompareEntries
OnHigherFloor = Callable[[int, int], None]
"""(partition, floor): another replica of the partition has this floor, above ours."""
log = structlog.get_logger()


class Answering:
    """One replica's answers."""

    def __init__(self, parts: Parts, ledger: Ledger, on_higher_floor: OnHigherFloor) -> None:
        self._parts, self._ledger, self._on_higher_floor = parts, ledger, on_higher_floor
        self._leaf_rows = LeafRows(parts)

    def handle(self, request: Compare, respond: Respond, token: int) -> None:
        """Answers one step of a comparison; respond(token, reply) follows."""
        try:
            reason = self._why_not(request)
        except ValueError as error:
            reason = str(error)
        if reason is not None:
            respond(token, Unfit(reason))
        elif isinstance(request, CompareEntries):
            self._parts.tasks.spawn(self._compare_entries(request, respond, token), "compare entries")
        else:
            reply = self._roots(request) if isinstance(request, CompareRoots) else self._leaves(request)
            commits = self._parts.commits
            commits.when(commits.ticket, partial(respond, token, reply))

    def _why_not(self, request: Compare) -> str | None:
        """Why this request can't be answered. Raises ValueError for one that no replica would send."""
        parts = self._parts
        if isinstance(request, CompareRoots):
            partitions = [partition for partition, _ in request.roots]
        elif isinstance(request, CompareLeaves):
            partitions = [request.partition]
            if len(unpack(request.sums)) != LEAVES:
                raise ValueError(f"a partition has {LEAVES} leaves")
        else:
            unpack(request.digests)
            first, last = request.first, request.first + request.count - 1
            partitions = [first // LEAVES]
            if not 1 <= request.count <= RUN_LEAVES or last // LEAVES != partitions[0]:
                raise ValueError(f"1 to {RUN_LEAVES} leaves of one partition are compared at a time")
        sets = parts.topology().replica_slots
        for partition in partitions:
            if not 0 <= partition < len(sets) or parts.slot not in sets[partition]:
                return f"this node holds no replica of partition {partition}"
        return parts.fitness.why_no_reads()

    def _roots(self, request: CompareRoots) -> Reply:
        now_s = self._parts.context.clock.monotonic_s()
        self._ledger.asked_s[request.slot] = now_s
        if request.differed is not None:
            self._ledger.compared(request.slot, set(request.differed), now_s)
        trees, floors = self._parts.trees, self._parts.marks.floors
        told = dict(request.floors)
        asked = [partition for partition, _ in request.roots]
        for partition in asked:
            if told.get(partition, NONE) > floors.get(partition, NONE):
                self._on_higher_floor(partition, told[partition])
        differing = [partition for partition, root in request.roots if trees.root(partition) != root]
        higher = [
            (partition, floors[partition])
            for partition in asked
            if floors.get(partition, NONE) > told.get(partition, NONE)
        ]
        return RootsCompared(differing, higher)

    def _leaves(self, request: CompareLeaves) -> Reply:
        mine, theirs = self._parts.trees.leaf_sums(request.partition), unpack(request.sums)
        first = request.partition * LEAVES
        return LeavesCompared([first + place for place in range(LEAVES) if mine[place] != theirs[place]])

    async def _compare_entries(self, request: CompareEntries, respond: Respond, token: int) -> None:
        try:
            own = await self._leaf_rows.of(request.first, request.count)
        except StorageError as error:
            log.error("rows can't be compared", first_leaf=request.first, error=str(error))
            respond(token, Unfit(str(error)))
            return
        named = unpack(request.digests)
        missing = pack(number for number in named if number not in own)
        for number in named:
            own.pop(number, None)
        respond(token, EntriesCompared(missing, list(own.values())[:ROWS_MAX]))
