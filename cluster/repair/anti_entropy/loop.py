"""The loop: every node compares itself with its peers now and then, and when it is asked to.

Of two nodes the one with the lower slot compares, and brings both together, so that nothing is done twice. The other
does it when it has not been asked for a while: its own link may work where the other's does not.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack

import structlog

from cluster.protocol.messages import Unfit
from cluster.protocol.repair_messages import PartitionRepaired, RepairPartition
from cluster.repair.anti_entropy.answering import Answering, Compare, OnHigherFloor
from cluster.repair.anti_entropy.asking import Asking
from cluster.repair.anti_entropy.finding import Finding, Found
from cluster.repair.anti_entropy.ledger import Ledger, Tally
from cluster.repair.anti_entropy.mending import SECOND_LOOK_S, Mending
from cluster.repair.parts import Parts
from cluster.replica.replica import Respond
from cluster.tasks import safely

INTERVAL_S = 5.0
"""Between two comparisons with a peer, unless it is set."""
SILENT_TURNS, SILENT_S = 2.5, 5.0
"""After so many intervals and so long without being asked by a peer of a lower slot, this node asks it."""
IDLE_TURNS_MAX = 12
"""A peer with which nothing could be brought together, though keys differ, is left alone for up to so many turns.

It may ask by itself meanwhile, as a peer that is silent: what can't be sent may be fetched."""
ATTEMPTS_IN_VAIN = 3
"""After so many comparisons in a row that brought nothing together, a repair that was asked for gives up."""
log = structlog.get_logger()


class AntiEntropy:
    """One node's."""

    def __init__(self, parts: Parts, interval_s: float, on_higher_floor: OnHigherFloor) -> None:
        """on_higher_floor(partition, floor) is told when another replica's floor is above this node's."""
        self._parts, self._interval_s = parts, interval_s
        self._clock, self._random = parts.context.clock, parts.context.random
        self.ledger = Ledger(parts.topology, parts.slot)
        self._answering = Answering(parts, self.ledger, on_higher_floor)
        self._finding = Finding(parts, self.ledger, on_higher_floor)
        self._mending = Mending(parts)
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By the peer's slot: one comparison at a time."""
        self._under_way: set[int] = set()
        self._idle_turns: dict[int, int] = {}
        self._skip: dict[int, int] = {}
        self._began_s = self._clock.monotonic_s()

    def handle(self, request: Compare | RepairPartition, respond: Respond, token: int) -> None:
        """Answers a peer's step of a comparison, or begins to repair a partition; respond(token, reply) follows."""
        if isinstance(request, RepairPartition):
            self._parts.tasks.spawn(self._repair(request, respond, token), "repair a partition")
        else:
            self._answering.handle(request, respond, token)

    # -- by itself ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Compares, for ever. A slow peer holds up nobody else."""
        self._began_s = self._clock.monotonic_s()
        while True:
            await asyncio.sleep(self._interval_s * (0.75 + self._random.random() / 2))
            for member in self._parts.topology().members:
                if member.slot != self._parts.slot:
                    safely(self._take_turn, member.slot)

    def _take_turn(self, slot: int) -> None:
        if slot in self._under_way or self._parts.fitness.bars or not self._parts.context.roster.is_readable(slot):
            return
        if slot < self._parts.slot and not self._is_silent(slot):
            return
        if self._skip.get(slot, 0) > 0:
            self._skip[slot] -= 1
            return
        self._under_way.add(slot)
        self._parts.tasks.spawn(self._compare_with(slot), "compare with a peer")

    def _is_silent(self, slot: int) -> bool:
        """Whether that peer does not compare itself with this node, though it is its turn."""
        last_s = self.ledger.asked_s.get(slot, self._began_s)
        return self._clock.monotonic_s() - last_s > SILENT_TURNS * self._interval_s + SILENT_S

    async def _compare_with(self, slot: int) -> None:
        """Goes on as long as that brings anything together."""
        try:
            while await self._compare_once(slot):
                pass
        finally:
            self._under_way.discard(slot)

    async def _compare_once(self, slot: int) -> bool:
        """Whether records have moved, so that it is worth looking again at once."""
        tally = Tally()
        asking = Asking(self._parts.context, slot, self._parts.slot, tally)
        async with self._locks[slot]:
            try:
                found = await self._finding.find(asking, self.ledger.shared_with(slot))
                if found is None:
                    return False
                left: set[bytes] = set()
                if found.differences:
                    await asyncio.sleep(SECOND_LOOK_S)
                    left = await self._mending.mend(asking, found.differences)
                self._note(slot, found, tally, left)
            finally:
                self.ledger.totals.add(tally)
        self._idle_turns[slot] = 0 if tally.moved or not left else self._idle_turns.get(slot, 0) + 1
        self._skip[slot] = min(1 << self._idle_turns[slot], IDLE_TURNS_MAX + 1) - 1
        return tally.moved > 0

    def _note(self, slot: int, found: Found, tally: Tally, left: set[bytes]) -> None:
        partition_of = self._parts.trees.partition_of
        differing = found.left_out | {partition_of(key) for key in tally.differed | left}
        self.ledger.compared(slot, differing, self._clock.monotonic_s())
        if tally.differed:
            log.info(
                "replicas differed",
                peer=self._parts.topology().by_slot[slot].name,
                keys=len(tally.differed),
                fetched=tally.fetched,
                sent=tally.sent,
                cleared=tally.cleared,
            )

    # -- when asked --------------------------------------------------------------------------------------------

    async def _repair(self, request: RepairPartition, respond: Respond, token: int) -> None:
        partition, sets = request.partition, self._parts.topology().replica_slots
        reason = self._parts.fitness.why_no_reads()
        if not 0 <= partition < len(sets) or self._parts.slot not in sets[partition]:
            reason = f"this node holds no replica of partition {partition}"
        if reason is not None:
            respond(token, Unfit(reason))
            return
        repair = _Repair(self._parts, self._finding, self._mending, partition, self.ledger.others(partition))
        try:
            async with asyncio.timeout(request.budget_ms / 1000), AsyncExitStack() as locks:
                for slot in sorted(repair.askings):
                    await locks.enter_async_context(self._locks[slot])
                await repair.run()
        except TimeoutError:
            pass  # what was found and done until then is told
        finally:
            self.ledger.totals.add(repair.tally)
        respond(token, repair.report())


class _Repair:
    """One partition, brought together on all its replicas."""

    def __init__(self, parts: Parts, finding: Finding, mending: Mending, partition: int, others: Sequence[int]) -> None:
        self._finding, self._mending, self._partition, self._slot = finding, mending, partition, parts.slot
        self.tally = Tally()
        self.askings = {slot: Asking(parts.context, slot, parts.slot, self.tally) for slot in others}
        self._left: set[bytes] = set()
        self._unreachable: AbstractSet[int] = set(self.askings)

    async def run(self) -> None:
        """Until nothing differs for longer than a moment, or nothing can be done about it."""
        in_vain = 0
        while in_vain < ATTEMPTS_IN_VAIN:
            moved = self.tally.moved
            if await self._compare_once():
                return
            in_vain = 0 if self.tally.moved > moved else in_vain + 1

    async def _compare_once(self) -> bool:
        """Whether nothing differs any more."""
        found: dict[int, Found] = {}
        for slot, asking in self.askings.items():
            result = await self._finding.find(asking, [self._partition], looks_max=1)  # mending looks again
            if result is not None:
                found[slot] = result
        self._unreachable = self.askings.keys() - found.keys()
        self._left = {one.key for result in found.values() for one in result.differences}
        if not self._left:
            return not self._unreachable and not any(result.left_out for result in found.values())
        await asyncio.sleep(SECOND_LOOK_S)
        left: set[bytes] = set()
        for slot, result in found.items():
            left |= await self._mending.mend(self.askings[slot], result.differences)
        self._left = left
        return False

    def report(self) -> PartitionRepaired:
        """What was found and done so far."""
        tally = self.tally
        return PartitionRepaired(
            slot=self._slot,
            differed=len(tally.differed | self._left),
            fetched=tally.fetched,
            sent=tally.sent,
            left=len(self._left),
            bytes_moved=tally.comparing_bytes + tally.record_bytes,
            unreachable=sorted(self._unreachable),
        )
