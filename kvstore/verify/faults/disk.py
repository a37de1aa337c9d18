"""Faults of disks: one that is full, and one whose writes fail."""

from __future__ import annotations

import resource

from kvstore.verify.faults.fault import Fault, NotNow

FILE_BYTES_MAX = 16 << 10
"""Below what a database and its log have from the start: the next write fails."""


class DiskFull(Fault):
    """The small disk of the last node is filled up. See small_disk.py for how it comes to have one."""

    name = "disk-full"
    minimum_s = 1.5

    def draw(self) -> None:
        self._victim = self._cluster.names[-1]
        self.victims = (self._victim,)

    @property
    def says(self) -> str:
        return f"the disk of {self._victim} is full"

    async def begin(self) -> None:
        if self._cluster.small_disk is None:
            raise NotNow("no node has a disk of its own")
        self._cluster.small_disk.fill()

    async def look(self) -> str | None:
        if await self._cluster.metric(self._victim, "kvstore_disk_full"):
            return f"{self._victim} was read-only"
        return None

    async def end(self) -> None:
        if self._cluster.small_disk is not None:
            self._cluster.small_disk.empty()


class DiskFails(Fault):
    """Writes to the disk fail (a limit on the size of files is set from outside): the node must end, not go on."""

    name = "disk-fails"
    minimum_s = 1.0

    def draw(self) -> None:
        self._victim = self._one()

    @property
    def says(self) -> str:
        return f"writes to the disk of {self._victim} fail"

    async def begin(self) -> None:
        if not hasattr(resource, "prlimit"):
            raise NotNow("limits of other processes can't be set on this system")
        pid = self._cluster.processes[self._victim].pid
        if pid is None:
            raise NotNow(f"{self._victim} does not run")
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, hard))

    async def look(self) -> str | None:
        process = self._cluster.processes[self._victim]
        return None if process.pid is not None else f"{self._victim} ended: {await process.ended()}"

    async def end(self) -> None:
        """It is started again, on a disk that works; if it did not end, its limit goes."""
        pid = self._cluster.processes[self._victim].pid
        if pid is not None:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        await self._cluster.start(self._victim)
