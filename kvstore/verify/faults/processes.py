"""Faults of processes: killed, paused, restarted one after another, started on an empty folder."""

from __future__ import annotations

import signal

from kvstore.verify.faults.cluster import ClusterFailed
from kvstore.verify.faults.fault import Fault, NotNow

WELL_WITHIN_S = 20.0
"""Before a folder is lost: as long as a clock may be wrong that another fault has set."""


class Kill(Fault):
    """kill -9, and a start on what is on the disk."""

    name = "kill"

    def draw(self) -> None:
        self._victim = self._one()

    @property
    def says(self) -> str:
        return f"kill -9 {self._victim}"

    async def begin(self) -> None:
        await self._cluster.kill(self._victim)

    async def look(self) -> str | None:
        return await self._seen_away(self._victim)

    async def end(self) -> None:
        await self._cluster.start(self._victim)


class Pause(Fault):
    """SIGSTOP and SIGCONT: the process holds its connections, says nothing, and goes on as if no time had passed."""

    name = "pause"
    minimum_s = 2.5  # a heartbeat that is late once proves nothing to the others

    def draw(self) -> None:
        self._victim = self._one()

    @property
    def says(self) -> str:
        return f"SIGSTOP {self._victim}"

    async def begin(self) -> None:
        self._cluster.processes[self._victim].send(signal.SIGSTOP)

    async def look(self) -> str | None:
        return await self._seen_away(self._victim)

    async def end(self) -> None:
        self._cluster.processes[self._victim].send(signal.SIGCONT)


class RollingRestart(Fault):
    """SIGTERM to one node after another, each once the one before is ready again, as an operator would."""

    name = "restart"

    def draw(self) -> None:
        self._order = self._dice.sample(self._cluster.names, len(self._cluster.names))
        self.victims = tuple(self._order)
        self._seen: list[str] = []

    @property
    def says(self) -> str:
        return f"SIGTERM and start again {', '.join(self._order)}"

    async def begin(self) -> None:
        for name in self._order:
            how = await self._cluster.terminate(name)
            if how == "exit code 0":
                self._seen.append(name)
            await self._cluster.start(name)
            await self._cluster.wait_ready([name])

    async def look(self) -> str | None:
        return f"{', '.join(self._seen)} drained and ended" if len(self._seen) == len(self._order) else None

    async def end(self) -> None:
        """All of it is done already."""


class LostFolder(Fault):
    """A node is killed and its folder wiped: it comes back as one that has forgotten all it promised."""

    name = "wipe"

    def draw(self) -> None:
        self._victim = self._one()
        if self._cluster.is_on_small_disk(self._victim):  # a mount can't be removed, and others do as well
            self._victim = self._cluster.names[0]
            self.victims = (self._victim,)
        self._before: str | None = None

    @property
    def says(self) -> str:
        return f"kill -9 {self._victim} and lose its folder"

    async def begin(self) -> None:
        """Only while all are well: two nodes that have forgotten are more than a majority of three can do without."""
        try:
            await self._cluster.wait_ready(within_s=WELL_WITHIN_S)
        except ClusterFailed as failed:
            raise NotNow(str(failed)) from failed
        self._before = await self._cluster.incarnation(self._victim)
        await self._cluster.kill(self._victim)
        self._cluster.lose_folder(self._victim)
        await self._cluster.start(self._victim)

    async def look(self) -> str | None:
        now = await self._cluster.incarnation(self._victim)
        return f"{self._victim} came back as a new incarnation" if now is not None and now != self._before else None

    async def end(self) -> None:
        """It learns anew by itself."""
