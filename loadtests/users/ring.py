"""Which node a user asks: the one that its request is best sent to, else its own, as long as that answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf

AWAY_S = 2.0
"""A node that failed is asked again after that."""


class Ring:
    """The nodes, beginning with the user's own."""

    def __init__(self, nodes: Sequence[str], home: int, now_s: Callable[[], float] = time.monotonic) -> None:
        """home: any number; the users' numbers spread them over the nodes."""
        first = home % len(nodes)
        self._nodes = [*nodes[first:], *nodes[:first]]
        self._away_until_s = dict.fromkeys(self._nodes, 0.0)
        self._now_s = now_s

    def current(self, best: str | None = None) -> str:
        """The best if it is not away, else the first that is not; when all are, the one that has been for longest."""
        now_s = self._now_s()
        if best is not None and self._away_until_s.get(best, inf) <= now_s:
            return best
        here = (node for node in self._nodes if self._away_until_s[node] <= now_s)
        return next(here, min(self._nodes, key=lambda node: self._away_until_s[node]))

    def failed(self, node: str) -> None:
        """It did not answer."""
        self._away_until_s[node] = self._now_s() + AWAY_S
