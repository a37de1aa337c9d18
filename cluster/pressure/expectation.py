"""Expectation: how long a request that begins now will take. Pure.

What those that ended lately took, and for each that is under way beyond as many as were then, the time in which the
server does one at its best. Fewer than then take less; how much less nobody knows, for the rest of the wait is made by
others (refusals, peers, whoever else uses the processor), so it is taken to fall no faster than their number.

Two views of the last windows: the shorter wait is what surely stands there, the longer one what a deadline has to allow
for.
"""

from __future__ import annotations

GROUP = 64
"""About so many share a commit and a message under load, and so do not wait for one another."""
FADING = 0.85
"""What is left of an expectation after a window in which nothing was seen: perhaps because it kept everybody out."""
SMOOTHING = 0.3
FORGETTING = 0.99
"""What is left of the best rate after a window: some seconds on, a machine that became slower is known as that."""


class Expectation:
    """Told once a window what was seen in it."""

    __slots__ = ("_before_s", "_best_rate", "_newest_s", "_rate", "_reference")

    def __init__(self) -> None:
        self._rate = self._best_rate = 0.0
        self.forget()

    def forget(self) -> None:
        """Nothing is known any more, but for how much the server can do at its best."""
        self._newest_s = self._before_s = 0.0
        self._reference = GROUP

    def seen(self, took_s: float, in_flight: int, rate: float) -> None:
        """So long it took, with so many under way now; so many ended per second."""
        self._before_s, self._newest_s = self._newest_s or took_s, took_s
        self._reference = max(in_flight, GROUP)
        self._rate += SMOOTHING * (rate - self._rate)
        self._best_rate = max(self._best_rate * FORGETTING, self._rate)

    def nothing_seen(self) -> None:
        """A window passed in which none ended."""
        self._before_s *= FADING
        self._newest_s *= FADING

    def shorter_s(self, in_flight: int) -> float:
        """The wait that surely stands there; 0 where nothing is known."""
        return self._with(min(self._newest_s, self._before_s), in_flight)

    def longer_s(self, in_flight: int) -> float:
        """The wait that a deadline has to allow for; 0 where nothing is known."""
        return self._with(max(self._newest_s, self._before_s), in_flight)

    def _with(self, wait_s: float, in_flight: int) -> float:
        more = max(in_flight, GROUP) - self._reference
        each_s = wait_s / self._reference
        if more > 0 and self._best_rate > 0:
            each_s = min(each_s, 1 / self._best_rate)
        return wait_s + more * each_s
