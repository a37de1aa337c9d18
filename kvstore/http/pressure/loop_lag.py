"""How far the event loop is behind: a timer that should come every so often, and how late it does.

What clients send while the loop is behind lies in socket buffers, where nobody sees it; it has waited that long when
it begins.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

INTERVAL_S = 0.05
REMEMBERED = 5
"""The middle one of so many counts: one long turn, or a process that was stopped, is over once it is noticed."""


class LoopLag:
    """Watches the running loop from start() to stop()."""

    def __init__(self) -> None:
        self._late_s: deque[float] = deque(maxlen=REMEMBERED)
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self.lag_s = 0.0
        """What the loop has been behind in the last quarter of a second."""

    def start(self) -> None:
        """Begins to watch."""
        self._due_s = time.monotonic() + INTERVAL_S
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._woken)

    def stop(self) -> None:
        """Ends it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _woken(self) -> None:
        self._late_s.append(max(0.0, time.monotonic() - self._due_s))
        self.lag_s = sorted(self._late_s)[len(self._late_s) // 2]
        self.start()
