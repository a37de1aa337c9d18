"""Who seems to be alive: a guide for routing, never a part of safety.

Hayashibara et al., "The Phi Accrual Failure Detector" (2004), with exponential intervals as Cassandra has it: phi
grows with the silence, measured in the mean time between signs of life; phi 8 says "a silence like this comes once
in 10^8". Slow machines have longer intervals and so are given more time.
"""

from __future__ import annotations

from math import log10

HEARTBEAT_INTERVAL_S = 0.2
"""One small message per peer and interval; also the first guess of the mean."""
PHI_SUSPECT = 4.0
"""A silence of about nine mean intervals (two seconds at rest). Cassandra waits for 8; we only lose a detour."""
SILENCE_S_MIN = 1.0
"""Never suspect sooner: a collection of garbage or a busy disk is no death."""
MEAN_S_MAX = 1.0
"""However slow a peer was, it is suspected after some ten seconds."""
_WEIGHT = 0.1
"""Of the newest interval in the running mean."""
_LOG10_E = log10(2.718281828459045)


class FailureDetector:
    """Signs of life per slot."""

    def __init__(self) -> None:
        self._heard_s: dict[int, float] = {}
        self._mean_s: dict[int, float] = {}

    def heard(self, slot: int, now_s: float) -> None:
        """A sign of life from that node, at that moment of the monotonic clock."""
        last = self._heard_s.get(slot)
        if last is not None:
            mean = self._mean_s.get(slot, HEARTBEAT_INTERVAL_S)
            mean += _WEIGHT * (now_s - last - mean)
            self._mean_s[slot] = min(max(mean, HEARTBEAT_INTERVAL_S), MEAN_S_MAX)
        self._heard_s[slot] = now_s

    def gone(self, slot: int) -> None:
        """The connection broke: nothing is known until it is heard again."""
        self._heard_s.pop(slot, None)
        self._mean_s.pop(slot, None)

    def phi(self, slot: int, now_s: float) -> float:
        """How unlikely the present silence is, as a power of ten; infinite when never heard."""
        last = self._heard_s.get(slot)
        if last is None:
            return float("inf")
        return _LOG10_E * (now_s - last) / self._mean_s.get(slot, HEARTBEAT_INTERVAL_S)

    def is_alive(self, slot: int, now_s: float) -> bool:
        """Whether it is worth sending to."""
        last = self._heard_s.get(slot)
        if last is None:
            return False
        return now_s - last < SILENCE_S_MIN or self.phi(slot, now_s) < PHI_SUSPECT
