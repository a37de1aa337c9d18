"""Merging back what is kept aside.

A weak write that was pushed out or refused lies on this node's disk until the key is settled on it or on something
newer. It comes back by a merge round under its own origin (protocol/changes.py, Merge), so it does not matter how
many nodes try, or how often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.coordination.drive import Context
from cluster.membership.topology import Topology
from cluster.protocol.changes import Merge
from cluster.protocol.messages import Outcome, Settled
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
    """The records kept aside by this node, and the task that brings them back."""

    def __init__(
        self, context: Context, topology: Callable[[], Topology], forget: Callable[[bytes, int], object]
    ) -> None:
        """forget(key, origin) removes a record from the disk."""
        self._context, self._topology, self._forget = context, topology, forget
        self._records: dict[bytes, dict[int, Record]] = {}
        self._under_way: set[bytes] = set()

    def __len__(self) -> int:
        return sum(map(len, self._records.values()))

    def add(self, key: bytes, record: Record) -> None:
        """This record is on disk among the kept-aside ones."""
        self._records.setdefault(key, {})[record.origin] = record

    async def run(self) -> None:
        """Merges, for ever. A slow primary holds back its own keys only."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            waiting = [key for key in self._records if key not in self._under_way]
            for key in waiting[: AT_ONCE - len(self._under_way)]:
                safely(self._merge, key)

    def _merge(self, key: bytes) -> None:
        """Merges the newest of a key: what is older is superseded by it."""
        record = max(self._records[key].values(), key=lambda record: record.origin)
        self._under_way.add(key)
        # To the end of the line, so that keys whose primary is silent don't stand in front for ever.
        self._records[key] = self._records.pop(key)
        deadline_s = self._context.clock.monotonic_s() + ATTEMPT_S

        def ended(outcome: Outcome) -> None:
            self._under_way.discard(key)
            if isinstance(outcome, Written | Settled):
                self._settled(key, record.origin)

        self._context.hand_over(key, Merge(record), self._topology().majority, deadline_s, ended)

    def _settled(self, key: bytes, origin: int) -> None:
        """The key is settled on this origin or a newer one."""
        records = self._records[key]
        for old in [old for old in records if old <= origin]:
            del records[old]
            self._forget(key, old)
        if not records:
            del self._records[key]
