"""Scrubbing: every row is looked at now and then, for what rots on a disk is not noticed until it is read.

SQLite checks the structure of its pages, not the bits of a value; a key whose bytes rotted can't be found any more and
looks like one never heard of. Going through all rows finds both. Once a period, and slowly, so that requests don't feel
it; a large database takes longer than a period, and the next sweep begins when one has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cluster.clock import Clock
from storage.engine import Engine, Rot, StorageError

STEP_ROWS = 250
ROWS_PER_S = 5_000
log = structlog.get_logger()


class Scrubbing:
    """The sweeps over one node's rows."""

    def __init__(
        self, engine: Engine, clock: Clock, period_s: float, on_rot: Callable[[list[Rot]], Awaitable[None]]
    ) -> None:
        """on_rot is told of damaged rows, and awaited before the sweep goes on."""
        self._engine, self._clock, self._period_s, self._on_rot = engine, clock, period_s, on_rot
        self.rows = 0
        """Rows looked at since the start."""
        self.sweeps = 0
        """Sweeps that went through all rows."""

    async def run(self) -> None:
        """Sweeps, for ever."""
        while True:
            began_s = self._clock.monotonic_s()
            try:
                await self.sweep()
            except StorageError as error:
                log.error("the scrub could not read; it tries again with its next sweep", error=str(error))
            except Exception:
                log.exception("a scrub failed; it tries again with its next sweep")
            await asyncio.sleep(max(self._period_s - (self._clock.monotonic_s() - began_s), self._period_s / 10))

    async def sweep(self) -> None:
        """Looks at every row once."""
        last: int | None = 0
        while last is not None:
            page = await self._engine.scrub(last, STEP_ROWS)
            self.rows += page.checked
            if page.rotten:
                await self._on_rot(page.rotten)
            last = page.last
            if last is not None:
                await asyncio.sleep(STEP_ROWS / ROWS_PER_S)
        self.sweeps += 1
