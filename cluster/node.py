"""ClusterNode: one node's part in the cluster, put together from its parts.

Everything that a simulator must own comes in from outside: engine, transport, clock and chance. What applications
ask for comes in through read, write and page; what peers ask for comes in through on_request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Literal, get_args

import structlog

from cluster.ballot_clock import BallotClock
from cluster.clock import Clock
from cluster.coordination.coordinator import Coordinator
from cluster.coordination.drive import BUDGET_SHARE, Context
from cluster.coordination.reading.listing import Listing
from cluster.coordination.writing.forwards import Forwards
from cluster.coordination.writing.handover import Handover
from cluster.coordination.writing.merge_back import MergeBack
from cluster.coordination.writing.primary import Primary
from cluster.coordination.writing.weak_writing import WeakWriter
from cluster.link.transport import Transport
from cluster.locks.locks import ClusterLocks
from cluster.membership.failure_detector import HEARTBEAT_INTERVAL_S
from cluster.membership.fitness import Bar, Fitness, Roster
from cluster.membership.topology import Topology
from cluster.protocol.lock_messages import LockRequest
from cluster.protocol.messages import (
    Alive,
    Answer,
    Forward,
    ForwardMany,
    Glance,
    Heartbeat,
    Held,
    PrepareMany,
    Read,
    Request,
    Scan,
    Unfit,
    Volley,
)
from cluster.protocol.prepared import PREPARED_MS_MAX, PreparedBallots
from cluster.protocol.repair_messages import (
    CompareEntries,
    CompareLeaves,
    CompareRoots,
    Confirm,
    Gate,
    Inventory,
    PartitionRepaired,
    Purge,
    RaisePromise,
    RepairPartition,
)
from cluster.repair.amnesia.recollection import Recollection
from cluster.repair.anti_entropy.finding import Finding
from cluster.repair.anti_entropy.loop import INTERVAL_S, AntiEntropy
from cluster.repair.disk_watch import RESERVE_BYTES, DiskWatch
from cluster.repair.floors.loop import PURGE_AFTER_S, Floors
from cluster.repair.floors.member import FloorMember
from cluster.repair.hash_trees import HashTrees
from cluster.repair.hints import BYTES_MAX, Hints
from cluster.repair.parts import Parts
from cluster.replica.marks import PartitionMarks
from cluster.replica.replica import Replica, Respond
from cluster.requests import (
    FencedReadOutcome,
    ListOutcome,
    ListRequest,
    NoRoom,
    ReadOutcome,
    ReadRequest,
    Unavailable,
    WriteOutcome,
    WriteRequest,
)
from cluster.tasks import Tasks
from cluster.wall_watch import WallWatch
from storage.ballot import unix_ms_of
from storage.engine import Engine
from storage.group_commit import GroupCommit
from storage.record import Record

CLOCK_CEILING = "clock_ceiling_ms"
"""The fact under which the ballot clock's ceiling is on disk."""
DRAIN_STEP_S = 0.01
QUICK_BEATS, QUICK_INTERVAL_S = 100, 0.02
"""A node that has just started asks what others remember of it before it takes part, and asks quickly for a while."""
_COMPARING = frozenset({CompareRoots, CompareLeaves, CompareEntries, RepairPartition})
_FLOORS = frozenset({Gate, Confirm, Purge})
_LOCKS = frozenset(get_args(LockRequest))
log = structlog.get_logger()


class ClusterNode:
    """One node, between its engine and its peers."""

    def __init__(
        self,
        *,
        slot: int,
        topology: Callable[[], Topology],
        engine: Engine,
        commits: GroupCommit,
        transport: Transport,
        clock: Clock,
        random: Random,
        tasks: Tasks,
        cache_bytes_max: int,
        clock_offset_max_s: float,
        disk_reserve_bytes: int = RESERVE_BYTES,
        hints_bytes_max: int = BYTES_MAX,
        scrub_period_s: float = 60.0,
        anti_entropy_interval_s: float = INTERVAL_S,
        purge_after_s: float = PURGE_AFTER_S,
    ) -> None:
        """The engine is open, and `commits` writes to it."""
        self.slot, self._topology, self._engine, self._commits = slot, topology, engine, commits
        self._transport, self._clock, self._tasks = transport, clock, tasks
        ceiling_ms = int(engine.facts.get(CLOCK_CEILING, b"0"))
        self.ballots = BallotClock(clock, slot, ceiling_ms, self._reserve)
        self.fitness = Fitness()
        self.roster = Roster(transport.is_alive, slot, self.fitness)
        self.trees = HashTrees(topology().partitions, engine.leaves)
        self.marks = PartitionMarks(self.trees.partition_of, engine.facts)
        self.replica = Replica(
            engine,
            commits,
            self.ballots,
            tasks,
            cache_bytes_max=cache_bytes_max,
            trees=self.trees,
            marks=self.marks,
            fitness=self.fitness,
            on_kept_aside=self._on_kept_aside,
        )
        self.context = Context(transport, self.ballots, clock, random, self.roster)
        self.prepared = PreparedBallots(self.replica.peek, self._is_recent)
        # Others proposed while this node did not: what was promised to it before is worth nothing now.
        self.fitness.on_fit = self.prepared.clear
        self.primary = Primary(self.context, self.prepared, topology, clock_offset_max_s=clock_offset_max_s)
        self.forwards = Forwards(self.primary, self.fitness, topology, slot, clock)
        self.handover = Handover(self.context, self.primary, topology, slot)
        self.context.hand_over = self.handover.submit
        self.merge_back = MergeBack(self.context, topology, commits.forget)
        self.hints = Hints(
            self.context,
            engine,
            commits,
            tasks,
            partition_of=self.trees.partition_of,
            keep_aside=self.replica.keep_aside,
            kept_aside=lambda: (len(self.merge_back), self.merge_back.size_bytes),
            bytes_max=hints_bytes_max,
        )
        self.weak_writer = WeakWriter(
            self.context,
            self.replica,
            topology,
            slot,
            hints=self.hints,
            keep_aside=self.replica.keep_aside,
            clock_offset_max_s=clock_offset_max_s,
        )
        self._coordinator = Coordinator(self.context, self.replica, topology, slot, self.weak_writer, self.handover)
        self._listing = Listing(self.context, self._coordinator.read, topology, slot)
        self.locks = ClusterLocks(
            self.context,
            self.primary,
            self.handover,
            topology,
            slot,
            tasks,
            read=self._coordinator.read,
            page=self.page,
        )
        self.disk_watch = DiskWatch(engine, commits, self.fitness, disk_reserve_bytes)
        self.wall_watch = WallWatch(clock, self.ballots, self.fitness, topology, slot, clock_offset_max_s)
        parts = Parts(
            self.context, self.replica, engine, commits, self.marks, self.trees, self.fitness, tasks, topology, slot
        )
        self.recollection = Recollection(
            parts,
            clock_offset_max_s=clock_offset_max_s,
            scrub_period_s=scrub_period_s,
            on_changed=self._beat_all,
        )
        self.floor_member = FloorMember(
            parts,
            {
                "a hint": self.hints.oldest,
                "a weak write that waits to be merged back": self.merge_back.oldest,
                "a weak write under way": self.weak_writer.oldest,
            },
        )
        self.hints.on_added = self.merge_back.on_added = self.floor_member.note
        self.anti_entropy = AntiEntropy(parts, anti_entropy_interval_s, self.floor_member.adopt)
        finding = Finding(parts, self.anti_entropy.ledger, self.floor_member.adopt)
        self.floors = Floors(parts, finding, purge_after_s, clock_offset_max_s)

    async def load(self) -> None:
        """Brings into memory what is on disk; to be awaited before anything is asked of this node. Commits must run."""
        if self._engine.leaves_are_lost:
            log.warning("the hash trees on disk are damaged; they are built anew from all rows")
            await self._commits.wait(self._commits.set_all_leaves(await self.trees.rebuild(self._engine)))
        for (key, _), record in (await self._engine.kept_aside()).items():
            self.merge_back.add(key, record)
        await self.hints.load()

    async def start(self) -> None:
        """Begins to beat, to replay hints and to merge back what was kept aside before."""
        self._tasks.spawn(self.disk_watch.run(), "watch the disk")
        self._tasks.spawn(self.merge_back.run(), "merge back")
        self._tasks.spawn(self.hints.run(), "replay hints")
        self.recollection.start()
        self._tasks.spawn(self.anti_entropy.run(), "compare with peers")
        self._tasks.spawn(self.floors.run(), "raise floors")
        self._tasks.spawn(self.locks.keeper.run(), "watch leases")
        self._tasks.spawn(self._beat(), "heartbeat")

    # -- what applications ask ---------------------------------------------------------------------------------

    async def read(self, request: ReadRequest) -> FencedReadOutcome:
        """Reads a key."""
        if request.fence is not None:
            return await self._coordinator.read_fenced(request, request.fence)
        return await self._coordinator.read(request)

    def begin_read(self, request: ReadRequest, on_outcome: Callable[[ReadOutcome], None]) -> None:
        """Reads a key without a fence; on_outcome is called once, maybe before this returns."""
        self._coordinator.begin_read(request, on_outcome)

    def begin_write(self, request: WriteRequest, on_outcome: Callable[[WriteOutcome], None]) -> None:
        """Writes or deletes a key without a fence; on_outcome is called once, maybe before this returns."""
        refusal = self._refusal(request) if self.fitness.bars else None
        if refusal is not None:
            on_outcome(refusal)
        else:
            self._coordinator.begin_write(request, on_outcome)

    def begin_writes(
        self, requests: Sequence[WriteRequest], timeout_s: float, on_outcome: Callable[[int, WriteOutcome], None]
    ) -> None:
        """Strong writes of different keys, without a fence; see Coordinator."""
        refusal = self._refusal(requests[0]) if self.fitness.bars else None
        if refusal is not None:
            for place in range(len(requests)):
                on_outcome(place, refusal)
        else:
            self._coordinator.begin_writes(requests, timeout_s, on_outcome)

    async def write(self, request: WriteRequest) -> WriteOutcome:
        """Writes or deletes a key."""
        refusal = self._refusal(request) if self.fitness.bars else None
        if refusal is not None:
            return refusal
        return await self._coordinator.write(request)

    def _refusal(self, request: WriteRequest) -> WriteOutcome | None:
        """What a client is told whose write must not begin here, while other nodes may take it."""
        if (reason := self.fitness.why(Bar.READ_ONLY)) is not None:
            return NoRoom(reason)
        if (reason := self.fitness.why(Bar.BAD_CLOCK)) is not None:
            return Unavailable(request.needed, 0, (), reason)
        return None

    async def page(self, request: ListRequest) -> ListOutcome:
        """Lists keys."""
        return await self._listing.page(request)

    async def versions(self, key: bytes, timeout_s: float) -> dict[int, Answer | None]:
        """What each replica of the key holds, by slot: a Held without the value, another answer, or None in time."""
        loop, found = asyncio.get_running_loop(), dict[int, Answer | None]()
        waiting: list[asyncio.Future[None]] = []
        for slot in self._topology().replicas_of(key):
            found[slot] = None
            if not self._transport.is_alive(slot):
                continue
            done: asyncio.Future[None] = loop.create_future()
            waiting.append(done)
            self._transport.send(slot, Read(key, value=False), partial(_note, found, done))
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
        return found

    async def repair(self, partition: int, timeout_s: float) -> PartitionRepaired | str:
        """Compares a partition's replicas now and brings them together; why not, where none of them could be asked."""
        topology = self._topology()
        slot = next(iter(self.roster.readable(topology.replica_slots[partition])), None)
        if slot is None:
            return "no replica of this partition seems to be alive and fit"
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        request = RepairPartition(partition, int(timeout_s * BUDGET_SHARE * 1000))
        self._transport.send(slot, request, lambda _, answer: None if answered.done() else answered.set_result(answer))
        name = topology.by_slot[slot].name
        try:
            answer = await asyncio.wait_for(answered, timeout_s)
        except TimeoutError:
            return f"{name} did not answer in time; what it found differing may be repaired all the same"
        if isinstance(answer, PartitionRepaired):
            return answer
        return f"{name} {answer.reason}" if isinstance(answer, Unfit) else f"the connection to {name} was lost"

    # -- what peers ask ----------------------------------------------------------------------------------------

    def on_request(self, request: Request, age_ms: int, respond: Respond, token: int) -> None:
        """Handles one request of a peer, or of this node to itself; respond(token, reply) follows."""
        kind = type(request)
        if kind is Glance:
            self.replica.handle_glance(request, respond, token)  # type: ignore[arg-type]
        elif kind is Volley:
            self.replica.handle_volley(request, respond, token)  # type: ignore[arg-type]
        elif kind is PrepareMany:
            self.replica.handle_prepares(request, respond, token)  # type: ignore[arg-type]
        elif kind is Forward:
            self.forwards.handle(request, age_ms, respond, token)  # type: ignore[arg-type]
        elif kind is ForwardMany:
            self.forwards.handle_many(request, age_ms, respond, token)  # type: ignore[arg-type]
        elif kind is Scan:
            self._tasks.spawn(self._scan(request, respond, token), "scan")  # type: ignore[arg-type]
        elif kind is Heartbeat:
            self._beat_heard(request, respond, token)  # type: ignore[arg-type]
        elif kind is RaisePromise or kind is Inventory:
            self.recollection.witness.handle(request, respond, token)  # type: ignore[arg-type]
        elif kind in _FLOORS:
            self.floor_member.handle(request, respond, token)  # type: ignore[arg-type]
        elif kind in _COMPARING:
            self.anti_entropy.handle(request, respond, token)  # type: ignore[arg-type]
        elif kind in _LOCKS:
            why_unfit = self.fitness.why_no_writes() if self.fitness.bars else None
            self.locks.handle(request, age_ms, why_unfit, respond, token)  # type: ignore[arg-type]
        else:
            self.replica.handle(request, respond, token)  # type: ignore[arg-type]

    def _beat_heard(self, beat: Heartbeat, respond: Respond, token: int) -> None:
        self.roster.told(beat.slot, beat.fitness | self.wall_watch.seen(beat.slot))
        told = self.recollection.beaten_by(beat)
        sequence, highest = self._engine.commit_sequence, self.ballots.highest
        is_noted = self.recollection.has_noted(beat.slot)
        respond(token, Alive(self._clock.wall_ms(), sequence, self.fitness.bars, told, highest, is_noted))

    async def _scan(self, scan: Scan, respond: Respond, token: int) -> None:
        reason = self.fitness.why_no_reads() if self.fitness.bars else None
        if reason is None:
            reply = await self.replica.scan(scan)
            reason = self.fitness.why_no_reads() if self.fitness.bars else None  # rows may have gone meanwhile
        respond(token, Unfit(reason) if reason is not None else reply)

    def why_refuse(self, slot: int) -> str | None:
        """Why nothing that changes anything is taken from this peer now; None when it is."""
        return self.wall_watch.why_refuse(slot)

    # -- the beat ----------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        beats = 0
        while True:
            self._beat_all()
            self.wall_watch.look()
            beats += 1
            is_asking = self.fitness.bars & Bar.UNVERIFIED and beats < QUICK_BEATS
            await asyncio.sleep(QUICK_INTERVAL_S if is_asking else HEARTBEAT_INTERVAL_S)

    def _beat_all(self) -> None:
        """One beat to each other member."""
        beaten = partial(self._beaten, self._clock.monotonic_s(), self.recollection.boot)
        beat = Heartbeat(
            self._clock.wall_ms(),
            self._engine.commit_sequence,
            self.fitness.bars,
            self.slot,
            self._engine.incarnation,
            self.recollection.boot,
        )
        for member in self._topology().members:
            if member.slot != self.slot:
                self._transport.send(member.slot, beat, beaten)

    def _beaten(self, sent_s: float, boot: int, slot: int, answer: Answer) -> None:
        if isinstance(answer, Alive):
            self.wall_watch.heard(slot, answer.wall_ms, sent_s)
            self.roster.told(slot, answer.fitness | self.wall_watch.seen(slot))
            self.recollection.answered(slot, answer, sent_s, boot)

    def _is_recent(self, ballot: int) -> bool:
        return self.ballots.now_ms() - unix_ms_of(ballot) < PREPARED_MS_MAX

    def _on_kept_aside(self, key: bytes, record: Record) -> None:
        self.merge_back.add(key, record)

    def _reserve(self, ceiling_ms: int, done: Callable[[], None]) -> None:
        ticket = self._commits.set_fact(CLOCK_CEILING, str(ceiling_ms).encode())
        self._commits.when(ticket, done)

    async def drain(self, timeout_s: float) -> None:
        """Waits for the conversations under way, then leaves the clock's exact ceiling behind."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        # An event per conversation would cost the hot path; this runs once.
        while len(self.context.sweeper) and self._clock.monotonic_s() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_STEP_S)
        self._commits.set_fact(CLOCK_CEILING, str(self.ballots.seal()).encode())

    def is_majority_visible(self) -> bool:
        """Whether any replica set has a majority that seems alive from here."""
        topology = self._topology()
        alive = {member.slot for member in topology.members if self.roster.is_writable(member.slot)}
        return any(len(alive.intersection(slots)) >= topology.majority for slots in topology.replica_slots)


def _note(found: dict[int, Answer | None], done: asyncio.Future[None], slot: int, answer: Answer) -> None:
    found[slot] = answer
    if not done.done():
        done.set_result(None)


def version_of(answer: Answer | None) -> int | Literal["unreachable"] | None:
    """What `versions` shows of one replica: its origin, None where it holds nothing, or "unreachable"."""
    if isinstance(answer, Held):
        return answer.record.origin if answer.record is not None else None
    return "unreachable"
