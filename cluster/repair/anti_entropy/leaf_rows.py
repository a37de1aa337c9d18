"""The rows of some leaves, as they are on disk, by their digests: what both sides of a comparison begin with."""

from __future__ import annotations

import structlog

from cluster.repair.anti_entropy.differences import digests_of
from cluster.repair.hash_trees import ROWS_PER_PAGE
from cluster.repair.parts import Parts
from storage.engine import Row
from storage.keyspace import hash_of

_MASK = (1 << 64) - 1
log = structlog.get_logger()


class LeafRows:
    """Lists this replica's."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def of(self, first: int, count: int) -> dict[int, Row]:
        """Digest -> row, of all records in so many leaves from the first on. Raises StorageError.

        All that was decided before is on disk when this begins to read. A leaf whose sum is not its rows' is summed
        up anew: it would be compared for ever, and nothing be found in it.
        """
        parts = self._parts
        before = [parts.trees.sum_of(leaf) for leaf in range(first, first + count)]
        await parts.commits.wait(parts.commits.ticket)
        start, behind = parts.trees.places(first)[0], parts.trees.places(first + count - 1)[1]
        rows: list[Row] = []
        is_complete, after = False, None
        while not is_complete:
            page = await parts.engine.rows(start, behind, after, ROWS_PER_PAGE)
            rows += page.rows
            is_complete = page.complete or not page.rows
            after = None if is_complete else (hash_of(page.rows[-1].key), page.rows[-1].key)
        found = digests_of(rows)
        self._check(first, before, found)
        return found

    def _check(self, first: int, before: list[int], found: dict[int, Row]) -> None:
        trees = self._parts.trees
        totals = [0] * len(before)
        for number, row in found.items():
            totals[trees.leaf_of(row.key) - first] += number
        for leaf, (total, sum_) in enumerate(zip(totals, before, strict=True), start=first):
            if sum_ == trees.sum_of(leaf) != total & _MASK:
                log.warning("the sum of a leaf is not its rows'; it is summed up anew", leaf=leaf)
                self._parts.tasks.spawn(self._parts.replica.rebuild_leaf(leaf), "rebuild a leaf")
