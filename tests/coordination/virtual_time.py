"""An event loop whose time passes only when nobody has anything to do: a deadline of five seconds takes no time.

Nothing real may be waited for on it (a socket, a thread): the clock would have run on long before that came.
"""

from __future__ import annotations

import asyncio
import selectors

WALL_START_MS = 1_790_000_000_000
"""Unix time at which every test begins."""


class _Selector(selectors.DefaultSelector):
    """Does not wait for the next timer: lets the time pass instead."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits and no timer is set: this would hang for ever")
        self.passed_s += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop with another clock."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.passed_s


class VirtualClock:
    """A node's Clock on the running loop; `wall_step_ms` may be set to let its wall clock jump."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.wall_step_ms = 0

    def wall_ms(self) -> int:
        return WALL_START_MS + int(self._loop.time() * 1000) + self.wall_step_ms

    def monotonic_s(self) -> float:
        return self._loop.time()
