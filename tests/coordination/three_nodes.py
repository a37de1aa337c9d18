"""Real cluster nodes over memory engines, and between them a network that does as the test says.

    cluster = await form_cluster()
    cluster.network.treat(Fate.SILENT, Forward, target=2)   # from now on node 2 never answers a Forward
    outcome = await cluster.put(0, b"key", b"value")

Time is virtual (virtual_time.py). Whatever a request is told, it must be told by its deadline: put, get and page
check that on every call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from types import MappingProxyType
from typing import TypeVar

from cluster.coordination.drive import SWEEP_S
from cluster.levels import Level, majority
from cluster.link.dialler import OnAnswer
from cluster.membership.fitness import Bar
from cluster.membership.topology import Topology, form
from cluster.node import ClusterNode
from cluster.protocol.messages import (
    Accept,
    ForwardMany,
    Glance,
    Lost,
    Prepare,
    PrepareMany,
    Read,
    ReplicaRequest,
    Reply,
    Request,
    Unfit,
    Volley,
    is_harmless,
)
from cluster.requests import (
    ALWAYS,
    Condition,
    Fence,
    FencedReadOutcome,
    ListOutcome,
    ListRequest,
    ReadRequest,
    WriteOutcome,
    WriteRequest,
)
from cluster.tasks import Tasks
from storage.ballot import NONE
from storage.group_commit import GroupCommit
from storage.memory import MemoryEngine, MemoryFolder
from storage.record import Record
from tests.coordination.virtual_time import VirtualClock

PARTITIONS = 8
NEVER_S = 1e9
"""Anti-entropy would mend what a test of something else has made unequal."""
GRACE_S = 3 * SWEEP_S
"""By how much a deadline may be missed: two sweeps, one behind the other, and the way between them."""
TURN_S = 0.01
"""A while in which whatever was sent has arrived and been answered."""
MANY_KEYS = [b"key-%d" % number for number in range(1000)]
Result = TypeVar("Result")


class Fate(Enum):
    """What becomes of a request on its way to another node."""

    DELIVERED = "handled and answered"
    UNSENT = "the connection is known to be down: it never left"
    LOST = "it never arrived, and the connection broke"
    SILENT = "it never arrived and no answer comes: the other process is paused"
    ANSWER_LOST = "handled, but the connection broke before the answer"


@dataclass(frozen=True)
class Rule:
    """One instruction to the network; None and no kinds mean any."""

    fate: Fate
    kinds: tuple[type, ...]
    source: int | None
    target: int | None
    answer_after_s: float
    then: Callable[[], None] | None = None
    """Called whenever a request meets this rule."""

    def covers(self, source: int, target: int, request: Request) -> bool:
        return (
            self.source in (None, source)
            and self.target in (None, target)
            and (not self.kinds or isinstance(request, self.kinds))
        )


AS_USUAL = Rule(Fate.DELIVERED, (), None, None, 0.0)


@dataclass
class Network:
    """Who hears whom. Of several rules that cover a request the newest counts."""

    nodes: list[Node] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    down: set[int] = field(default_factory=set)
    """Nodes that nobody takes for alive."""

    def treat(
        self,
        fate: Fate,
        *kinds: type,
        source: int | None = None,
        target: int | None = None,
        answer_after_s: float = 0.0,
        then: Callable[[], None] | None = None,
    ) -> None:
        if Read in kinds:  # whichever way a read goes
            kinds = (*kinds, Glance)
        if Prepare in kinds:  # whichever way it goes
            kinds = (*kinds, PrepareMany)
        if Accept in kinds:  # whichever way it goes
            kinds = (*kinds, Volley)
        self.rules.append(Rule(fate, kinds, source, target, answer_after_s, then))

    def cut_off(self, slot: int) -> None:
        """The node is gone and everybody knows it."""
        self.down.add(slot)
        self.treat(Fate.UNSENT, source=slot)
        self.treat(Fate.UNSENT, target=slot)

    def rejoin(self, slot: int) -> None:
        """What was cut off is back."""
        self.down.discard(slot)
        unsent = [rule for rule in self.rules if rule.fate is Fate.UNSENT and slot in (rule.source, rule.target)]
        self.rules = [rule for rule in self.rules if rule not in unsent]

    def heal(self) -> None:
        self.rules.clear()
        self.down.clear()

    def rule_for(self, source: int, target: int, request: Request) -> Rule:
        return next((rule for rule in reversed(self.rules) if rule.covers(source, target, request)), AS_USUAL)


class FakeTransport:
    """One node's end of the network."""

    def __init__(self, network: Network, slot: int) -> None:
        self._network, self._slot = network, slot

    def is_alive(self, slot: int) -> bool:
        return slot == self._slot or slot not in self._network.down

    def send(self, slot: int, request: Request, on_answer: OnAnswer) -> None:
        if slot == self._slot:
            self._network.nodes[slot].on_request(request, 0, on_answer, slot)
        else:
            self._send(slot, request, [on_answer])

    def send_many(self, slot: int, forward: ForwardMany, on_answers: Sequence[OnAnswer]) -> None:
        self._send(slot, forward, on_answers)

    def _send(self, slot: int, request: Request, on_answers: Sequence[OnAnswer]) -> None:
        """on_answers: of each of its parts."""
        node, loop = self._network.nodes[slot], asyncio.get_running_loop()
        rule = self._network.rule_for(self._slot, slot, request)
        if rule.then is not None:
            rule.then()
        if rule.fate in (Fate.UNSENT, Fate.LOST):
            for on_answer in on_answers:
                loop.call_soon(on_answer, slot, Lost(sent=rule.fate is Fate.LOST))
        elif (reason := node.why_refuse(self._slot)) is not None and not is_harmless(request):
            for on_answer in on_answers:
                loop.call_soon(on_answer, slot, Unfit(reason))
        elif rule.fate is not Fate.SILENT:

            def respond(part: int, reply: Reply) -> None:
                if rule.fate is Fate.ANSWER_LOST:
                    loop.call_later(rule.answer_after_s, on_answers[part], slot, Lost(sent=True))
                else:
                    loop.call_later(rule.answer_after_s, arrive, node.recollection.mark(), part, reply)

            def arrive(mark: tuple[int, int], part: int, reply: Reply) -> None:
                self._network.nodes[self._slot].recollection.heard(slot, *mark)
                on_answers[part](slot, reply)

            loop.call_soon(node.on_request, request, 0, respond, 0)


class Node(ClusterNode):
    """A cluster node, and what a test wants to lay its hands on."""

    engine: MemoryEngine
    disk: asyncio.Event
    """Cleared, every commit of this node waits."""
    clock: VirtualClock
    commits: GroupCommit
    tasks: Tasks


class Cluster:
    """Some nodes n0, n1, ... in slots 0, 1, ..."""

    def __init__(self, topology: Topology) -> None:
        self.topology, self.network = topology, Network()
        self.nodes = self.network.nodes
        self.starts = 0
        self.anti_entropy_interval_s = NEVER_S
        """Of nodes that start from now on."""

    async def add(self, slot: int, *, folder: MemoryFolder | None = None, wall_step_ms: int = 0) -> None:
        disk, clock, tasks = asyncio.Event(), VirtualClock(), Tasks()
        disk.set()
        clock.wall_step_ms = wall_step_ms

        async def commit_delay() -> None:
            await asyncio.sleep(0)
            await disk.wait()

        engine = MemoryEngine(folder, commit_delay=commit_delay)
        await engine.open()
        commits = GroupCommit(engine, _commit_failed)
        commits.start()
        node = Node(
            slot=slot,
            topology=lambda: self.topology,
            engine=engine,
            commits=commits,
            transport=FakeTransport(self.network, slot),
            clock=clock,
            random=Random(slot + 100 * self.starts),
            tasks=tasks,
            cache_bytes_max=1 << 24,
            clock_offset_max_s=5.0,
            anti_entropy_interval_s=self.anti_entropy_interval_s,
        )
        node.engine, node.disk, node.clock, node.commits, node.tasks = engine, disk, clock, commits, tasks
        self.starts += 1
        self.nodes[slot : slot + 1] = [node]

    async def end(self, slot: int) -> MemoryFolder:
        """The node is killed at rest, and everybody knows it; its folder, of which copy.deepcopy makes another."""
        self.network.cut_off(slot)
        await self._end(self.nodes[slot])
        return self.nodes[slot].engine.folder

    async def begin(self, slot: int, folder: MemoryFolder | None = None) -> Node:
        """The node that has ended starts on this folder, a new one if none is given; nothing is waited for."""
        await self.add(slot, folder=folder)
        self.network.rejoin(slot)
        node = self.nodes[slot]
        await node.load()
        await node.start()
        return node

    @staticmethod
    async def _end(node: Node) -> None:
        await node.tasks.cancel_all()
        await node.commits.stop()
        await node.engine.close()

    async def restart_all(self) -> None:
        """Every node is killed at rest and starts again on its folder, with its wall clock right."""
        folders = [node.engine.folder for node in self.nodes]
        for node in self.nodes:
            await self._end(node)
        self.nodes.clear()
        for slot, folder in enumerate(folders):
            await self.add(slot, folder=folder)
        await self.start()

    async def start(self) -> None:
        for node in self.nodes:
            await node.load()
            await node.start()
        down = self.network.down
        await until(lambda: not any(node.fitness.bars & Bar.UNVERIFIED for node in self.nodes if node.slot not in down))
        await asyncio.sleep(TURN_S)

    def key_led_by(self, slot: int) -> bytes:
        """A key whose primary is that node while all are well."""
        return next(key for key in MANY_KEYS if self.topology.replicas_of(key)[0] == slot)

    def key_without(self, slot: int) -> bytes:
        """A key of which that node holds no replica."""
        return next(key for key in MANY_KEYS if slot not in self.topology.replicas_of(key))

    # -- what applications ask ---------------------------------------------------------------------------------

    async def put(
        self,
        at: int,
        key: bytes,
        value: bytes | None,
        *,
        level: Level = Level.STRONG,
        needed: int | None = None,
        timeout_s: float = 5.0,
        condition: Condition = ALWAYS,
        ttl_ms: int = 0,
        fence: Fence | None = None,
    ) -> WriteOutcome:
        request = WriteRequest(key, value, "", level, self._needed(level, needed), timeout_s, condition, ttl_ms, fence)
        return await _in_time(self.nodes[at].write(request), timeout_s)

    async def get(
        self,
        at: int,
        key: bytes,
        *,
        level: Level = Level.STRONG,
        needed: int | None = None,
        timeout_s: float = 5.0,
        fence: Fence | None = None,
    ) -> FencedReadOutcome:
        request = ReadRequest(key, level, self._needed(level, needed), timeout_s, fence)
        return await _in_time(self.nodes[at].read(request), timeout_s)

    async def page(self, at: int, prefix: bytes, *, level: Level = Level.STRONG, timeout_s: float = 5.0) -> ListOutcome:
        request = ListRequest(prefix, None, 100, True, level, self._needed(level, None), timeout_s)
        return await _in_time(self.nodes[at].page(request), timeout_s)

    def _needed(self, level: Level, needed: int | None) -> int:
        return needed or (majority(self.topology.n) if level is Level.STRONG else 1)

    # -- behind the scenes -------------------------------------------------------------------------------------

    async def ask(self, slot: int, request: ReplicaRequest) -> Reply:
        """One message to one replica, as a peer would send it."""
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.nodes[slot].on_request(request, 0, lambda _, reply: answered.set_result(reply), 0)
        return await answered

    async def leave_unsettled(self, slot: int, key: bytes, value: bytes) -> Record:
        """Only this replica has a strong proposal: its proposer died after the first accept."""
        ballot = self.nodes[slot].ballots.tick(max(self._promised(node, key) for node in self.nodes))
        record = Record(ballot, ballot, False, value)
        await self.ask(slot, Accept(key, record, NONE))
        return record

    def values_on_disk(self, key: bytes) -> list[bytes | None]:
        """What each node has committed under the key, by slot."""
        states = [node.engine.folder.states.get(key) for node in self.nodes]
        return [state.record.value if state is not None and state.record is not None else None for state in states]

    @staticmethod
    def _promised(node: ClusterNode, key: bytes) -> int:
        state = node.replica.peek(key)
        return state.promised if state is not None else NONE


async def form_cluster(
    count: int = 3,
    *,
    replicas: int = 3,
    wall_steps_ms: Mapping[int, int] = MappingProxyType({}),
    without: Collection[int] = (),
    partitions: int = PARTITIONS,
    anti_entropy_interval_s: float = NEVER_S,
    folders: Mapping[int, MemoryFolder] = MappingProxyType({}),
) -> Cluster:
    """That many nodes, all at work but those that are cut off from the start.

    wall_steps_ms: how far a node's wall clock is ahead, by slot.
    """
    addresses = {f"n{slot}": ("127.0.0.1", 7100 + slot) for slot in range(count)}
    cluster = Cluster(form("test", addresses, {}, replicas, partitions))
    cluster.anti_entropy_interval_s = anti_entropy_interval_s
    for slot in range(count):
        await cluster.add(slot, folder=folders.get(slot), wall_step_ms=wall_steps_ms.get(slot, 0))
    for slot in without:
        cluster.network.cut_off(slot)
    await cluster.start()
    return cluster


async def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Waits, in virtual time, until the condition is true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # virtual time: looking costs nothing
            await asyncio.sleep(TURN_S)


async def _in_time(work: Awaitable[Result], timeout_s: float) -> Result:
    return await asyncio.wait_for(work, timeout_s + GRACE_S)


def _commit_failed(error: BaseException) -> None:
    raise error
