"""The node: puts engine, cluster, peers and HTTP together, owns every task, starts and stops them in order.

This is the composition root. Nothing is decided here; each part is told of its neighbours and set going.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

import structlog

from cluster.clock import TEST_CLOCK, BentClock, Clock, SystemClock
from cluster.link.dialler import Peer
from cluster.link.handshake import PROTOCOL_VERSION, Identity
from cluster.link.transport import PeerTransport
from cluster.membership.membership import Membership
from cluster.membership.topology import Topology, decode_topology, encode_topology, form
from cluster.node import ClusterNode, version_of
from cluster.protocol.messages import Heartbeat, Request, Unfit, refuse
from cluster.repair.amnesia.verification import RECOVERY
from cluster.replica.replica import Respond
from cluster.requests import (
    FencedReadOutcome,
    ListOutcome,
    ListRequest,
    ReadOutcome,
    ReadRequest,
    Unavailable,
    WriteOutcome,
    WriteRequest,
)
from cluster.tasks import Tasks
from kvstore.config import NodeConfig
from kvstore.http.backend import RepairReport, Unreachable
from kvstore.http.server import HttpServer
from kvstore.logs import configure
from kvstore.metrics import Metrics
from kvstore.node.measures import Measures
from kvstore.node.view import NodeView
from storage.engine import (
    Batch,
    CommitFailed,
    CommitMetDamage,
    FolderDamaged,
    FolderUnusable,
    PagesDamaged,
    StorageError,
)
from storage.group_commit import GroupCommit
from storage.sqlite.engine import SqliteEngine

TOPOLOGY = "topology"
"""The fact under which the topology is on disk."""
MEMBER = "member"
"""The fact that says whose folder it is."""
CLUSTER = "cluster"
"""The fact that says the name of the cluster it was made for."""
EXIT_FAILED = 1
GC_OBJECTS = 50_000
"""Objects between two looks of the cycle collector: some a second under full load, each a few milliseconds."""
log = structlog.get_logger()


class Node:
    """One node from start to stop, and what the HTTP layer asks of it (Backend); what it looks at is in view.py."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._clock = _clock()
        self._random = Random()
        self._tasks = Tasks()
        self._use_folder()
        self._is_draining = False
        self.metrics = Metrics()

    def _use_folder(self) -> None:
        """Whoever of the two writes when it fails, the process ends."""
        self._engine = SqliteEngine(self._config.data, on_failure=self._commit_failed)
        self._commits = GroupCommit(self._engine, self._commit_failed)

    async def start(self) -> None:
        """Opens the folder, meets the peers, serves. Raises StorageError or OSError, after which stop() cleans up.

        After PagesDamaged, which is raised before anybody heard of it, another start may go well: see condemn.
        """
        config = self._config
        try:
            await self._engine.open()
        except FolderDamaged as damage:
            await self._begin_anew(damage)
        self._membership = self._recall_membership()
        topology = self._membership.topology
        self.slot = topology.by_name[config.name].slot
        self._transport = PeerTransport(
            lambda: self._membership.topology,
            self._identity,
            config.cluster_secret,
            self._clock,
            self._random,
            self._tasks,
            admit=self._membership.admit,
            on_request=self._on_request,
            why_refuse=self._why_refuse,
            mark=self._mark,
            on_replies=self._on_replies,
        )
        self._cluster = ClusterNode(
            slot=self.slot,
            topology=lambda: self._membership.topology,
            engine=self._engine,
            commits=self._commits,
            transport=self._transport,
            clock=self._clock,
            random=self._random,
            tasks=self._tasks,
            cache_bytes_max=config.cache_bytes_max,
            clock_offset_max_s=config.clock_offset_max_s,
            disk_reserve_bytes=config.disk_reserve_bytes,
            scrub_period_s=config.scrub_period_s,
            hints_bytes_max=config.hints_bytes_max,
            anti_entropy_interval_s=config.anti_entropy_interval_s,
            purge_after_s=config.purge_after_s,
        )
        self._commits.start()
        await self._cluster.load()
        self._view = NodeView(
            config,
            self._membership,
            self._cluster,
            self._transport,
            self._clock,
            self._identity,
            lambda: self._is_draining,
        )
        self._http = HttpServer(config, self, self._cluster.locks, self._view, self.metrics, self._clock.wall_ms)
        measures = Measures(
            self.metrics,
            self._cluster,
            self._engine,
            self._commits,
            lambda: self._membership.topology,
            self._clock.wall_ms,
            self._clock.monotonic_s,
        )
        measures.register()
        peers = [
            Peer(member.slot, member.name, member.peer_host, member.peer_port)
            for member in topology.members
            if member.slot != self.slot
        ]
        listen = config.peer_listen or config.peer
        await self._transport.start(listen.host, listen.port, self.slot, peers)
        await self._http.start()
        await self._cluster.start()
        self._view.has_started()
        log.info("serving", http=str(config.http), peer=str(config.peer), epoch=topology.epoch, data=str(config.data))

    async def stop(self) -> None:
        """Takes no new requests, finishes what was begun, closes the folder. Works after a failed start too."""
        self._is_draining = True
        timeout_s = self._config.drain_timeout_s
        if hasattr(self, "_http"):
            await self._http.stop(timeout_s)
        if hasattr(self, "_cluster"):
            await self._cluster.drain(timeout_s)
        if hasattr(self, "_transport"):
            await self._transport.stop()
        await self._tasks.cancel_all()
        await self._commits.stop()
        with contextlib.suppress(CommitFailed):
            await self._engine.close()

    @property
    def _is_held_elsewhere(self) -> bool:
        return min(self._config.replicas, len(self._config.members)) > 1

    def condemn(self, reason: str) -> bool:
        """Has a damaged database set aside at the next start; False where nobody else holds anything, or it can't."""
        if not self._is_held_elsewhere:
            return False
        try:
            self._engine.condemn(reason)
        except OSError as error:
            log.error("it can't be noted that the database is damaged", error=str(error))
            return False
        return True

    async def _begin_anew(self, damage: FolderDamaged) -> None:
        """Sets a damaged database aside and makes a new one, which is filled from the others before it takes part.

        Raises the damage again where nobody else holds anything.
        """
        if not self._is_held_elsewhere:
            raise damage
        await self._engine.close()
        aside = SqliteEngine.set_aside(self._config.data)
        reason = f"its database was damaged, and is set aside as {aside.name}: {damage}"
        log.error("the database is damaged; it is set aside, and all is learned anew from the others", reason=reason)
        self._use_folder()
        await self._engine.open()
        # At once: a folder that looks merely new would count as that of a new cluster where all are damaged.
        await self._engine.write(Batch(facts={RECOVERY: reason.encode()}))

    # -- membership --------------------------------------------------------------------------------------------

    def _recall_membership(self) -> Membership:
        """The topology on disk goes before the flags; a new folder forms the first one."""
        config, facts = self._config, self._engine.facts
        self._refuse_foreign_folder()
        if TOPOLOGY in facts:
            topology = decode_topology(facts[TOPOLOGY])
            if config.name not in topology.by_name:
                raise FolderUnusable(f"{config.data} knows a cluster that {config.name} is no member of")
            return Membership(topology, unheard=set(), on_formed=self._remember)
        zones = {member.name: member.zone for member in config.members}
        unheard = {name for name, zone in zones.items() if not zone} - {config.name} if config.zone else set()
        zones[config.name] = config.zone
        addresses = {member.name: (member.host, member.port) for member in config.members}
        topology = form(config.cluster_name, addresses, zones, config.replicas, config.partitions)
        membership = Membership(topology, unheard=unheard, on_formed=self._remember)
        if membership.is_formed:
            self._remember(topology)
        return membership

    def _refuse_foreign_folder(self) -> None:
        config, facts = self._config, self._engine.facts
        for fact, mine, whose in ((MEMBER, config.name, ""), (CLUSTER, config.cluster_name, "cluster ")):
            owner = facts.get(fact, mine.encode()).decode()
            if owner != mine:
                raise FolderUnusable(
                    f"{config.data} is the folder of {whose}{owner}, not of {mine}; nothing was touched. "
                    "Give each node a folder of its own"
                )

    def _remember(self, topology: Topology) -> None:
        self._commits.set_fact(MEMBER, self._config.name.encode())
        self._commits.set_fact(CLUSTER, self._config.cluster_name.encode())
        self._commits.set_fact(TOPOLOGY, encode_topology(topology))

    def _identity(self) -> Identity:
        config = self._config
        return Identity(
            PROTOCOL_VERSION,
            self._membership.topology.cluster_id,
            config.name,
            self._engine.incarnation,
            config.zone,
            str(config.http),
        )

    # -- what peers ask ----------------------------------------------------------------------------------------

    def _on_request(self, request: Request, age_ms: int, respond: Respond, token: int) -> None:
        if self._membership.is_formed or isinstance(request, Heartbeat):
            self._cluster.on_request(request, age_ms, respond, token)
        else:
            refuse(request, Unfit("this node's topology is still forming"), respond, token)

    def _why_refuse(self, name: str) -> str | None:
        member = self._membership.topology.by_name.get(name)
        return None if member is None else self._cluster.why_refuse(member.slot)

    def _mark(self) -> tuple[int, int]:
        return self._cluster.recollection.mark()

    def _on_replies(self, slot: int, boot: int, commit_sequence: int) -> None:
        self._cluster.recollection.heard(slot, boot, commit_sequence)

    # -- Backend -----------------------------------------------------------------------------------------------

    async def read(self, request: ReadRequest) -> FencedReadOutcome:
        """See Backend."""
        if not self._membership.is_formed:
            return Unavailable(request.needed, 0, ())
        return await self._cluster.read(request)

    async def write(self, request: WriteRequest) -> WriteOutcome:
        """See Backend."""
        if not self._membership.is_formed:
            return Unavailable(request.needed, 0, ())
        return await self._cluster.write(request)

    def begin_read(self, request: ReadRequest, on_outcome: Callable[[ReadOutcome], None]) -> None:
        """See Backend."""
        if self._membership.is_formed:
            self._cluster.begin_read(request, on_outcome)
        else:
            on_outcome(Unavailable(request.needed, 0, ()))

    def begin_write(self, request: WriteRequest, on_outcome: Callable[[WriteOutcome], None]) -> None:
        """See Backend."""
        if self._membership.is_formed:
            self._cluster.begin_write(request, on_outcome)
        else:
            on_outcome(Unavailable(request.needed, 0, ()))

    def begin_writes(
        self, requests: Sequence[WriteRequest], timeout_s: float, on_outcome: Callable[[int, WriteOutcome], None]
    ) -> None:
        """See Backend."""
        if self._membership.is_formed:
            self._cluster.begin_writes(requests, timeout_s, on_outcome)
        else:
            for place, request in enumerate(requests):
                on_outcome(place, Unavailable(request.needed, 0, ()))

    async def list(self, request: ListRequest) -> ListOutcome:
        """See Backend."""
        if not self._membership.is_formed:
            return Unavailable(request.needed, 0, ())
        return await self._cluster.page(request)

    async def versions(self, key: bytes, timeout_s: float) -> Mapping[str, int | Unreachable | None]:
        """See Backend."""
        by_slot = self._membership.topology.by_slot
        answers = await self._cluster.versions(key, timeout_s)
        return {by_slot[slot].name: version_of(answer) for slot, answer in answers.items()}

    async def repair(self, partition: int, timeout_s: float) -> RepairReport | str:
        """See Backend."""
        if not self._membership.is_formed:
            return "the cluster's first topology is still forming"
        topology = self._membership.topology
        repaired = await self._cluster.repair(partition, timeout_s)
        if isinstance(repaired, str):
            return repaired
        return RepairReport(
            partition=partition,
            node=topology.by_slot[repaired.slot].name,
            differed=repaired.differed,
            fetched=repaired.fetched,
            sent=repaired.sent,
            left=repaired.left,
            bytes_moved=repaired.bytes_moved,
            unreachable=topology.names(repaired.unreachable),
        )

    # -- failing -----------------------------------------------------------------------------------------------

    def _commit_failed(self, error: BaseException) -> None:
        """A write may or may not be on disk: nothing in memory can be trusted, so the process ends here and now."""
        try:
            log.error("a commit failed; this node ends, and nothing unacknowledged was promised", error=str(error))
            told = str(error)
            if isinstance(error, CommitMetDamage) and self.condemn(f"a commit failed: {error.__cause__}"):
                told += ". At the next start this database is set aside, and all is learned anew from the others"
            print(f"kvstore: {told}", file=sys.stderr, flush=True)
        finally:  # whatever becomes of these words: they may go to the disk that has just failed
            os._exit(EXIT_FAILED)


def _clock() -> Clock:
    """The machine's clock, or for tests one that is bent by the file that the environment names."""
    file = os.environ.get(TEST_CLOCK)
    return BentClock(Path(file)) if file else SystemClock()


def _wake_politely() -> None:
    """Asks the kernel not to take the processor from somebody for each message that comes here (Linux, sched(7)).

    Where nodes share a machine, each write to a socket otherwise puts its receiver in the sender's place, to handle
    that one message. Woken when the sender is through, it handles all that came; where a core is idle, at once.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # where it is not allowed, it works without
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


async def serve(config: NodeConfig) -> int:
    """Runs a node until SIGTERM or SIGINT; the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    node = Node(config)
    try:
        try:
            await node.start()
        except PagesDamaged as damage:
            if not node.condemn(str(damage)):
                raise
            await node.stop()
            node = Node(config)
            await node.start()
    except (StorageError, OSError) as error:
        print(f"kvstore: {config.name} can't start: {error}", file=sys.stderr)
        await node.stop()
        return EXIT_FAILED
    await stop.wait()
    log.info("stopping")
    await node.stop()
    log.info("stopped")
    return 0


def run(config: NodeConfig) -> int:
    """Runs a node in this process, on uvloop where it is installed. Blocks; gives the exit code."""
    configure(config)
    # What is loaded by now lives as long as the process; and the hot path makes no cycles, so looking for some after
    # every 700 objects is for nothing.
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)
    _wake_politely()
    try:
        import uvloop  # noqa: PLC0415 - where it is installed
    except ImportError:
        return asyncio.run(serve(config))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(config))
