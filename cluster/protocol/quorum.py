"""Counting votes: pending, achieved or impossible.

Gifford, "Weighted Voting for Replicated Data" (1979), with one vote per replica. A vote has three answers, not
two: that it can't be won any more is known as soon as too few votes are left, long before any timeout. Of several
candidates at most one has a majority, because two majorities of one replica set share a replica.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """How a vote stands."""

    PENDING = "pending"
    ACHIEVED = "achieved"
    IMPOSSIBLE = "impossible"


class Quorum:
    """Counts the answers of `asked` replicas of which `needed` must grant."""

    __slots__ = ("granted", "needed", "outstanding")

    def __init__(self, needed: int, asked: int) -> None:
        self.needed = needed
        self.outstanding = asked
        self.granted = 0

    def add(self, grants: bool) -> Verdict:
        """Counts one more answer; a refusal and a silence count the same."""
        self.outstanding -= 1
        self.granted += grants
        return self.verdict

    @property
    def verdict(self) -> Verdict:
        """How the vote stands now."""
        if self.granted >= self.needed:
            return Verdict.ACHIEVED
        if self.granted + self.outstanding < self.needed:
            return Verdict.IMPOSSIBLE
        return Verdict.PENDING
