"""Raising floors: every node does it now and then for the partitions of which it is the first fit replica.

    gate       all members     nothing at or below the floor is begun any more, and nothing as old is owed to anybody
    compare    all replicas    no key on which they differ is as old anywhere
    confirm    all members     all that has held until now, and from now on replicas refuse what is as old
    purge      all replicas    what lies below goes

Two nodes that both do it harm nobody: the gate that is put up later takes the place of the other. One that dies half
way leaves replicas with the floor and replicas with a seal; these adopt the floor when roots are compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from cluster.protocol.messages import Answer, Lost, Request, Unfit
from cluster.protocol.repair_messages import Confirm, Gate, Gated, Purge, Purged
from cluster.repair.anti_entropy.asking import Asking
from cluster.repair.anti_entropy.finding import Finding
from cluster.repair.anti_entropy.ledger import Tally
from cluster.repair.floors.criterion import holds_back, shortest_purge_after_s
from cluster.repair.parts import Parts
from storage.ballot import EPOCH_MS, ballot_of, unix_ms_of
from storage.engine import StorageError

PURGE_AFTER_S = 180.0
"""How old a deletion is when it is purged, unless it is set."""
PASS_S = 10.0
"""Between two passes over the partitions."""
ANSWER_S = 5.0
PURGED_S = 30.0
"""A replica may have thousands of rows to drop before it answers."""
ASK_OTHERS_EVERY = 30
"""A partition of which this node has nothing to purge may be different elsewhere: it is asked about in one of so many
passes."""
log = structlog.get_logger()


class _HeldBack(Exception):
    """The floor can't be raised this time; says why."""


class Floors:
    """One node's part in deleting for good."""

    def __init__(self, parts: Parts, finding: Finding, purge_after_s: float, clock_offset_max_s: float) -> None:
        """Raises ValueError when deletions would be purged sooner than is sensible."""
        shortest_s = shortest_purge_after_s(clock_offset_max_s)
        if purge_after_s < shortest_s:
            raise ValueError(f"deletions must be at least {shortest_s:g} s old when they are purged")
        self._parts, self._finding, self._purge_after_s = parts, finding, purge_after_s
        self._passes = 0
        self.held_back_by: dict[int, str] = {}
        """Partition -> why its floor could not be raised, when that was last tried; only those led by this node."""

    async def run(self) -> None:
        """Raises floors, for ever."""
        while True:
            await asyncio.sleep(PASS_S * (0.75 + self._parts.context.random.random() / 2))
            try:
                await self.pass_over()
            except Exception:
                log.exception("a pass over the floors failed")

    async def pass_over(self) -> None:
        """Looks once at all partitions of which this node is the first fit replica."""
        parts = self._parts
        parts.replica.gates.expire(parts.context.clock.monotonic_s())
        self._passes += 1
        asks_others = self._passes % ASK_OTHERS_EVERY == 0
        purged = 0
        for partition, slots in enumerate(parts.topology().replica_slots):
            leader = next((slot for slot in slots if parts.context.roster.is_writable(slot)), None)
            if leader != parts.slot:
                self.held_back_by.pop(partition, None)
                continue
            try:
                purged += await self._raise(partition, slots, asks_others)
                self.held_back_by.pop(partition, None)
            except _HeldBack as why:
                self.held_back_by[partition] = str(why)
            except StorageError as error:
                self.held_back_by[partition] = str(error)
                log.error("a floor can't be raised", partition=partition, error=str(error))
        if purged:
            log.info("deleted for good", rows=purged)

    def age_s(self, partition: int) -> float | None:
        """How long ago lies what the floor of a partition covers; None where nothing was purged yet."""
        floor = self._parts.marks.floors.get(partition)
        return None if floor is None else max(self._parts.context.ballots.now_ms() - unix_ms_of(floor), 0) / 1000

    def _floor(self) -> int | None:
        """The ballot to raise a floor to: no two nodes ever take the same."""
        ms = self._parts.context.ballots.now_ms() - int(self._purge_after_s * 1000)
        return ballot_of(ms, 0, self._parts.slot) if ms > EPOCH_MS else None

    async def _raise(self, partition: int, slots: tuple[int, ...], asks_others: bool) -> int:
        """Raises the floor of one partition, if there is anything to purge; how many rows went here.

        Raises _HeldBack.
        """
        parts, floor = self._parts, self._floor()
        if floor is None or floor <= parts.marks.floors.get(partition, 0):
            return 0
        places = parts.trees.places_of(partition)
        if not asks_others and not await parts.engine.purgeable(*places, floor, unix_ms_of(floor)):
            return 0
        members = [member.slot for member in parts.topology().members]
        self._refuse_without(members)
        if not await self._gate(members, Gate(partition, floor)):
            return 0
        for slot in slots:
            if slot != parts.slot:
                await self._compare(slot, partition, floor)
        await self._gate(members, Confirm(partition, floor))
        return await self._purge(slots, Purge(partition, floor))

    def _refuse_without(self, members: Iterable[int]) -> None:
        away = [self._name(slot) for slot in members if not self._parts.context.roster.is_writable(slot)]
        if away:
            raise _HeldBack(f"{', '.join(away)} can't be asked: away, or unfit")

    async def _gate(self, members: list[int], request: Gate | Confirm) -> int:
        """Puts the gate up everywhere, or asks whether it has held; how many rows would go."""
        purgeable = 0
        for slot, answer in (await self._ask(members, request, ANSWER_S)).items():
            if not isinstance(answer, Gated):
                raise _HeldBack(f"{self._name(slot)} {_words(answer)}")
            if not answer.is_clear:
                raise _HeldBack(f"{self._name(slot)}: {answer.reason}")
            purgeable += answer.purgeable
        return purgeable

    async def _compare(self, slot: int, partition: int, floor: int) -> None:
        """Compares this replica with another, down to the last key."""
        parts, name = self._parts, self._name(slot)
        found = await self._finding.find(Asking(parts.context, slot, parts.slot, Tally()), [partition])
        if found is None:
            raise _HeldBack(f"{name} can't be compared with")
        old = [one for one in found.differences if holds_back([one.here, one.there], floor)]
        if old:
            raise _HeldBack(f"{name} differs in {len(old)} keys that are as old as the floor")
        if found.left_out:
            raise _HeldBack(f"{name} differs too much to be compared to the end")

    async def _purge(self, slots: tuple[int, ...], purge: Purge) -> int:
        """Who does not answer has kept its seal, and will hear of the floor when roots are compared."""
        rows = 0
        for slot, answer in (await self._ask(slots, purge, PURGED_S)).items():
            if not isinstance(answer, Purged):
                log.info("a replica purges later", peer=self._name(slot), partition=purge.partition, why=_words(answer))
            elif slot == self._parts.slot:
                rows = answer.rows
        return rows

    async def _ask(self, slots: Iterable[int], request: Request, timeout_s: float) -> dict[int, Answer]:
        """Sends one request to all of them at once; what has not come in time is lost."""
        loop = asyncio.get_running_loop()
        answers: dict[int, asyncio.Future[Answer]] = {slot: loop.create_future() for slot in slots}

        def on_answer(slot: int, answer: Answer) -> None:
            if not answers[slot].done():
                answers[slot].set_result(answer)

        for slot in answers:
            self._parts.context.transport.send(slot, request, on_answer)
        await asyncio.wait(answers.values(), timeout=timeout_s)
        return {slot: future.result() if future.done() else Lost(sent=True) for slot, future in answers.items()}

    def _name(self, slot: int) -> str:
        return self._parts.topology().by_slot[slot].name


def _words(answer: Answer) -> str:
    """What an answer that was not hoped for says."""
    return f"can't take part: {answer.reason}" if isinstance(answer, Unfit) else "did not answer"
