"""The watch over the wall clocks: this node's own is followed or barred, and peers whose clock is off are refused.

A node whose wall clock is wrong stamps its weak writes, and dates what expires, with a time that is not. So it takes no
writes until it is right again, which it finds out by itself; and its peers, who see it too, take none from it. Which of
the members' clocks are right: membership/wall_clocks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from cluster.ballot_clock import BallotClock
from cluster.clock import Clock
from cluster.membership.fitness import Bar, Fitness
from cluster.membership.topology import Topology
from cluster.membership.wall_clocks import Judgement, Verdict, WallClocks

log = structlog.get_logger()


class WallWatch:
    """One node's view of the members' wall clocks, kept up by its heartbeats."""

    def __init__(
        self,
        clock: Clock,
        ballots: BallotClock,
        fitness: Fitness,
        topology: Callable[[], Topology],
        own_slot: int,
        allowed_offset_s: float,
    ) -> None:
        self._clock, self._ballots, self._fitness = clock, ballots, fitness
        self._topology, self._own_slot, self._allowed_offset_s = topology, own_slot, allowed_offset_s
        self._clocks = WallClocks(allowed_offset_s * 1000)
        self._judgement = Judgement(Verdict.OPEN, {}, {})
        self._refused: dict[int, str] = {}
        self._has_wall_stepped = False

    def heard(self, slot: int, wall_ms: int, sent_s: float) -> None:
        """A peer has answered the heartbeat that was sent at that moment of the monotonic clock."""
        self._clocks.heard(slot, wall_ms, sent_s, self._clock.monotonic_s())
        self._judge()

    def look(self) -> None:
        """Looks at this node's own clocks; to be called with every beat."""
        self._judge()
        self._follow()

    @property
    def is_barred(self) -> bool:
        """Whether this node's own wall clock is off."""
        return self._judgement.verdict is Verdict.WRONG

    def seen(self, slot: int) -> Bar:
        """What this node sees against a peer, whatever that says of itself."""
        return Bar.BAD_CLOCK if slot in self._refused else Bar(0)

    def why_refuse(self, slot: int) -> str | None:
        """Why nothing is taken from that peer now; None when its clock is right, or nobody can tell."""
        return self._refused.get(slot)

    def offsets_s(self) -> dict[int, float]:
        """How far each peer's wall clock is ahead of ours, in seconds, by slot, of those that were heard."""
        base_ms = self._base_ms()
        offsets = {slot: self._clocks.offset_ms(slot, base_ms) for slot in self._peers()}
        return {slot: offset_ms / 1000 for slot, offset_ms in offsets.items() if offset_ms is not None}

    def _judge(self) -> None:
        was_barred = self.is_barred
        self._judgement = judgement = self._clocks.judge(self._base_ms(), self._peers())
        if self.is_barred:
            reason = self._reason(judgement.off_ms)
            self._fitness.bar(Bar.BAD_CLOCK, reason)
            if not was_barred:
                log.error("this node takes no writes: its wall clock is off", reason=reason)
        elif was_barred:
            self._fitness.clear(Bar.BAD_CLOCK)
            log.warning("this node's wall clock is right again")
        self._refuse(judgement)

    def _refuse(self, judgement: Judgement) -> None:
        before, by_slot = self._refused, self._topology().by_slot
        self._refused = {
            slot: f"the wall clock of {by_slot[slot].name} is off: {_shown(ms)} this node's, and no majority of the "
            f"members is within {self._allowed_offset_s:g} s of it"
            for slot, ms in judgement.wrong_ms.items()
        }
        for slot in self._refused.keys() - before.keys():
            log.warning("a peer is refused: its wall clock is off", reason=self._refused[slot])
        for slot in before.keys() - self._refused.keys():
            log.warning("a peer is no longer refused for its wall clock", peer=by_slot[slot].name)

    def _follow(self) -> None:
        is_shared = self._judgement.verdict is Verdict.RIGHT
        step_s = self._ballots.follow_wall(self._allowed_offset_s, is_shared=is_shared)
        is_far = abs(step_s) > self._allowed_offset_s
        if is_far and is_shared:
            log.warning("the wall clock stepped, and a majority agrees with it; followed", step_s=round(step_s, 3))
        elif is_far and not self._has_wall_stepped:
            log.warning("the wall clock stepped; ballots go on from before", step_s=round(step_s, 3))
        self._has_wall_stepped = is_far and not is_shared

    def _reason(self, off_ms: dict[int, float]) -> str:
        names = self._topology().by_slot
        said = ", ".join(f"{_shown(-ms)} {names[slot].name}" for slot, ms in sorted(off_ms.items()))
        nobody = " Of two clocks nobody can tell which is right." if len(names) == 2 else ""
        return (
            f"this node's wall clock is off: {said}; {self._allowed_offset_s:g} s are allowed.{nobody} "
            "It takes no writes until its clock is right (look after NTP), and needs no restart then"
        )

    def _base_ms(self) -> float:
        return self._clock.wall_ms() - self._clock.monotonic_s() * 1000

    def _peers(self) -> Iterable[int]:
        return (member.slot for member in self._topology().members if member.slot != self._own_slot)


def _shown(ahead_ms: float) -> str:
    return f"{abs(ahead_ms) / 1000:.1f} s {'ahead of' if ahead_ms > 0 else 'behind'}"
