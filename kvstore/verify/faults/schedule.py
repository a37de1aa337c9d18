"""Which fault acts when: drawn from a seed before anything begins, and told.

Two lanes run side by side. In the one, nodes are hurt, one fault at a time and each healed before the next, for
three nodes can do without one. In the other, links and clocks are made worse. Each fault comes once before any comes
again, as far as there is time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kvstore.verify.faults.clocks import ClockDrift, ClockJump
from kvstore.verify.faults.cluster import ClusterFailed, LocalCluster
from kvstore.verify.faults.disk import DiskFails, DiskFull
from kvstore.verify.faults.fault import Fault, NotNow
from kvstore.verify.faults.network import Bridge, Duplicate, Halves, Isolate, Lossy, OneWay, Reorder, Slow
from kvstore.verify.faults.processes import Kill, LostFolder, Pause, RollingRestart
from kvstore.verify.history import Outcome
from kvstore.verify.workloads.worker import Effort

HURTS: tuple[type[Fault], ...] = (
    Kill, Pause, Isolate, Halves, Bridge, OneWay, RollingRestart, LostFolder, DiskFull, DiskFails,
)  # fmt: skip
WORSENS: tuple[type[Fault], ...] = (Slow, Lossy, Duplicate, Reorder, ClockJump, ClockDrift)
KINDS = {kind.name: kind for kind in (*HURTS, *WORSENS)}
GROUPS = {
    "partition": ("isolate", "halves", "bridge", "one-way"),
    "clock": ("clock-jump", "clock-drift"),
    "disk": ("disk-full", "disk-fails"),
    "all": tuple(KINDS),
    "none": (),
}
SHARE = 0.45
"""Of its part of the time a fault acts for so much; then the cluster heals."""
LONGEST_S = 5.0
GAP_S = 0.7
LOOK_EVERY_S = 0.25
MORE_LOOKS = 12
"""After its time, for a fault that was not seen yet: some are slow to show."""
SLOW_S, SLOW_TIMES = 0.2, 5
"""A call is slowed that takes longer than this, and than so many times what is usual."""


@dataclass
class Acting:
    """One fault, and what was seen of it."""

    fault: Fault
    for_s: float
    begin_s: float | None = None
    end_s: float | None = None
    seen: str | None = None
    why_not: str | None = None
    """Why it did not begin, or what went wrong."""
    failed: int = 0
    """Calls that failed or whose end is unknown, while it acted; of its victims' own clients where it has victims."""
    slowed: int = 0

    @property
    def name(self) -> str:
        """Its kind."""
        return self.fault.name

    @property
    def has_begun(self) -> bool:
        """Whether it was tried at all."""
        return self.begin_s is not None and self.why_not is None

    @property
    def has_acted(self) -> bool:
        """Whether nodes or links have shown it, or clients of its victims have felt it."""
        return self.has_begun and (self.seen is not None or (bool(self.fault.victims) and self.failed > 0))


@dataclass
class Schedule:
    """The faults of one run."""

    cluster: LocalCluster
    kinds: Sequence[str]
    time_s: float
    seed: int
    clock: Callable[[], float] = time.monotonic
    actings: list[Acting] = field(init=False)
    acting_now: list[Acting] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._lanes = [self._draw(kinds) for kinds in (HURTS, WORSENS)]
        self.actings = [acting for lane in self._lanes for acting in lane]

    async def run(self, say: Callable[[str], None]) -> None:
        """All of it. Raises ClusterFailed when nodes do not come back."""
        end_s = self.clock() + self.time_s
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(self._run_lane(lane, end_s, say))

    def missed(self) -> list[str]:
        """Kinds that were wished for and never began, or never were seen to act."""
        acted = {acting.name for acting in self.actings if acting.has_acted}
        return [kind for kind in self.kinds if kind not in acted]

    def count(self, efforts: Iterable[Effort]) -> None:
        """Counts what calls felt of each fault."""
        efforts = list(efforts)
        limit_s = slow_limit_s(efforts)
        for acting in self.actings:
            if acting.begin_s is None or acting.end_s is None:
                continue
            felt = [
                effort
                for effort in efforts
                if effort.start_s < acting.end_s
                and effort.end_s > acting.begin_s
                and (not acting.fault.victims or effort.node in acting.fault.victims)
            ]
            acting.failed = sum(effort.outcome in {Outcome.FAIL, Outcome.UNKNOWN} for effort in felt)
            acting.slowed = sum(effort.end_s - effort.start_s > limit_s for effort in felt)

    def _draw(self, kinds: Sequence[type[Fault]]) -> list[Acting]:
        """A lane: each kind once, in any order, and again while there is time."""
        chosen = [kind for kind in kinds if kind.name in self.kinds]
        dice = random.Random(f"{self.seed}/{','.join(kind.name for kind in chosen)}")
        drawn: list[Acting] = []
        if not chosen:
            return drawn
        part_s = min(self.time_s / len(chosen), LONGEST_S / SHARE)
        left_s = self.time_s
        while left_s > 0:
            for kind in dice.sample(chosen, len(chosen)):
                for_s = max(kind.minimum_s, part_s * SHARE * (0.7 + 0.6 * dice.random()))
                drawn.append(Acting(kind(self.cluster, dice), round(for_s, 1)))
                left_s -= part_s
        return drawn

    async def _run_lane(self, lane: Sequence[Acting], end_s: float, say: Callable[[str], None]) -> None:
        for acting in lane:
            await asyncio.sleep(GAP_S)
            if self.clock() + acting.for_s > end_s + GAP_S and self._has_had(acting.name):
                continue
            if self.clock() > end_s:
                acting.why_not = "there was no time left"
                continue
            await self._run_one(acting, say)

    def _has_had(self, kind: str) -> bool:
        return any(acting.name == kind and acting.has_begun for acting in self.actings)

    async def _run_one(self, acting: Acting, say: Callable[[str], None]) -> None:
        fault = acting.fault
        acting.begin_s = self.clock()
        self.acting_now.append(acting)
        try:
            await fault.begin()
            await self._watch(acting)
            await fault.end()
        except NotNow as reason:
            acting.why_not = str(reason)
        finally:
            self.acting_now.remove(acting)
            acting.end_s = self.clock()
        say(f"{fault.says}: {acting.seen or acting.why_not or 'nothing was seen of it'}")
        if type(fault) in HURTS and acting.why_not is None:
            await self._wait_well(acting)

    async def _watch(self, acting: Acting) -> None:
        assert acting.begin_s is not None
        end_s = self.clock() + acting.for_s
        looks_left = MORE_LOOKS
        while self.clock() < end_s or (acting.seen is None and looks_left > 0):
            looks_left -= self.clock() >= end_s
            acting.seen = await acting.fault.look() or acting.seen
            await asyncio.sleep(LOOK_EVERY_S)

    async def _wait_well(self, acting: Acting) -> None:
        """Who was hurt is ready before the next is hurt, unless links and clocks keep it from that."""
        try:
            await self.cluster.wait_ready(list(acting.fault.victims) or None)
        except ClusterFailed as failed:
            if "ended by itself" in str(failed):
                raise
            acting.why_not = None  # what comes next is told of it; the liveness phase is what judges


def slow_limit_s(efforts: Sequence[Effort]) -> float:
    """How long a call takes that something has slowed."""
    usual = sorted(effort.end_s - effort.start_s for effort in efforts if effort.outcome is Outcome.OK)
    return max(SLOW_S, SLOW_TIMES * usual[len(usual) // 2]) if usual else SLOW_S


def chosen_kinds(text: str) -> list[str]:
    """The kinds that `kill,partition,...` names, in the order of KINDS. Raises ValueError."""
    chosen: set[str] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word not in KINDS and word not in GROUPS:
            raise ValueError(f"{word!r} is no fault; there are {', '.join((*KINDS, *GROUPS))}")
        chosen |= set(GROUPS.get(word, (word,)))
    return [kind for kind in KINDS if kind in chosen]
