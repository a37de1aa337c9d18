"""Whose wall clock is right: what the members' clocks say of one another.

Cristian, "Probabilistic Clock Synchronization" (1989): a reply's time is compared with the middle between the sending
of the question and the arrival of the reply, which is off by half of the round trip at most. So the sample with the
shortest round trip is the best of several.

Nobody knows the time; but the clocks of a majority that agree are taken to be right, since decisions need a majority
anyway. What is kept of a peer is its wall clock against our monotonic one, so that a step of our own wall clock shows
at once, in all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from cluster.levels import majority

SAMPLES_MAX = 8
"""Of one peer: what the heartbeats of the last second and a half said."""
ROUNDING_MS = 50.0
"""Two samples that differ by no more than this beyond their errors differ by rounding, or by a clock that is slewed."""


class Sample(NamedTuple):
    """One answer of a peer."""

    base_ms: float
    """Its wall clock less our monotonic clock."""
    error_ms: float
    """By how much that may be wrong: half of the round trip."""


class Verdict(Enum):
    """What can be said of a member's wall clock."""

    RIGHT = "within the allowed offset of a majority of the members, itself included"
    WRONG = "off by more from so many that there can be no such majority"
    OPEN = "not enough members were heard to tell"


class Judgement(NamedTuple):
    """What the clocks that were heard say."""

    verdict: Verdict
    """Of this node's wall clock."""
    off_ms: dict[int, float]
    """By slot, each peer whose wall clock differs from ours by more than is allowed: how far it is ahead of ours."""
    wrong_ms: dict[int, float]
    """The same of each peer whose wall clock is wrong, as that peer finds for itself once it has heard as much: it may
    be off from ours and still be right, and so may ours."""


class WallClocks:
    """What was heard of the members' wall clocks."""

    def __init__(self, allowed_offset_ms: float) -> None:
        self.allowed_offset_ms = allowed_offset_ms
        self._samples: dict[int, deque[Sample]] = {}

    def heard(self, slot: int, wall_ms: int, sent_s: float, received_s: float) -> None:
        """A peer told its wall clock in a reply; when that was asked for, and came, by our monotonic clock.

        An answer that was so long on its way that it says nothing about the allowed offset is left out.
        """
        sample = Sample(wall_ms - (sent_s + received_s) * 500, (received_s - sent_s) * 500)
        if sample.error_ms > self.allowed_offset_ms / 2:
            return
        samples = self._samples.setdefault(slot, deque(maxlen=SAMPLES_MAX))
        if any(abs(sample.base_ms - old.base_ms) > sample.error_ms + old.error_ms + ROUNDING_MS for old in samples):
            samples.clear()  # it has stepped since
        samples.append(sample)

    def offset_ms(self, slot: int, own_base_ms: float) -> float | None:
        """How far the peer's wall clock is ahead of ours; None when it was never heard.

        own_base_ms: our wall clock less our monotonic one.
        """
        samples = self._samples.get(slot)
        if not samples:
            return None
        return min(samples, key=lambda sample: sample.error_ms).base_ms - own_base_ms

    def judge(self, own_base_ms: float, peers: Iterable[int]) -> Judgement:
        """Whether our wall clock is right, which peers' differ from it by more than is allowed, and which are wrong.

        peers: all members but this node. Of two members that differ neither can be right, for no majority agrees.
        """
        members = 1
        clocks_ms = [0.0]
        peers_ms: dict[int, float] = {}
        for slot in peers:
            members += 1
            offset_ms = self.offset_ms(slot, own_base_ms)
            if offset_ms is not None:
                peers_ms[slot] = offset_ms
                clocks_ms.append(offset_ms)
        return Judgement(
            self._verdict(0.0, clocks_ms, members),
            {slot: ms for slot, ms in peers_ms.items() if abs(ms) > self.allowed_offset_ms},
            {slot: ms for slot, ms in peers_ms.items() if self._verdict(ms, clocks_ms, members) is Verdict.WRONG},
        )

    def _verdict(self, clock_ms: float, clocks_ms: list[float], members: int) -> Verdict:
        """Of one of these clocks, all told as how far they are ahead of ours."""
        agreeing = sum(abs(other_ms - clock_ms) <= self.allowed_offset_ms for other_ms in clocks_ms)
        if agreeing >= majority(members):
            return Verdict.RIGHT
        differing = len(clocks_ms) - agreeing
        return Verdict.WRONG if members - differing < majority(members) else Verdict.OPEN
