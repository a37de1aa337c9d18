"""Faults of wall clocks, through the file that KVSTORE_TEST_CLOCK names: a jump, and a drift."""

from __future__ import annotations

import asyncio

from kvstore.verify.faults.fault import Fault

JUMPS_MS = (2_000, -2_000, 4_000, 30_000, -30_000, 3_600_000, -3_600_000)
"""Within the allowed offset (5 s by default), where the node goes on, and far beyond it, where it must not."""
DRIFT_MS_MAX, DRIFT_STEP_MS, DRIFT_STEP_S = 4_000, 50, 0.1
"""Half a second a second: a hundred thousand times what quartz does."""
SEEN_S = 0.3
"""Heartbeats tell offsets more finely than that."""


class _OffClock(Fault):
    _victim: str

    async def look(self) -> str | None:
        """A peer has measured that the clock is off."""
        for observer in self._cluster.others(self._victim):
            off_s = await self._cluster.metric(observer, f'kvstore_clock_offset_seconds{{peer="{self._victim}"}}')
            if off_s is not None and abs(off_s) > SEEN_S:
                refused = await self._cluster.metric(self._victim, "kvstore_clock_refused")
                return f"{observer} measured {off_s:+.1f} s" + (f"; {self._victim} stood back" if refused else "")
        return None


class ClockJump(_OffClock):
    """A wall clock is suddenly off, and later right again."""

    name = "clock-jump"
    minimum_s = 2.5

    def draw(self) -> None:
        self._victim = self._one()
        self._jump_ms = self._dice.choice(JUMPS_MS)

    @property
    def says(self) -> str:
        return f"clock of {self._victim} jumps by {self._jump_ms / 1000:+g} s"

    async def begin(self) -> None:
        self._cluster.bend(self._victim, self._jump_ms)

    async def end(self) -> None:
        self._cluster.bend(self._victim, 0)


class ClockDrift(_OffClock):
    """A wall clock runs too fast or too slow, until it is set right."""

    name = "clock-drift"
    minimum_s = 2.5

    def draw(self) -> None:
        self._victim = self._one()
        self._sign = self._dice.choice((1, -1))
        self._task: asyncio.Task[None] | None = None

    @property
    def says(self) -> str:
        return f"clock of {self._victim} runs {'fast' if self._sign > 0 else 'slow'} by half"

    async def begin(self) -> None:
        self._task = asyncio.ensure_future(self._drift())

    async def _drift(self) -> None:
        for offset_ms in range(DRIFT_STEP_MS, DRIFT_MS_MAX, DRIFT_STEP_MS):
            self._cluster.bend(self._victim, self._sign * offset_ms)
            await asyncio.sleep(DRIFT_STEP_S)

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._cluster.bend(self._victim, 0)
