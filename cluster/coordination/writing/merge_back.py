"""Merging back what is kept aside.

A weak write that was pushed out or refused lies on this node's disk until the key is settled on it or on something
newer. It comes back by a merge round under its own origin (protocol/changes.py, Merge), so it does not matter how
many nodes try, or how often.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from cluster.coordination.drive import Context
from cluster.membership.placement import partition_of
from cluster.membership.topology import Topology
from cluster.protocol.changes import RENEW, Change, Merge
from cluster.protocol.messages import Outcome, Settled
from cluster.repair.hints import size_of
from cluster.repair.origins import OldestOrigins
from cluster.requests import Written
from cluster.tasks import safely
from storage.record import Record

INTERVAL_S = 0.5
"""Pause between two looks. What was just pushed out is mostly superseded by what pushed it out, and that takes a
moment to be settled."""
AT_ONCE = 16
"""Merges under way at a time, so that a long list does not crowd out the applications."""
ATTEMPT_S = 5.0


class MergeBack:
    """The records kept aside by this node, in memory with their values, and the task that brings them back."""

    def __init__(
        self, context: Context, topology: Callable[[], Topology], forget: Callable[[bytes, int], object]
    ) -> None:
        """forget(key, origin) removes a record from the disk."""
        self._context, self._topology, self._forget = context, topology, forget
        self._records: dict[bytes, dict[int, Record]] = {}
        self._under_way: set[bytes] = set()
        self._next: deque[bytes] = deque()
        self._failures_left = AT_ONCE
        self._origins = OldestOrigins()
        self._count = 0
        self.size_bytes = 0
        """Of all of them, as hints count (cluster/repair/hints.py)."""
        self.on_added: Callable[[int, int], None] = _nobody_cares
        """Called with partition and origin of each record that is added."""

    def __len__(self) -> int:
        return self._count

    def oldest(self, partition: int) -> int | None:
        """The lowest origin of the partition that is kept aside; None when there is none."""
        return self._origins.oldest(partition)

    def add(self, key: bytes, record: Record) -> None:
        """This record is on disk among the kept-aside ones."""
        records = self._records.setdefault(key, {})
        if record.origin in records:
            return
        records[record.origin] = record
        partition = self._partition_of(key)
        self._origins.add(partition, (key, record.origin), record.origin)
        self._count += 1
        self.size_bytes += size_of(key, record)
        safely(self.on_added, partition, record.origin)

    async def run(self) -> None:
        """Merges, for ever. A slow primary holds back its own keys only."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self._failures_left = AT_ONCE
            if not self._next:
                self._next.extend(key for key in self._records if key not in self._under_way)
            self._merge_next()

    def _merge_next(self) -> None:
        """As many as may be under way. Once too many of them failed, the rest waits for the next look."""
        while self._next and self._failures_left > 0 and len(self._under_way) < AT_ONCE:
            key = self._next.popleft()
            if key in self._records and key not in self._under_way:
                safely(self._merge, key)

    def _merge(self, key: bytes) -> None:
        """Merges the newest of a key: what is older is superseded by it."""
        record = max(self._records[key].values(), key=lambda record: record.origin)
        # To the end of the line, so that keys whose primary is silent don't stand in front for ever.
        self._records[key] = self._records.pop(key)
        self._propose(key, Merge(record), partial(self._merged, key, record.origin))

    def _propose(self, key: bytes, change: Change, ended: Callable[[Outcome], None]) -> None:
        deadline_s = self._context.clock.monotonic_s() + ATTEMPT_S
        self._under_way.add(key)
        try:
            self._context.hand_over(key, change, self._topology().majority, deadline_s, ended)
        except BaseException:
            self._under_way.discard(key)
            self._failures_left -= 1
            raise

    def _merged(self, key: bytes, origin: int, outcome: Outcome) -> None:
        if isinstance(outcome, Written | Settled):
            self._settled(key, origin)
        else:
            self._failures_left -= 1
        if isinstance(outcome, Settled) and outcome.record is not None and outcome.record.origin == origin:
            # A majority had it already, so nothing was proposed: whoever refused it still lacks it.
            self._propose(key, RENEW, partial(self._ended, key))
        else:
            self._ended(key, outcome)

    def _ended(self, key: bytes, outcome: Outcome) -> None:
        self._under_way.discard(key)
        asyncio.get_running_loop().call_soon(self._merge_next)  # not here: this may be called before hand_over returns

    def _settled(self, key: bytes, origin: int) -> None:
        """The key is settled on this origin or a newer one."""
        records, partition = self._records[key], self._partition_of(key)
        for old in [old for old in records if old <= origin]:
            self._count -= 1
            self.size_bytes -= size_of(key, records.pop(old))
            self._origins.remove(partition, (key, old))
            self._forget(key, old)
        if not records:
            del self._records[key]

    def _partition_of(self, key: bytes) -> int:
        return partition_of(key, self._topology().partitions)


def _nobody_cares(partition: int, origin: int) -> None:
    """Until somebody does."""
