"""A world: a cluster, its load and its trouble, made of one seed; and what must be true of it in the end.

    load and trouble    for some ten seconds, all of it as the seed's options say
    healing             all is well again, and nobody asks; every request must be answered by its deadline, and within
                        LIVENESS_S the nodes take part again, replicas are equal, and nothing is kept aside for anybody
    last reads          a strong read of every key through every node
    judgement           checks.py: what was told, against what was promised

`run_seed` does it all and raises Violation.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from time import process_time
from typing import Any
from unittest.mock import patch

import structlog

from cluster.membership.fitness import Bar
from cluster.membership.placement import partition_of
from cluster.membership.topology import form
from storage.ballot import NONE
from storage.engine import Batch
from storage.memory import MemoryFolder
from storage.record import Record
from tests.simulation.checks import Locks, Votes, judge
from tests.simulation.clients import Client, Holder, Voter
from tests.simulation.journal import Journal, Violation
from tests.simulation.loop import SimulationLoop, own_life
from tests.simulation.machine import PLENTY_BYTES, Machine
from tests.simulation.network import Network, Weather
from tests.simulation.options import Options, draw
from tests.simulation.trace import Trace
from tests.simulation.trouble import Trouble

LIVENESS_S = 150.0
"""After all is well: recovering what was lost waits for the allowed clock offset, a silent connection for ten seconds,
a peer with which nothing could be brought together for twelve turns."""
LOOK_S = 0.25
LAST_READ_S = 10.0
FAILURES = ("a callback failed", "a background task failed", "a pass over the floors failed")
"""What the code logs when it has met a fault of its own."""


@dataclass
class Report:
    """What a run was."""

    seed: int
    options: Options
    digest: str
    simulated_s: float
    core_s: float
    """Time of a processor, whoever else used it meanwhile."""
    operations: int
    frames: int
    events: int
    happened: dict[str, int]
    outcomes: dict[str, int]
    healed_s: float
    """How long after the trouble all was well."""


@dataclass
class World:
    """One run."""

    seed: int
    options: Options
    loop: SimulationLoop
    trace: Trace
    journal: Journal = field(default_factory=Journal)
    values: int = 0
    fences_reported: list[tuple[str, int, float]] = field(default_factory=list)
    """(key, fence, when) of each refusal for a fence."""
    is_rolled_back: bool = False
    """Whether a node has an older copy of its folder, and has not noticed yet."""

    def __post_init__(self) -> None:
        options, random = self.options, Random(f"world of {self.seed}")
        addresses = {f"n{slot}": ("127.0.0.1", 7100 + slot) for slot in range(options.nodes)}
        self.topology = form("simulation", addresses, {}, 3, options.partitions)
        weather = Weather(
            options.delay_s,
            options.tail,
            options.tail_s,
            options.lost,
            options.broken,
            options.doubled,
            options.overtaking,
        )
        self.network = Network(self.loop, Random(random.getrandbits(64)), self.trace, self.topology, weather)
        self.machines = [
            Machine(self.network, slot, options, Random(random.getrandbits(64))) for slot in range(options.nodes)
        ]
        for machine in self.machines:
            machine.told = self._committed
        self.locks, self.votes = Locks(), Votes()
        self.forgotten: list[tuple[float, int, bytes | None]] = []
        """When which node lost its memory: of one key, or of all."""
        self._random = random
        self.load_ends_s = self.trouble_ends_s = 0.0
        self.healed_s = 0.0

    # -- what trouble asks -------------------------------------------------------------------------------------

    def amnesiacs(self) -> list[Machine]:
        """Those that have lost their memory and have not got it back."""
        return [machine for machine in self.machines if machine.forgot_s and not self._is_whole(machine)]

    def is_everybody_whole(self) -> bool:
        """Whether all run, and are sure of what they remember."""
        return all(map(self._is_whole, self.machines))

    def _is_whole(self, machine: Machine) -> bool:
        process = machine.process
        if process is None or not process.is_serving or process.life.is_paused:
            return False
        fitness, replica = process.node.fitness, process.node.replica
        return not (fitness.bars & (Bar.RECOVERING | Bar.UNVERIFIED) or replica.damaged or machine.folder.damaged)

    def has_forgotten(self, machine: Machine, folder: MemoryFolder, is_rolled_back: bool) -> None:
        """Its folder is gone; this one is there."""
        machine.folder = folder
        machine.forgot_s.append(self.loop.time())
        self.forgotten.append((self.loop.time(), machine.slot, None))
        self.is_rolled_back = is_rolled_back
        if is_rolled_back:
            self.loop.create_task(self._until_noticed(machine))

    async def _until_noticed(self, machine: Machine) -> None:
        await asyncio.sleep(1.0)
        while not self._is_whole(machine):  # noqa: ASYNC110  # virtual time: looking costs nothing
            await asyncio.sleep(LOOK_S)
        self.is_rolled_back = False

    def has_forgotten_key(self, machine: Machine, key: bytes) -> None:
        """One row of its folder has rotted."""
        self.forgotten.append((self.loop.time(), machine.slot, key))
        machine.forgot_s.append(self.loop.time())

    def _committed(self, slot: int, batch: Batch) -> None:
        note = self.journal.values
        self.trace.note(self.loop.time(), f"n{slot} commits {len(batch.states)}+{len(batch.keep)}+{len(batch.hints)}")
        for key, state in batch.states.items():
            self._note_value(note, key, state.record)
        for (key, _), record in batch.keep.items():
            self._note_value(note, key, record)

    def _note_value(self, values: dict[tuple[str, int], str], key: bytes, record: Record | None) -> None:
        if record is None or record.value is None or key[0] == 0:
            return
        text = record.value.decode().rstrip()
        if values.setdefault((key.decode(), record.origin), text) != text:
            raise Violation(f"two values under the origin {record.origin} of {key!r}")

    # -- the run -----------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """All of it but the judgement."""
        options = self.options
        for machine in self.machines:
            machine.start()
        await self._until(self.is_everybody_whole, 30.0, "the nodes are formed")
        self.load_ends_s = self.trouble_ends_s = self.loop.time() + options.duration_s
        self.load_ends_s += 1.0
        trouble = self.trouble = Trouble(self, self._random.getrandbits(64))
        some: list[Client] = [
            *(Client(self, f"c{number}", self._random.getrandbits(64)) for number in range(options.clients)),
            *(Holder(self, f"h{number}", self._random.getrandbits(64)) for number in range(options.lockers)),
            *(Voter(self, f"v{number}", self._random.getrandbits(64)) for number in range(options.voters)),
        ]
        await self._all_of([*(client.run() for client in some), *trouble.works(), self._heal_later()])
        healed_s = self.loop.time()
        await self._until(lambda: not self.what_is_open(), LIVENESS_S, "all is well again")
        self.healed_s = self.loop.time() - healed_s
        await self._read_all()

    async def _all_of(self, works: list[Awaitable[None]]) -> None:
        """The first failure counts; the rest is taken down by the loop."""
        tasks = [asyncio.ensure_future(work) for work in works]
        waiting: set[asyncio.Future[None]] = set(tasks)
        ends_s = self.load_ends_s + LIVENESS_S
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=ends_s - self.loop.time(), return_when=asyncio.FIRST_EXCEPTION
            )
            for task in tasks:
                if task in done:
                    task.result()
            if self.loop.time() >= ends_s:
                raise Violation("the clients are still at work though all has long been well")

    async def _heal_later(self) -> None:
        await asyncio.sleep(self.trouble_ends_s - self.loop.time())
        self.trace.note(self.loop.time(), "-- all is well from now on")
        while self.loop.time() < self.load_ends_s + 0.5:  # what trouble had begun may still end
            self._heal()
            await asyncio.sleep(0.1)
        self._heal()

    def _heal(self) -> None:
        self.network.heal_all()
        for machine in self.machines:
            machine.clock.skew_ms = machine.right_skew_ms
            machine.commit_s = 0.0005
            machine.folder.bytes_free = PLENTY_BYTES
            if machine.process is None:
                machine.start()
            elif machine.process.life.is_paused:
                machine.process.life.resume()

    async def _until(self, is_true: Any, within_s: float, what: str) -> None:
        ends_s = self.loop.time() + within_s
        while not is_true():
            self.fail_if_caught()
            if self.loop.time() > ends_s:
                raise Violation(f"not within {within_s:g} s: {what}. {self.what_is_open()}")
            await asyncio.sleep(LOOK_S)

    def what_is_open(self) -> str:
        """What is still to be done before all is well; empty when nothing is."""
        for machine in self.machines:
            process = machine.process
            if process is None:
                machine.start()  # a commit that had been doomed while all was not well
                return f"n{machine.slot} does not run"
            if not process.is_serving:
                return f"n{machine.slot} is starting"
            node = process.node
            if node.fitness.bars:
                return f"n{machine.slot}: {node.fitness.reasons}"
            if len(node.merge_back) or len(node.hints):
                return f"n{machine.slot} keeps {len(node.merge_back)} aside and {len(node.hints)} hints"
            if len(node.context.sweeper):
                return f"n{machine.slot} has {len(node.context.sweeper)} conversations under way"
            if len(node.locks.desk):
                return f"{len(node.locks.desk)} wait for locks at n{machine.slot}"
            if node.replica.damaged or machine.folder.damaged:
                return f"n{machine.slot} has damaged records"
        return self._what_differs()

    def _what_differs(self) -> str:
        keys = sorted({key for machine in self.machines for key in machine.folder.states})
        for key in keys:
            slots = self.topology.replicas_of(key)
            held = {slot: self._held(slot, key) for slot in slots}
            floor = max(self._floor(slot, key) for slot in slots)
            counted = {
                slot: record
                for slot, record in held.items()
                if not (record is None or (record.value is None and not record.fences and record.origin <= floor))
            }
            if counted and (len(counted) < len(slots) or any(one != counted[slots[0]] for one in counted.values())):
                return f"the replicas of {key!r} differ: {held}, floor {floor}"
        return ""

    def _held(self, slot: int, key: bytes) -> Record | None:
        state = self.machines[slot].folder.states.get(key)
        return state.record if state is not None else None

    def _floor(self, slot: int, key: bytes) -> int:
        process = self.machines[slot].process
        if process is None or not process.is_serving:
            return NONE
        return process.node.marks.floors.get(partition_of(key, self.options.partitions), NONE)

    def final(self, key: str) -> tuple[Record | None, int]:
        """What all replicas hold in the end, and the highest floor."""
        slots = self.topology.replicas_of(key.encode())
        return self._held(slots[0], key.encode()), max(self._floor(slot, key.encode()) for slot in slots)

    async def _read_all(self) -> None:
        reader = Client(self, "last", 0)
        for key in sorted(self.journal.by_key()):
            for slot in range(self.options.nodes):
                operation = await reader.read("last", slot, key, timeout_s=LAST_READ_S)
                if operation.outcome != "ok":
                    raise Violation(f"{key} can't be read through n{slot} though all is well")

    def fail_if_caught(self) -> None:
        """Whatever a callback or a task raised is a fault of the code."""
        if self.loop.caught:
            raise Violation(f"the code failed: {self.loop.caught[0]}")

    def logged(self, _: Any, method: str, event: dict[str, Any]) -> Any:
        """Takes what the nodes log: most of it is dropped, faults are kept."""
        life = own_life()
        if event["event"] in FAILURES and (life is None or life.is_alive):
            error = event.get("exc_info")
            self.loop.caught.append(f"{event['event']} at {life.name if life else '?'}: {event} {error!r}")
        raise structlog.DropEvent


def run_seed(seed: int, options: Options | None = None, *, tells: bool = False) -> Report:
    """Raises Violation, which says what was broken; the seed says how to see it again."""
    began_s = process_time()
    options = options or draw(seed)
    loop, trace = SimulationLoop(), Trace(tells=tells)
    world = World(seed, options, loop, trace)
    with ExitStack() as stack:
        stack.callback(structlog.reset_defaults)
        structlog.configure(processors=[world.logged], cache_logger_on_first_use=False)
        if options.hasty_floors:
            stack.enter_context(patch("cluster.repair.floors.loop.PASS_S", 1.0))
            stack.enter_context(patch("cluster.repair.floors.loop.ASK_OTHERS_EVERY", 3))
            stack.enter_context(patch("cluster.repair.floors.loop.shortest_purge_after_s", lambda _: 0.0))
        was_collecting = gc.isenabled()
        gc.disable()  # it would end forgotten coroutines at moments of its own
        try:
            try:
                loop.run(world.live())
                world.fail_if_caught()
                judge(world)
            finally:
                digest = trace.digest
        except Violation as violation:
            violation.add_note(said_of(seed, options, trace))
            raise
        finally:
            if was_collecting:
                gc.enable()
            gc.collect()
    outcomes: dict[str, int] = {}
    for operation in world.journal.operations:
        outcomes[operation.outcome] = outcomes.get(operation.outcome, 0) + 1
    return Report(
        seed,
        options,
        digest,
        loop.time(),
        process_time() - began_s,
        len(world.journal.operations),
        world.network.frames,
        trace.events,
        world.trouble.happened,
        outcomes,
        world.healed_s,
    )


def said_of(seed: int, options: Options, trace: Trace) -> str:
    """What helps to find out more."""
    again = f"again, with all that happens: python -m tests.simulation {seed}"
    return f"seed {seed}: {options.shown()}\n{again}\ntrace {trace.digest}"
