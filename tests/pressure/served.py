"""A server that exists on paper: one request after another, each in its time, behind an Admission."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from cluster.pressure.admission import Admission


@dataclass
class Served:
    """Whom the admission let in, and when each was through."""

    admission: Admission
    rate: float
    """Requests per second that the server does."""
    took_s: list[tuple[float, float]] = field(default_factory=list)
    """(when it came, how long it took) of those that are through."""
    refused_s: list[float] = field(default_factory=list)
    """When those came that were turned away."""
    _free_s: float = 0.0
    _under_way: list[tuple[float, float]] = field(default_factory=list)

    def arrive(self, now_s: float) -> bool:
        """One comes; whether it is let in."""
        self.pass_until(now_s)
        if self.admission.is_full(now_s):
            self.refused_s.append(now_s)
            return False
        self.admission.begin()
        self._free_s = max(self._free_s, now_s) + 1 / self.rate
        heappush(self._under_way, (self._free_s, now_s))
        return True

    def pass_until(self, now_s: float) -> list[float]:
        """Time passes; the moments at which some were through."""
        through = []
        while self._under_way and self._under_way[0][0] <= now_s:
            end_s, came_s = heappop(self._under_way)
            self.admission.end(end_s - came_s, True)
            self.took_s.append((came_s, end_s - came_s))
            through.append(end_s)
        return through

    def arrive_all(self, moments_s: Iterable[float]) -> None:
        """They come at these moments."""
        for moment_s in moments_s:
            self.arrive(moment_s)

    def closed_loop(self, clients: int, began_s: float, seconds: float) -> None:
        """So many clients send their next request when the last is answered; one that is refused, a second later."""
        coming = [began_s] * clients
        while (coming and coming[0] < began_s + seconds) or self._under_way:
            if self._under_way and (not coming or self._under_way[0][0] <= coming[0]):
                for end_s in self.pass_until(self._under_way[0][0]):
                    if end_s < began_s + seconds:
                        heappush(coming, end_s)
            elif not self.arrive(came_s := heappop(coming)):
                heappush(coming, came_s + 1)


def steadily(rate: float, began_s: float, seconds: float) -> list[float]:
    """The moments of an open loop."""
    return [began_s + number / rate for number in range(int(rate * seconds))]
