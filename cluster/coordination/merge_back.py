"""Merging back what is kept aside.

A weak write that was pushed out or refused lies on this node's disk until the key is settled on it or on something
newer. It comes back by a merge round under its own origin (protocol/changes.py, Merge), so it does not matter how
many nodes try, or how often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.coordination.drive import Context
from cluster.coordination.handover import Handover
from cluster.membership.topology import Topology
from cluster.protocol.changes import Merge
from cluster.protocol.messages import Outcome, Settled
from cluster.requests import Written
from storage.record import Record

INTERVAL_S = 0.5
"""Pause between two rounds. What was just pushed out is mostly superseded by what pushed it out, and that takes a
moment to be settled."""
AT_ONCE = 16
"""Merges under way at a time, so that a long list does not crowd out the applications."""
ATTEMPT_S = 5.0


class MergeBack:
    """The records kept aside by this node, and the task that brings them back."""

    def __init__(
        self,
        context: Context,
        handover: Handover,
        topology: Callable[[], Topology],
        forget: Callable[[bytes, int], object],
    ) -> None:
        """forget(key, origin) removes a record from the disk."""
        self._context, self._handover, self._topology, self._forget = context, handover, topology, forget
        self._records: dict[tuple[bytes, int], Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def add(self, key: bytes, record: Record) -> None:
        """This record is on disk among the kept-aside ones."""
        self._records[key, record.origin] = record

    async def run(self) -> None:
        """Merges, for ever."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            waiting = list(self._records.items())
            for start in range(0, len(waiting), AT_ONCE):
                some = waiting[start : start + AT_ONCE]
                settled = await asyncio.gather(*(self._merge(key, record) for (key, _), record in some))
                for (key, origin), is_settled in zip((name for name, _ in some), settled, strict=True):
                    if is_settled:
                        del self._records[key, origin]
                        self._forget(key, origin)

    async def _merge(self, key: bytes, record: Record) -> bool:
        """Whether the key is now settled on this record or on a newer one."""
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        deadline_s = self._context.clock.monotonic_s() + ATTEMPT_S
        self._handover.submit(key, Merge(record), self._topology().majority, deadline_s, ended.set_result)
        try:
            async with asyncio.timeout(2 * ATTEMPT_S):
                return isinstance(await ended, Written | Settled)
        except TimeoutError:
            return False
