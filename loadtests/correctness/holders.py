"""No two holders: of a lock's leases no two overlap, and later ones have higher fences.

A holder surely holds from the answer to its acquire until the ttl has passed since it *sent* the last request that
got or renewed the lease, or until it sends the release. These moments are of one machine's monotonic clock, which all
its processes share; holders on different machines are compared by nothing here (their fences meet at the store).
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from platform import node

from msgspec import Struct

KEPT_MAX = 5_000
"""Leases of one lock that are remembered; reports come within seconds, so far fewer are needed."""


class Hold(Struct, frozen=True):
    """A lease, as its holder can be sure of it."""

    machine: str
    lock: str
    fence: int
    begin_s: float
    end_s: float


class Holders:
    """Takes leases in any order. All that were taken so far agree with each other, or violations were told."""

    def __init__(self) -> None:
        self._leases: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
        self.count = 0

    def take(self, hold: Hold) -> list[str]:
        """What contradicts the leases known so far. One that was over before it was answered proves nothing."""
        self.count += 1
        if hold.end_s <= hold.begin_s:
            return []
        leases = self._leases.setdefault((hold.machine, hold.lock), [])
        lease = (hold.begin_s, hold.end_s, hold.fence)
        at = bisect_left(leases, lease)
        found = []
        if at > 0:
            found += _contradictions(hold.lock, leases[at - 1], lease)
        if at < len(leases):
            found += _contradictions(hold.lock, lease, leases[at])
        leases.insert(at, lease)
        del leases[:-KEPT_MAX]
        return found


def _contradictions(lock: str, first: tuple[float, float, int], second: tuple[float, float, int]) -> list[str]:
    """Of two leases that follow one another."""
    found = []
    if second[0] < first[1]:
        both_s = min(first[1], second[1]) - second[0]
        found.append(f"two holders: {lock} under fences {first[2]} and {second[2]} at once, for {both_s:.3f} s")
    if second[2] <= first[2]:
        found.append(f"fences out of order: {lock} was granted under fence {second[2]} after {first[2]}")
    return found


def this_machine() -> str:
    """Who shares this monotonic clock: the boot, where the system tells it, else the name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return node()
