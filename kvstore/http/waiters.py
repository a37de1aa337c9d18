"""Those who wait for a lock: a few minutes each, doing nothing, so they are counted apart from requests under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.pressure.admission import Admission
from kvstore.http.outgoing.problems import Problem, overloaded

WAITERS_MAX = 10_000
"""Who waits costs its connection and some kilobytes. Beyond this the last in line would wait longer than anyone may."""
CONNECTIONS_SHARE = 0.75
"""The share of a node's connections that may wait. Were all of them to, no holder could get in to release."""


def waiters_max(connections_max: int) -> int:
    """How many may wait at a node with so many connections."""
    return min(WAITERS_MAX, int(connections_max * CONNECTIONS_SHARE))


class Waiters:
    """How many wait here, and whether they still may."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._is_stopping = False
        self.count = 0
        self.admission: Admission | None = None
        """Of requests about locks: who waits is none that is under way."""

    def stop(self) -> None:
        """From now on nobody may wait here."""
        self._is_stopping = True

    @contextmanager
    def place(self) -> Iterator[None]:
        """One place to wait, for as long as the block lasts. Raises Problem quorum-unavailable or overloaded."""
        if self._is_stopping:
            detail = "This node is stopping, and nobody can wait here any more; nothing was done. Ask another node."
            raise Problem("quorum-unavailable", detail, outcome="not-applied")
        if self.count >= self._count_max:
            raise overloaded(f"{self._count_max:,} wait for locks at this node already; nothing was done. Ask another.")
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        self.count += more
        if self.admission is not None:
            self.admission.in_flight -= more
