"""How long requests took, and what share of them took no longer."""

from __future__ import annotations

from array import array


class Latencies:
    """Every single one, so that percentiles are exact; eight bytes each."""

    def __init__(self) -> None:
        self._seconds = array("d")
        self._is_sorted = True

    def __len__(self) -> int:
        return len(self._seconds)

    def add(self, seconds: float) -> None:
        """One more."""
        self._seconds.append(seconds)
        self._is_sorted = False

    def take(self, others: Latencies) -> None:
        """All of the others' too."""
        self._seconds.extend(others._seconds)
        self._is_sorted = False

    def percentile_ms(self, share: float) -> float:
        """The least that at least this share of them does not exceed (nearest rank), in milliseconds; 0 of none."""
        if not self._seconds:
            return 0.0
        if not self._is_sorted:
            self._seconds = array("d", sorted(self._seconds))
            self._is_sorted = True
        rank = -int(-share * len(self._seconds) // 1)  # rounded up
        return 1000 * self._seconds[min(max(rank, 1), len(self._seconds)) - 1]
