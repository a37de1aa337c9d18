"""The watch over the disk: a node that has hardly any room left takes no writes, and takes them again once there is.

A replica that can't write can't promise either, but it can still say what it holds. So it goes read-only while there is
some room left: the node's own small writes (its clock's ceiling, what it remembers of its peers, what is forgotten)
go on out of that reserve. Writes go through the other replicas meanwhile.
"""

from __future__ import annotations

import asyncio

import structlog

from cluster.membership.fitness import Bar, Fitness
from cluster.tasks import safely
from storage.engine import Engine
from storage.group_commit import GroupCommit

INTERVAL_S = 0.25
"""Between two looks: what is written in that time has to fit the reserve."""
RESERVE_BYTES = 64 << 20
"""Unless it is set: the log of the database, and some seconds of a fast disk."""
SHARE_MAX = 0.05
"""Of a small disk the reserve takes no more than this."""
ENOUGH = 1.25
"""Times the reserve must be free before writes are taken again, so that a disk at the edge does not flap."""

log = structlog.get_logger()


class DiskWatch:
    """Bars and clears this node's writes by the room on its disk."""

    def __init__(self, engine: Engine, commits: GroupCommit, fitness: Fitness, reserve_bytes: int) -> None:
        self._engine, self._commits, self._fitness = engine, commits, fitness
        self.reserve_bytes = reserve_bytes
        """Below so much free room, or a twentieth of the disk if that is less, no writes are taken."""
        self._said = ""
        self.free_bytes = 0
        """As they were at the last look."""

    @property
    def is_read_only(self) -> bool:
        """Whether there is too little room."""
        return bool(self._fitness.bars & Bar.READ_ONLY)

    async def run(self) -> None:
        """Looks, for ever."""
        while True:
            safely(self.look)
            await asyncio.sleep(INTERVAL_S)

    def look(self) -> None:
        """Bars this node's writes, or clears them."""
        try:
            self.free_bytes, total = self._engine.free_bytes()
        except OSError as error:
            self._say(f"the disk does not tell how much room it has: {error}")
            return
        reserve = min(self.reserve_bytes, int(total * SHARE_MAX))
        needed = reserve * ENOUGH if self.is_read_only else reserve
        if self.free_bytes >= needed and not self._commits.is_full:
            if self.is_read_only:
                self._fitness.clear(Bar.READ_ONLY)
                log.warning("there is room on the disk again; this node takes writes", free_bytes=self.free_bytes)
            self._said = ""
            return
        was_read_only = self.is_read_only
        self._fitness.bar(
            Bar.READ_ONLY,
            f"the disk of this node is full: {_mebibytes(self.free_bytes)} are free, and it keeps "
            f"{_mebibytes(reserve)} for itself. It answers reads and takes no writes; make room, it goes on by itself",
        )
        if not was_read_only:
            log.error(
                "the disk is full: this node is read-only until there is room",
                free_bytes=self.free_bytes,
                reserve_bytes=reserve,
            )

    def _say(self, fault: str) -> None:
        if fault != self._said:
            self._said = fault
            log.error(fault)


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
