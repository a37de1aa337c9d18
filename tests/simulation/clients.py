"""The load: clients that read and write few keys in many ways, holders of locks that write under their fence, voters.

Each tells the journal what it asked and what it was told, and no more is concluded than docs/protocol.md allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from cluster.coordination.drive import SWEEP_S
from cluster.levels import Level, majority
from cluster.locks.lock_state import Wish, token_digest
from cluster.locks.outcomes import LockGranted, LockLost
from cluster.locks.vote import Decision, Proposal, Voted
from cluster.node import ClusterNode
from cluster.requests import (
    ALWAYS,
    BadFence,
    Condition,
    ConditionKind,
    Conflict,
    Fence,
    Found,
    Listed,
    ListRequest,
    NoRoom,
    Overloaded,
    ReadRequest,
    Unavailable,
    Unknown,
    WriteOutcome,
    WriteRequest,
    Written,
)
from tests.simulation.journal import Operation, Violation
from tests.simulation.machine import BROKEN, REFUSED, Broken, Refused

if TYPE_CHECKING:
    from tests.simulation.world import World

LATE_S = 4 * SWEEP_S
"""By how much an answer may come after its deadline."""
GIVE_UP_S = 1.0
"""How long a client waits beyond that, for a node that is paused: then it hangs up."""
KINDS = ("read", "put", "delete", "cas", "weak", "eventual", "weak-read", "listing")


BURST_MAX = 12
"""Writes of one key at once."""


class Connection:
    """A client's connection, as a node that keeps a lock for it sees it."""

    is_here = True

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Calls back when it ends."""
        if self.is_here:
            self._callbacks.append(callback)
        else:
            callback()

    def end(self) -> None:
        """The client is gone."""
        self.is_here = False
        for callback in self._callbacks:
            callback()


class Client:
    """One client. Draws from a generator of its own, so that what it asks does not depend on the others."""

    def __init__(self, world: World, name: str, seed: int) -> None:
        self.world, self.name, self.random = world, name, Random(seed)
        self.options, self.journal, self.loop = world.options, world.journal, world.loop
        self.known: dict[str, tuple[str | None, int]] = {}
        """Key -> value and version as it last read them."""
        self.n = world.topology.n

    # -- asking ------------------------------------------------------------------------------------------------

    async def ask(
        self,
        slot: int,
        work: Callable[[ClusterNode], Coroutine[Any, Any, Any]],
        timeout_s: float,
        *,
        waits_s: float = 0.0,
    ) -> Any:
        """What the node answers; BROKEN or REFUSED."""
        machine = self.world.machines[slot]
        process = machine.process
        paused = process.life.times_paused if process is not None and not process.life.is_paused else -1
        began_s = self.loop.time()
        answered = machine.ask(work)
        await asyncio.wait([answered], timeout=timeout_s + waits_s + LATE_S + GIVE_UP_S)
        if not answered.done():
            assert process is not None
            if process.life.is_alive and process.life.times_paused == paused and not waits_s:
                raise Violation(f"{self.name} had no answer of n{slot} by its deadline, {timeout_s:g} s")
            answered.set_result(BROKEN)
        took_s = self.loop.time() - began_s
        if took_s > timeout_s * 1.001 + LATE_S and not waits_s and not isinstance(answered.result(), Broken):
            assert process is not None
            if process.life.times_paused == paused:
                raise Violation(f"{self.name} was answered by n{slot} after {took_s:g} s, asked for {timeout_s:g} s")
        return answered.result()

    def node(self) -> int:
        """Whom to ask."""
        return self.random.randrange(self.options.nodes)

    def _new_value(self) -> str:
        self.world.values += 1
        return f"v{self.world.values}"

    # -- keys --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Asks until the load ends."""
        options, random = self.options, self.random
        weights = (
            options.reads,
            options.puts,
            options.deletes,
            options.cases,
            options.weak_writes,
            options.eventual_writes,
            options.weak_reads,
            options.listings,
        )
        while self.loop.time() < self.world.load_ends_s:
            await asyncio.sleep(random.expovariate(1 / options.think_s))
            if options.bursts and random.random() < options.bursts:
                await self.burst()
                continue
            if options.batches and random.random() < options.batches:
                await self.batch()
                continue
            count = 3 if random.random() < 0.1 else 1
            kinds = random.choices(KINDS, weights, k=count)
            works = [
                self.once(kind, f"{self.name}.{number}" if number else self.name) for number, kind in enumerate(kinds)
            ]
            await asyncio.gather(*works)

    async def burst(self) -> None:
        """Plain writes of one key, more than its primary begins at once; now and then something else among them."""
        random = self.random
        key, slots = f"k{random.randrange(self.options.keys)}", [self.node() for _ in range(random.choice((1, 1, 3)))]
        works: list[Coroutine[Any, Any, Any]] = []
        for number in range(random.randint(3, BURST_MAX)):
            process, slot = f"{self.name}.{number}", random.choice(slots)
            other = random.random()
            if other < 0.05:
                works.append(self.read(process, slot, key))
            elif other < 0.1:
                works.append(self.cas(process, slot, key))
            else:
                works.append(self.write(process, slot, key, None if other > 0.95 else self._new_value()))
        await asyncio.gather(*works)

    async def batch(self) -> None:
        """Writes of several keys through one node, that go together as far as one node is their primary."""
        random, options, slot = self.random, self.options, self.node()
        written: list[tuple[Operation, WriteRequest]] = []
        for number, key in enumerate(random.sample(range(options.keys), random.randint(1, min(options.keys, 6)))):
            value, version = self.known.get(f"k{key}", (None, 0))
            condition = ALWAYS
            if value is not None and random.random() < 0.3:
                condition = Condition(ConditionKind.IF_VERSION, version)
            after = None if random.random() < 0.1 else self._new_value()
            expected = None if condition is ALWAYS else value
            written.append(
                self._begin_write(f"{self.name}.{number}", f"k{key}", after, condition=condition, expected=expected)
            )
        needed = max(request.needed for _, request in written)
        requests = [replace(request, needed=needed) for _, request in written]
        told = await self.ask(slot, lambda node: _written_together(node, requests), options.timeout_s)
        for number, (operation, request) in enumerate(written):
            outcome = told[number] if isinstance(told, list) else told
            self._written(operation, slot, outcome, request.condition)

    async def once(self, kind: str, process: str) -> None:
        """One operation."""
        random = self.random
        key, slot = f"k{random.randrange(self.options.keys)}", self.node()
        if kind == "read":
            await self.read(process, slot, key)
        elif kind == "weak-read":
            await self.read(process, slot, key, level=random.choice((Level.WEAK, Level.EVENTUAL)))
        elif kind == "listing":
            await self.listing(process, slot)
        elif kind == "cas":
            await self.cas(process, slot, key)
        else:
            level = {"weak": Level.WEAK, "eventual": Level.EVENTUAL}.get(kind, Level.STRONG)
            is_delete = kind == "delete" or (level is not Level.STRONG and random.random() < self.options.deletes / 10)
            await self.write(process, slot, key, None if is_delete else self._new_value(), level=level)

    async def read(
        self,
        process: str,
        slot: int,
        key: str,
        *,
        level: Level = Level.STRONG,
        timeout_s: float = 0.0,
        fence: Fence | None = None,
    ) -> Operation:
        """A read of any level; what a strong one saw is remembered."""
        timeout_s = timeout_s or self.options.timeout_s
        kind = "read" if level is Level.STRONG else "weak-read"
        needed = majority(self.n) if level is Level.STRONG else self.random.choice((1, 1, 2))
        operation = self.journal.begin(self.loop.time(), process, kind, key)
        request = ReadRequest(key.encode(), level, needed, timeout_s, fence)
        operation.fence = fence.number if fence is not None else 0
        outcome = await self.ask(slot, lambda node: node.read(request), timeout_s)
        if isinstance(outcome, Found):
            record = outcome.record
            value = _text(record.value) if record is not None else None
            operation.version = record.origin if record is not None else 0
            self._end(operation, slot, "ok", value)
            if level is Level.STRONG and record is not None:
                self.known[key] = value, operation.version
        elif isinstance(outcome, BadFence):
            raise Violation(f"{self.name}: the fence {operation.fence} was granted, and is called bad by n{slot}")
        else:
            self._end(operation, slot, "fail", None, type(outcome).__name__)
            if isinstance(outcome, Conflict) and outcome.fence:
                self.world.fences_reported.append((key, outcome.fence, operation.end or 0.0))
        return operation

    async def listing(self, process: str, slot: int) -> None:
        """A strong listing: a strong read of every key."""
        options = self.options
        keys = [f"k{number}" for number in range(options.keys)]
        operations = [self.journal.begin(self.loop.time(), f"{process}/{key}", "read", key) for key in keys]
        request = ListRequest(b"k", None, 100, True, Level.STRONG, majority(self.n), options.timeout_s)
        outcome = await self.ask(slot, lambda node: node.page(request), options.timeout_s)
        if not isinstance(outcome, Listed):
            for operation in operations:
                self._end(operation, slot, "fail", None, type(outcome).__name__)
            return
        found = {entry.key.decode(): entry.record for entry in outcome.entries}
        for operation in operations:
            record = found.get(operation.key)
            self._end(operation, slot, "ok", _text(record.value) if record is not None else None)

    async def cas(self, process: str, slot: int, key: str) -> None:
        """Over what was read, or where there is nothing."""
        random = self.random
        if key not in self.known or random.random() < 0.5:
            await self.read(process, self.node(), key)
        value, version = self.known.pop(key, (None, 0))
        condition = (
            Condition(ConditionKind.IF_VERSION, version) if value is not None else Condition(ConditionKind.IF_ABSENT)
        )
        after = None if value is not None and random.random() < 0.1 else self._new_value()
        await self.write(process, slot, key, after, condition=condition, expected=value)

    async def write(
        self,
        process: str,
        slot: int,
        key: str,
        value: str | None,
        *,
        level: Level = Level.STRONG,
        condition: Condition = ALWAYS,
        expected: str | None = None,
        fence: Fence | None = None,
    ) -> Operation:
        """A write of any kind."""
        operation, request = self._begin_write(
            process, key, value, level=level, condition=condition, expected=expected, fence=fence
        )
        outcome = await self.ask(slot, lambda node: node.write(request), self.options.timeout_s)
        self._written(operation, slot, outcome, condition)
        return operation

    def _begin_write(
        self,
        process: str,
        key: str,
        value: str | None,
        *,
        level: Level = Level.STRONG,
        condition: Condition = ALWAYS,
        expected: str | None = None,
        fence: Fence | None = None,
    ) -> tuple[Operation, WriteRequest]:
        """What the journal is told of a write, and what is asked for it."""
        options, random = self.options, self.random
        is_strong, is_all = level is Level.STRONG, random.random() < options.w_all
        kind = "delete" if value is None else "put"
        if condition is not ALWAYS:
            kind = "cas"
        elif not is_strong:
            kind = f"weak-{kind}"
        needed = (self.n if is_all else majority(self.n)) if is_strong else (2 if is_all else 1)
        ttl_ms = 0
        if value is not None and random.random() < options.expiring:
            ttl_ms = random.choice((300, 1_000, 4_000))
        operation = self.journal.begin(self.loop.time(), process, kind, key, value, expected)
        operation.fence = fence.number if fence is not None else 0
        if ttl_ms:
            # Nobody's operation: the deletion of this value and of no other, at some moment or never.
            self.journal.begin(self.loop.time(), "time", "expiry", key, None, value)
        padding = b" " * options.value_bytes
        request = WriteRequest(
            key.encode(),
            value.encode() + padding if value is not None else None,
            "",
            level,
            needed,
            options.timeout_s,
            condition,
            ttl_ms,
            fence,
        )
        return operation, request

    def _written(self, operation: Operation, slot: int, outcome: Any, condition: Condition) -> None:
        if isinstance(outcome, Written):
            self.journal.told(operation, outcome.version)
            operation.replicas = outcome.replicas
            if outcome.hinted:
                operation.replicas = tuple(sorted({*outcome.replicas, f"n{slot}"}))
            self._end(operation, slot, "ok", None)
        elif isinstance(outcome, Conflict):
            if outcome.version is not None and outcome.version == condition.version:
                raise Violation(f"{self.name}: {operation.key} conflicts with the very version it was to replace")
            if outcome.version is None:
                seen = None
            else:
                seen = self.journal.values.get((operation.key, outcome.version), f"?{outcome.version}")
            self._end(operation, slot, "conflict", seen, f"fence {outcome.fence}" if outcome.fence else "")
            if outcome.fence:
                self.world.fences_reported.append((operation.key, outcome.fence, operation.end or 0.0))
        elif isinstance(outcome, BadFence):
            raise Violation(f"{self.name}: the fence {operation.fence} was granted, and is called bad by n{slot}")
        elif isinstance(outcome, Unknown | Broken):
            if isinstance(outcome, Unknown) and outcome.version:
                self.journal.told(operation, outcome.version)
            self._tell(operation, slot, "unknown")
        else:
            assert isinstance(outcome, Unavailable | Overloaded | NoRoom | Refused), outcome
            self._end(operation, slot, "fail", None, type(outcome).__name__)

    def _end(self, operation: Operation, slot: int, outcome: str, seen: str | None, why: str = "") -> None:
        self.journal.end(self.loop.time(), operation, outcome, seen)
        self._tell(operation, slot, f"{outcome} {seen if operation.kind.endswith('read') or seen else ''} {why}")

    def _tell(self, operation: Operation, slot: int, said: str) -> None:
        one = operation
        what = f"{one.kind} {one.key}" + (
            f" {one.expected}->{one.value}" if one.kind == "cas" else f" {one.value or ''}"
        )
        fence = f" fence {one.fence}" if one.fence else ""
        self.world.trace.note(
            self.loop.time(), f"{one.process} at n{slot} since {one.start:.4f}: {what}{fence}: {said} ({one.version})"
        )


class Holder(Client):
    """Takes locks, works under them, and lets go, or does not."""

    async def run(self) -> None:
        while self.loop.time() < self.world.load_ends_s:
            await asyncio.sleep(self.random.expovariate(1 / self.options.think_s))
            await self.once_locked()

    async def once_locked(self) -> None:
        """One lock, from asking to letting go."""
        world, random, options, loop = self.world, self.random, self.options, self.loop
        lock, slot, ttl_s = f"l{random.randrange(2)}", self.node(), random.choice((1.0, 2.0, 5.0))
        world.values += 1
        token = token_digest(f"{self.name}/{world.values}")
        wish, wait_s = Wish(self.name, token, int(ttl_s * 1000)), random.choice((0.0, 0.0, 2.0, 8.0))
        connection, began_s = Connection(), loop.time()
        asked = world.journal.moment(began_s)
        outcome = await self.ask(
            slot,
            lambda node: node.locks.acquire(lock, wish, wait_s, options.timeout_s, connection),
            options.timeout_s,
            waits_s=wait_s + 3 * options.timeout_s + 1.0,  # it may be renewed, and looked at, before it is told
        )
        world.trace.note(loop.time(), f"{self.name} at n{slot}: acquires {lock}: {outcome!r}")
        if not isinstance(outcome, LockGranted):
            connection.is_here = False  # its node may be gone, or paused: nobody calls back into it from here
            return
        world.locks.granted(lock, outcome.fence, asked, world.journal.moment(loop.time()))
        if wait_s:
            began_s = loop.time()
            renewed = await self._renew(lock, token)
            if not isinstance(renewed, LockGranted):
                return
        until_s = began_s + ttl_s
        if loop.time() >= until_s:
            return
        hold = world.locks.hold(lock, self.name, until_s, loop.time())
        fence = Fence(lock, outcome.fence)
        dies = random.random() < 0.2
        ends_s = loop.time() + random.random() * random.choice((0.5, 2 * ttl_s))
        while loop.time() < min(ends_s, until_s) and not dies:
            await asyncio.sleep(max(0.0, min(ttl_s / 3, ends_s - loop.time(), until_s - loop.time())))
            if random.random() < options.fenced:
                await self._write_under(fence)
            if loop.time() >= min(ends_s, until_s):
                break
            sent_s = loop.time()
            renewed = await self._renew(lock, token)
            if isinstance(renewed, LockGranted) and loop.time() < sent_s + ttl_s:
                until_s = sent_s + ttl_s
                world.locks.renewed(lock, hold, until_s, loop.time())
            elif isinstance(renewed, LockLost) and loop.time() < until_s:
                raise Violation(f"{self.name} lost {lock} before its lease was over")
        if not dies and loop.time() < until_s:
            world.locks.released(lock, hold)
            await self.ask(
                self.node(),
                lambda node: node.locks.release(lock, token, options.timeout_s),
                options.timeout_s,
                waits_s=1.0,
            )
        if random.random() < options.late_holders:
            await asyncio.sleep(random.random() * 2 * ttl_s)
            await self._write_under(fence)

    async def _write_under(self, fence: Fence) -> None:
        key = f"under-{fence.lock}"
        if self.random.random() < 0.3:
            await self.read(self.name, self.node(), key, fence=fence)
        value = None if self.random.random() < 0.15 else self._new_value()
        await self.write(self.name, self.node(), key, value, fence=fence)
        if self.random.random() < 0.15 * (self.options.weak_writes > 0):
            await self.write(self.name, self.node(), key, self._new_value(), level=Level.WEAK)

    async def _renew(self, lock: str, token: bytes) -> Any:
        timeout_s = self.options.timeout_s
        slot = self.node()
        renewed = await self.ask(slot, lambda node: node.locks.renew(lock, token, timeout_s), timeout_s, waits_s=1.0)
        self.world.trace.note(self.loop.time(), f"{self.name} at n{slot}: renews {lock}: {renewed!r}")
        return renewed


class Voter(Client):
    """Proposes itself again and again, each time in one of a few votes, and looks what was decided."""

    async def run(self) -> None:
        while self.loop.time() < self.world.load_ends_s:
            await asyncio.sleep(self.random.expovariate(1 / self.options.think_s))
            await self.once_voted()

    async def once_voted(self) -> None:
        """One proposal, or one look."""
        world, random, timeout_s = self.world, self.random, self.options.timeout_s
        world.values += 1
        name, slot = f"q{world.values // 8}", self.node()
        if random.random() < 0.3:
            name = f"q{random.randrange(world.values // 8 + 1)}"
            was_decided = name in world.votes.winners
            told = await self.ask(slot, lambda node: node.locks.decision(name, timeout_s), timeout_s, waits_s=1.0)
            if told is None or isinstance(told, Decision):
                winner = told.winner.candidate if told is not None else None
                world.votes.seen(name, winner, self.name, was_decided=was_decided)
            return
        proposal = Proposal(f"{self.name}/{world.values}", b"1")
        voted = await self.ask(slot, lambda node: node.locks.propose(name, proposal, timeout_s), timeout_s, waits_s=1.0)
        world.trace.note(self.loop.time(), f"{self.name} at n{slot}: votes in {name}: {voted!r}")
        if isinstance(voted, Voted):
            world.votes.voted(name, proposal.candidate, voted)


async def _written_together(node: ClusterNode, requests: Sequence[WriteRequest]) -> list[WriteOutcome]:
    """What becomes of each of them."""
    outcomes: dict[int, WriteOutcome] = {}
    ended = asyncio.get_running_loop().create_future()

    def on_outcome(place: int, outcome: WriteOutcome) -> None:
        if place in outcomes:
            raise Violation(f"one write of a batch was told two outcomes: {outcomes[place]!r}, {outcome!r}")
        outcomes[place] = outcome
        if len(outcomes) == len(requests):
            ended.set_result(None)

    node.begin_writes(requests, requests[0].timeout_s, on_outcome)
    await ended
    return [outcomes[place] for place in range(len(requests))]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode().rstrip()


__all__ = ["BROKEN", "REFUSED", "Client", "Holder", "Voter"]
