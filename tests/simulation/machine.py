"""A machine: a disk that outlives what runs on it, two clocks that need not be right, and one process at a time.

The process is the real ClusterNode over the real GroupCommit and the engine's crashable twin. Killed at any moment, it
loses what was not committed; started again, it has what its folder has: its own, a new one, or an older copy of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from copy import deepcopy
from random import Random
from typing import Any, TypeVar

from cluster.node import ClusterNode
from cluster.tasks import Tasks
from storage.engine import Batch
from storage.group_commit import GroupCommit
from storage.memory import MemoryEngine, MemoryFolder
from tests.simulation.loop import WALL_START_MS, Life, SimulationLoop
from tests.simulation.network import Network, SimulatedTransport
from tests.simulation.options import Options

Result = TypeVar("Result")
RESERVE_BYTES = 1 << 20
PLENTY_BYTES = 1 << 40


class Broken:
    """The connection to the node ended before an answer: nobody knows."""

    def __repr__(self) -> str:
        return "the connection broke"


class Refused:
    """Nobody listens at that address: nothing was sent."""

    def __repr__(self) -> str:
        return "the connection was refused"


BROKEN, REFUSED = Broken(), Refused()


class SimulatedClock:
    """A machine's clocks: the one that can be set, and the one that can't."""

    def __init__(self, loop: SimulationLoop, skew_ms: float, drift: float, began_s: float) -> None:
        """drift: by how much both run too fast. began_s: what the monotonic one showed at first."""
        self._loop, self.skew_ms, self._rate, self._began_s = loop, skew_ms, 1.0 + drift, began_s

    def wall_ms(self) -> int:
        return WALL_START_MS + int(self._loop.time() * 1000 * self._rate + self.skew_ms)

    def monotonic_s(self) -> float:
        return self._began_s + self._loop.time() * self._rate


class Disk(MemoryEngine):
    """The engine, with the trace told of each commit."""

    machine: Machine

    async def _commit(self, batch: Batch, previous: asyncio.Task[None] | None) -> None:
        await super()._commit(batch, previous)
        self.machine.committed(batch)


class OwnTasks(Tasks):
    """The tasks of a process; those that fail are a fault of the code, unless its disk has gone."""


class Process:
    """One run of a node."""

    def __init__(self, machine: Machine, engine: Disk, random: Random) -> None:
        self.machine, self.slot, self.engine = machine, machine.slot, engine
        world = machine.network
        self.life = Life(f"n{machine.slot}", world.loop)
        self.clock = machine.clock
        self.tasks = OwnTasks()
        self.transport = SimulatedTransport(world, machine.slot, machine.clock, random)
        self.transport.process = self
        self.calls: dict[int, asyncio.Future[Any]] = {}
        self.random = random
        self.is_serving = False
        self.node: ClusterNode

    async def run(self) -> None:
        """Starts the node, as kvstore/node/node.py does. In its own life."""
        await self.engine.open()
        commits = GroupCommit(self.engine, self._commit_failed)
        options, topology = self.machine.options, self.machine.network.topology
        self.node = ClusterNode(
            slot=self.slot,
            topology=lambda: topology,
            engine=self.engine,
            commits=commits,
            transport=self.transport,
            clock=self.clock,
            random=self.random,
            tasks=self.tasks,
            cache_bytes_max=options.cache_bytes_max,
            clock_offset_max_s=options.clock_offset_max_s,
            disk_reserve_bytes=RESERVE_BYTES,
            anti_entropy_interval_s=options.anti_entropy_interval_s,
            purge_after_s=options.purge_after_s,
        )
        commits.start()
        await self.node.load()
        self.machine.network.processes[self.slot] = self
        self.transport.start()
        await self.node.start()
        self.is_serving = True

    def _commit_failed(self, error: BaseException) -> None:
        # Not here: the process is killed from outside of it.
        loop = self.machine.network.loop
        loop.call_soon(self.machine.kill, f"a commit failed: {error}", context=self.machine.outside)


class Machine:
    """One machine of the cluster."""

    def __init__(self, network: Network, slot: int, options: Options, random: Random) -> None:
        self.network, self.slot, self.options, self.random = network, slot, options, random
        drift = (random.random() * 2 - 1) * options.drift
        skew_ms = (random.random() * 2 - 1) * options.skew_s * 1000
        self.clock = SimulatedClock(network.loop, skew_ms, drift, random.random() * 1e6)
        self.right_skew_ms = skew_ms
        self.folder = self.new_folder()
        self.process: Process | None = None
        self.commit_s = options.commit_s
        self.outside = Life("the world", network.loop).context
        self.forgot_s: list[float] = []
        """When it lost its memory, or some of it."""
        self.told: Callable[[int, Batch], None] = lambda slot, batch: None

    def new_folder(self) -> MemoryFolder:
        """An empty one."""
        return MemoryFolder(incarnation=f"{self.random.getrandbits(128):032x}")

    def start(self, folder: MemoryFolder | None = None) -> None:
        """Begins to run on its folder, or on that one from now on."""
        assert self.process is None
        if folder is not None:
            self.folder = folder
        engine = Disk(self.folder, commit_delay=self._commit_delay)
        engine.machine = self
        process = self.process = Process(self, engine, Random(self.random.getrandbits(64)))
        self.network.loop.create_task(self._run(process), context=process.life.context)

    async def _run(self, process: Process) -> None:
        try:
            await process.run()
        except Exception as error:
            self.network.loop.caught.append(f"n{self.slot} can't start: {error!r}")

    async def _commit_delay(self) -> None:
        await asyncio.sleep(self.commit_s * (0.5 + self.random.random()))

    def committed(self, batch: Batch) -> None:
        """A transaction of its process is on disk."""
        self.told(self.slot, batch)

    def kill(self, why: str, *, is_told: bool = True) -> None:
        """The process ends here and now. is_told: its kernel lives, and tells its peers."""
        process = self.process
        if process is None:
            return
        self.process = None
        network = self.network
        network.processes.pop(self.slot, None)
        network.trace.note(network.loop.time(), f"n{self.slot} killed: {why}")
        process.life.kill()
        process.engine.crash()
        for peer in network.processes.values():
            link = network.links[self.slot, peer.slot]
            if is_told and not link.is_cut:
                after_s = network.delay_s(link)
                network.loop.call_later(after_s, peer.transport.target_died, self.slot, context=peer.life.context)
        calls, process.calls = process.calls, {}
        for answered in calls.values():
            if not answered.done():
                answered.set_result(BROKEN)

    def copy_folder(self) -> MemoryFolder:
        """What is committed at this moment."""
        copy = deepcopy(self.folder)
        copy.in_use = False
        return copy

    def ask(
        self, work: Callable[[ClusterNode], Coroutine[Any, Any, Result]]
    ) -> asyncio.Future[Result | Broken | Refused]:
        """A client's request to the process that runs here: what it answers, or what becomes of the connection."""
        loop, process = self.network.loop, self.process
        answered: asyncio.Future[Any] = loop.create_future()
        if process is None or not process.is_serving:
            answered.set_result(REFUSED)
            return answered
        number = next(loop.numbers)
        process.calls[number] = answered
        task = loop.create_task(work(process.node), context=process.life.context.copy())

        def ended(done: asyncio.Task[Any]) -> None:
            process.calls.pop(number, None)
            if answered.done():
                return
            if done.cancelled() or done.exception() is not None:
                loop.caught.append(f"n{self.slot} failed a request: {done!r}")
                answered.set_result(BROKEN)
            else:
                answered.set_result(done.result())

        task.add_done_callback(ended, context=self.outside)
        return answered
