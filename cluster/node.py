"""ClusterNode: one node's part in the cluster, put together from its parts.

Everything that a simulator must own comes in from outside: engine, transport, clock and chance. What applications
ask for comes in through read, write and page; what peers ask for comes in through on_request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Literal

import structlog

from cluster.ballot_clock import BallotClock
from cluster.clock import Clock
from cluster.coordination.coordinator import Coordinator
from cluster.coordination.drive import Context
from cluster.coordination.handover import Handover
from cluster.coordination.listing import Listing
from cluster.coordination.merge_back import MergeBack
from cluster.coordination.primary import Primary
from cluster.link.transport import Transport
from cluster.membership.failure_detector import HEARTBEAT_INTERVAL_S
from cluster.membership.fitness import Fitness, Roster
from cluster.membership.topology import Topology
from cluster.protocol.messages import (
    Alive,
    Answer,
    Forward,
    Forwarded,
    Heartbeat,
    Held,
    Outcome,
    Read,
    Request,
    Scan,
    Unfit,
)
from cluster.protocol.prepared import PREPARED_MS_MAX, PreparedBallots
from cluster.repair.hash_trees import HashTrees
from cluster.replica.marks import PartitionMarks
from cluster.replica.replica import Replica, Respond
from cluster.requests import ListOutcome, ListRequest, ReadOutcome, ReadRequest, WriteOutcome, WriteRequest
from cluster.tasks import Tasks
from storage.ballot import unix_ms_of
from storage.engine import Engine
from storage.group_commit import GroupCommit
from storage.record import Record

CLOCK_CEILING = "clock_ceiling_ms"
"""The fact under which the ballot clock's ceiling is on disk."""
DRAIN_STEP_S = 0.01
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
        self.primary = Primary(self.context, self.prepared, topology)
        self.handover = Handover(self.context, self.primary, topology, slot)
        self.context.hand_over = self.handover.submit
        self.merge_back = MergeBack(self.context, topology, commits.forget)
        self._coordinator = Coordinator(self.context, self.replica, topology, slot, self.replica.keep_aside)
        self._listing = Listing(self.context, self._coordinator.read, topology, slot)
        self._clock_offset_max_s = clock_offset_max_s
        self._has_wall_stepped = False
        self.peer_wall_offset_ms: dict[int, int] = {}
        """How far each peer's wall clock was ahead of ours at its last heartbeat, by slot."""
        self.peer_commit_sequence: dict[int, int] = {}
        """The highest commit sequence heard from each peer, by slot."""

    async def start(self) -> None:
        """Begins to beat and to merge back what was kept aside before."""
        for (key, _), record in (await self._engine.kept_aside()).items():
            self.merge_back.add(key, record)
        self._tasks.spawn(self.merge_back.run(), "merge back")
        self._tasks.spawn(self._beat(), "heartbeat")

    # -- what applications ask ---------------------------------------------------------------------------------

    async def read(self, request: ReadRequest) -> ReadOutcome:
        """Reads a key."""
        return await self._coordinator.read(request)

    async def write(self, request: WriteRequest) -> WriteOutcome:
        """Writes or deletes a key."""
        return await self._coordinator.write(request)

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

    # -- what peers ask ----------------------------------------------------------------------------------------

    def on_request(self, request: Request, age_ms: int, respond: Respond, token: int) -> None:
        """Handles one request of a peer, or of this node to itself; respond(token, reply) follows."""
        kind = type(request)
        if kind is Forward:
            self._propose(request, age_ms, respond, token)  # type: ignore[arg-type]
        elif kind is Scan:
            self._tasks.spawn(self._scan(request, respond, token), "scan")  # type: ignore[arg-type]
        elif kind is Heartbeat:
            self._beat_heard(request, respond, token)  # type: ignore[arg-type]
        else:
            self.replica.handle(request, respond, token)  # type: ignore[arg-type]

    def _beat_heard(self, beat: Heartbeat, respond: Respond, token: int) -> None:
        self.roster.told(beat.slot, beat.fitness)
        respond(token, Alive(self._clock.wall_ms(), self._engine.commit_sequence, self.fitness.bars))

    def _propose(self, forward: Forward, age_ms: int, respond: Respond, token: int) -> None:
        left_s = (forward.budget_ms - age_ms) / 1000
        if left_s <= 0:
            # Whoever asked has told its client "unknown" by now: to apply it after that would be a surprise.
            respond(token, Unfit("its time was used up when it arrived"))
            return
        if self.slot not in self._topology().replicas_of(forward.key):
            respond(token, Unfit("this node holds no replica of the key"))
            return

        def ended(outcome: Outcome) -> None:
            respond(token, Forwarded(outcome))

        deadline_s = self._clock.monotonic_s() + left_s
        self.primary.submit(forward.key, forward.change, forward.needed, deadline_s, ended)

    async def _scan(self, scan: Scan, respond: Respond, token: int) -> None:
        respond(token, await self.replica.scan(scan))

    # -- the beat ----------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            for member in self._topology().members:
                if member.slot != self.slot:
                    beat = Heartbeat(
                        self._clock.wall_ms(),
                        self._engine.commit_sequence,
                        self.fitness.bars,
                        self.slot,
                        self._engine.incarnation,
                    )
                    self._transport.send(member.slot, beat, self._beaten)
            self._follow_wall()
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    def _follow_wall(self) -> None:
        step_s = self.ballots.follow_wall(self._clock_offset_max_s)
        has_stepped = abs(step_s) > self._clock_offset_max_s
        if has_stepped and not self._has_wall_stepped:
            log.warning("the wall clock stepped; ballots go on from before", step_s=round(step_s, 3))
        self._has_wall_stepped = has_stepped

    def _beaten(self, slot: int, answer: Answer) -> None:
        if isinstance(answer, Alive):
            self.roster.told(slot, answer.fitness)
            self.peer_wall_offset_ms[slot] = answer.wall_ms - self._clock.wall_ms()
            highest = max(answer.commit_sequence, self.peer_commit_sequence.get(slot, 0))
            self.peer_commit_sequence[slot] = highest

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
