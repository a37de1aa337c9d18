"""The trouble: what befalls network, nodes, clocks and disks while the load runs, each kind at a rate of its own.

What the store does not promise to survive is not done to it: at most one node has lost its memory at a time, and an
older copy of a folder is put back only where the others are known to remember more (docs/convergence.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING

from storage.memory import MemoryFolder
from tests.simulation.machine import PLENTY_BYTES, RESERVE_BYTES, Machine

if TYPE_CHECKING:
    from tests.simulation.world import World

COPY_EVERY_S = 2.0
"""How often a copy of a folder is made that may be put back later."""


class Trouble:
    """Everything bad that happens in a run."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._random, self._loop = world, Random(seed), world.loop
        self._options = world.options
        self._copies: dict[int, MemoryFolder] = {}
        self.happened: dict[str, int] = {}

    def works(self) -> list[Awaitable[None]]:
        """One for each kind that this run has."""
        options = self._options
        kinds: list[tuple[float, Callable[[Random], Awaitable[None]]]] = [
            (options.partitions_rate, self._part),
            (options.slow_links_rate, self._slow_link),
            (options.kills_rate, self._kill),
            (options.pauses_rate, self._pause),
            (options.jumps_rate, self._jump),
            (options.slow_disks_rate, self._slow_disk),
            (options.full_disks_rate, self._full_disk),
            (options.failing_disks_rate, self._failing_disk),
            (1 / COPY_EVERY_S if options.rollbacks else 0.0, self._copy),
            (options.kills_rate if options.rot else 0.0, self._rot),
        ]
        return [self._again(rate, act, Random(self._random.getrandbits(64))) for rate, act in kinds if rate]

    async def _again(self, rate: float, act: Callable[[Random], Awaitable[None]], random: Random) -> None:
        while True:
            await self._for(random.expovariate(rate))
            if self._loop.time() >= self._world.trouble_ends_s:
                return
            await act(random)

    async def _for(self, s: float) -> None:
        """So long, or until all is to be well."""
        await asyncio.sleep(max(0.0, min(s, self._world.trouble_ends_s - self._loop.time())))

    def _say(self, what: str, kind: str) -> None:
        self.happened[kind] = self.happened.get(kind, 0) + 1
        self._world.trace.note(self._loop.time(), f"-- {what}")

    def _some(self, random: Random) -> Machine:
        return random.choice(self._world.machines)

    # -- the network -------------------------------------------------------------------------------------------

    async def _part(self, random: Random) -> None:
        count, network = self._options.nodes, self._world.network
        slots = random.sample(range(count), count)
        shape = random.choice(("one", "one", "halves", "bridge", "one way", "deaf"))
        if shape == "one":
            pairs = [pair for other in slots[1:] for pair in ((slots[0], other), (other, slots[0]))]
        elif shape == "halves":
            half = count // 2
            pairs = [p for a in slots[:half] for b in slots[half:] for p in ((a, b), (b, a))]
        elif shape == "bridge":  # the two sides see one node, and that one sees both
            half = (count - 1) // 2
            pairs = [p for a in slots[1 : 1 + half] for b in slots[1 + half :] for p in ((a, b), (b, a))]
        elif shape == "one way":
            pairs = [(slots[0], slots[1])]
        else:
            pairs = [(other, slots[0]) for other in slots[1:]]
        self._say(f"parted, {shape}: {pairs}", f"parted, {shape}")
        for pair in pairs:
            network.cut(*pair)
        await self._for(random.expovariate(1 / self._options.parted_s))
        self._world.trace.note(self._loop.time(), f"-- healed: {pairs}")
        for pair in pairs:
            network.heal(*pair)

    async def _slow_link(self, random: Random) -> None:
        pair = random.choice(list(self._world.network.links))
        link, slow_s = self._world.network.links[pair], random.choice((0.05, 0.3, 1.5))
        self._say(f"the link {pair} is slower by {slow_s} s", "slow link")
        link.slow_s = slow_s
        await self._for(random.expovariate(1 / self._options.parted_s))
        link.slow_s = 0.0

    # -- the nodes ---------------------------------------------------------------------------------------------

    async def _kill(self, random: Random) -> None:
        options, world = self._options, self._world
        if random.random() < options.kill_all and not world.amnesiacs():
            self._say("all are killed", "all killed")
            for machine in world.machines:
                machine.kill("all are", is_told=random.random() < 0.5)
            await self._for(random.expovariate(1 / options.down_s))
            for machine in world.machines:
                await self._for(random.choice((0.0, random.random() * options.down_s)))
                self._start(machine)
            return
        machine = self._some(random)
        if machine.process is None:
            return
        loses = random.choices(("nothing", "all", "some"), (1.0, options.wipes, options.rollbacks))[0]
        folder = self._lost_folder(machine, loses)
        if folder is None and world.is_rolled_back:
            return  # whoever remembers more of that node must not go before that is noticed
        self._say(
            f"n{machine.slot} is killed, and loses {loses if folder is not None else 'nothing'}",
            f"killed, loses {loses}",
        )
        machine.kill("kill -9", is_told=random.random() < 0.6)
        if folder is not None:
            world.has_forgotten(machine, folder, loses == "some")
        await self._for(0.05 if loses == "some" else random.expovariate(1 / options.down_s))
        self._start(machine)

    def _lost_folder(self, machine: Machine, loses: str) -> MemoryFolder | None:
        """What takes the place of the folder; None where it must stay."""
        world = self._world
        if loses == "nothing" or world.amnesiacs() or not world.is_everybody_whole():
            return None
        if loses == "all":
            return machine.new_folder()
        copy = self._copies.get(machine.slot)
        process = machine.process
        if copy is None or process is None or copy.incarnation != machine.folder.incarnation:
            return None
        for peer in world.machines:
            if peer is machine:
                continue
            assert peer.process is not None
            remembered = peer.process.node.recollection.peers
            if remembered.commit_sequence(machine.slot) <= copy.commit_sequence:
                return None
        if process.node.recollection.verification.standing.name != "WHOLE":
            return None
        del self._copies[machine.slot]
        return copy

    def _start(self, machine: Machine) -> None:
        if machine.process is None:
            self._world.trace.note(self._loop.time(), f"-- n{machine.slot} starts")
            machine.start()

    async def _copy(self, random: Random) -> None:
        machine = self._some(random)
        if not self._world.amnesiacs():
            self._copies[machine.slot] = machine.copy_folder()

    async def _pause(self, random: Random) -> None:
        machine = self._some(random)
        process = machine.process
        if process is None:
            return
        self._say(f"n{machine.slot} is paused", "paused")
        process.life.pause()
        await self._for(random.expovariate(1 / self._options.down_s))
        if process.life.is_alive:
            self._world.trace.note(self._loop.time(), f"-- n{machine.slot} goes on")
            process.life.resume()

    # -- clocks ------------------------------------------------------------------------------------------------

    async def _jump(self, random: Random) -> None:
        machine, options = self._some(random), self._options
        is_far = random.random() < options.far_jumps
        step_s = (
            random.choice((5.0, 60.0, 3600.0)) * options.clock_offset_max_s
            if is_far
            else random.random() * options.clock_offset_max_s / 2
        )
        step_s *= random.choice((-1, 1))
        self._say(
            f"the wall clock of n{machine.slot} steps by {step_s:.3f} s",
            "far step of a clock" if is_far else "step of a clock",
        )
        machine.clock.skew_ms = machine.right_skew_ms + step_s * 1000
        await self._for(random.expovariate(1 / 5.0))
        machine.clock.skew_ms = machine.right_skew_ms
        self._world.trace.note(self._loop.time(), f"-- the wall clock of n{machine.slot} is right again")

    # -- disks -------------------------------------------------------------------------------------------------

    async def _slow_disk(self, random: Random) -> None:
        machine = self._some(random)
        slow_s = random.choice((0.05, 0.3, 1.5))
        self._say(f"the disk of n{machine.slot} takes {slow_s} s a commit", "slow disk")
        machine.commit_s = slow_s
        await self._for(random.expovariate(1 / 3.0))
        machine.commit_s = self._options.commit_s

    async def _full_disk(self, random: Random) -> None:
        machine = self._some(random)
        is_quite = random.random() < 0.5
        self._say(f"the disk of n{machine.slot} is {'quite ' if is_quite else ''}full", "full disk")
        machine.folder.bytes_free = 0 if is_quite else RESERVE_BYTES // 2
        await self._for(random.expovariate(1 / 4.0))
        machine.folder.bytes_free = PLENTY_BYTES

    async def _failing_disk(self, random: Random) -> None:
        machine = self._some(random)
        if machine.process is None or self._world.amnesiacs():
            return
        applied = random.random() < 0.5
        self._say(
            f"the next commit of n{machine.slot} fails, {'written all the same' if applied else 'and is lost'}",
            "failing disk",
        )
        process = machine.process
        process.engine.fail_next_commit("the disk failed", applied=applied)
        await self._for(random.expovariate(1 / self._options.down_s))
        if machine.process is None:
            self._start(machine)

    async def _rot(self, random: Random) -> None:
        machine, world = self._some(random), self._world
        states = machine.folder.states
        if machine.process is None or not states or world.amnesiacs() or not world.is_everybody_whole():
            return
        if any(other.folder.damaged for other in world.machines if other is not machine):
            return
        key = random.choice(sorted(states))
        self._say(f"the row of {key!r} rots at n{machine.slot}", "rot")
        machine.folder.damaged[key] = "a bit has flipped"
        world.has_forgotten_key(machine, key)
