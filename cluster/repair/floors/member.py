"""The member's side of raising a floor: it keeps still below the ballot, says whether it has, and purges.

Every answer leaves after the commit of all that was decided before it: what a replica was compared with must not be
gone after a power cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from cluster.protocol.messages import Reply, Unfit
from cluster.protocol.repair_messages import Confirm, Gate, Gated, Purge, Purged
from cluster.repair.floors.reclaiming import Reclaiming
from cluster.repair.parts import Parts
from cluster.replica.replica import Respond
from storage.ballot import NONE, unix_ms_of
from storage.engine import StorageError

Oldest = Mapping[str, Callable[[int], int | None]]
"""What a member may still owe to somebody, in words -> the lowest origin of it in a partition, None for nothing."""
log = structlog.get_logger()


class FloorMember:
    """One member's answers."""

    def __init__(self, parts: Parts, oldest: Oldest) -> None:
        self._parts, self._oldest, self._gates = parts, oldest, parts.replica.gates
        self._reclaiming = Reclaiming(parts.engine, parts.commits, parts.tasks)
        self._purging: set[int] = set()
        self.purged = 0
        """Rows that went for good since this node started."""

    def handle(self, request: Gate | Confirm | Purge, respond: Respond, token: int) -> None:
        """Answers one step; respond(token, reply) follows."""
        reason = self._why_not(request)
        if reason is not None:
            respond(token, Unfit(reason))
        elif isinstance(request, Gate):
            self._gate(request, respond, token)
        elif isinstance(request, Confirm):
            commits = self._parts.commits  # what is being kept aside is noted once it is on disk
            commits.when(commits.ticket, lambda: respond(token, self._confirm(request)))
        elif not self._may_purge(request.partition, request.floor):
            respond(token, Unfit("it can't say any more that it holds what it was compared with"))
        else:
            self._parts.tasks.spawn(self._purge(request, respond, token), "purge")

    def adopt(self, partition: int, floor: int) -> None:
        """Another replica of the partition has this floor.

        If what is held here is what was compared, it is purged as if it had been asked for. Else only the floor rises,
        and says no more than that what is absent here is absent for good: tombstones wait for the next floor.
        """
        if floor <= self._parts.marks.floors.get(partition, NONE) or partition in self._purging:
            return
        if self._may_purge(partition, floor):
            self._parts.tasks.spawn(self._purge(Purge(partition, floor), _ignore, 0), "purge")
        else:
            self._parts.replica.raise_floor(partition, floor)

    def note(self, partition: int, origin: int) -> None:
        """A weak write is kept from now on, for somebody or aside."""
        if self._gates.are_any:
            self._gates.note(partition, origin, "a write as old as the floor is being kept")

    def _why_not(self, request: Gate | Confirm | Purge) -> str | None:
        parts = self._parts
        if not 0 <= request.partition < parts.topology().partitions:
            return f"there is no partition {request.partition}"
        if unix_ms_of(request.floor) >= parts.context.ballots.now_ms():
            return "the floor lies ahead of this node's clock"
        return parts.fitness.reasons[0] if parts.fitness.bars else None

    # -- the gate ----------------------------------------------------------------------------------------------------

    def _gate(self, gate: Gate, respond: Respond, token: int) -> None:
        parts = self._parts
        now_s = parts.context.clock.monotonic_s()
        parts.context.ballots.absorb(gate.floor)
        self._gates.expire(now_s)
        self._gates.put_up(gate.partition, gate.floor, now_s)

        def durable() -> None:
            parts.context.ballots.when_durable(answer)

        def answer() -> None:
            parts.tasks.spawn(self._answer_gate(gate, respond, token), "answer at a gate")

        # What is being kept aside at this moment is known of only once it is on disk.
        parts.commits.when(parts.commits.ticket, durable)

    async def _answer_gate(self, gate: Gate, respond: Respond, token: int) -> None:
        partition, floor = gate.partition, gate.floor
        reason, purgeable = self._why_not_clear(partition, floor), 0
        if reason is None and self._is_replica(partition):
            try:
                places = self._parts.trees.places_of(partition)
                purgeable = len(await self._parts.engine.purgeable(*places, floor, unix_ms_of(floor)))
            except StorageError as error:
                reason = str(error)
        respond(token, Gated(reason is None, reason or "", purgeable))

    def _confirm(self, confirm: Confirm) -> Reply:
        partition, floor = confirm.partition, confirm.floor
        reason = self._why_not_clear(partition, floor)
        if reason is not None:
            return Gated(False, reason)
        if self._is_replica(partition):
            self._gates.seal(partition, floor)
        else:
            self._gates.take_down(partition)
        return Gated(True)

    def _why_not_clear(self, partition: int, floor: int) -> str | None:
        """Why this member can't say that the gate has held and nothing as old is owed to anybody."""
        parts = self._parts
        reason = self._gates.why_not(partition, floor)
        if reason is not None:
            return reason
        for what, oldest in self._oldest.items():
            origin = oldest(partition)
            if origin is not None and origin <= floor:
                return f"{what} is as old as the floor"
        if any(parts.trees.partition_of(key) == partition for key in parts.replica.damaged):
            return "a record is damaged"
        return "it is recovering the partition" if partition in parts.fitness.recovering else None

    def _is_replica(self, partition: int) -> bool:
        return self._parts.slot in self._parts.topology().replica_slots[partition]

    # -- the purge ---------------------------------------------------------------------------------------------------

    def _may_purge(self, partition: int, floor: int) -> bool:
        is_known = self._gates.may_purge(partition, floor) and partition not in self._parts.fitness.recovering
        return is_known and partition not in self._purging

    async def _purge(self, purge: Purge, respond: Respond, token: int) -> None:
        partition, floor = purge.partition, purge.floor
        self._purging.add(partition)
        try:
            rows, _ = await self._parts.replica.purge(partition, floor, unix_ms_of(floor))
        except StorageError as error:
            log.error("a partition can't be purged", partition=partition, error=str(error))
            respond(token, Unfit(str(error)))
            return
        finally:
            self._purging.discard(partition)
        self._gates.purged(partition, floor)
        self.purged += rows
        if rows:
            self._reclaiming.begin()
        respond(token, Purged(rows))


def _ignore(token: int, reply: Reply) -> None:
    """Nobody asked."""
