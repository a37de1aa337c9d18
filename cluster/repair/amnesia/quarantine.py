"""Quarantine: single records that are damaged, and how each becomes whole again.

A record whose checksum is wrong is no absence, and its promise is gone with it. So its key takes part in nothing on
this replica (Replica.damaged) until a round that leaves this replica out has settled it; what that left, and the
round's ballot as promise, then replace what was damaged.

A row that is found by its key needs no more: it stays damaged, and is found damaged after a restart too, until it is
written anew. A row that is not, because its key or the index to it has rotted, has to be removed by its number; its key
would then look like one never heard of, and is noted on disk before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import structlog

from cluster.membership.fitness import Bar
from cluster.repair.amnesia.recovery import Recovery
from cluster.repair.amnesia.rounds import Rounds
from cluster.repair.parts import Parts
from storage.engine import CantMend, Rot

QUARANTINE = "quarantine"
"""The fact that lists the keys whose damaged rows were removed and that are not settled yet."""
AT_ONCE = 8
INTERVAL_S = 0.5
RETRY_S = 5.0
"""Pause after a round that could not settle a key."""
_UNREADABLE = -1
"""The number that a scrub gives to what it can't read."""
log = structlog.get_logger()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[bytes, str]).decode


class Quarantine:
    """The damaged keys of one replica, and the task that recovers them."""

    def __init__(self, parts: Parts, rounds: Rounds, recovery: Recovery, lose_all: Callable[[str], None]) -> None:
        """lose_all(reason) sends the whole node into recovery: a row was lost, and nobody can say of which key."""
        self._rounds, self._recovery, self._lose_all = rounds, recovery, lose_all
        self._replica, self._engine, self._commits = parts.replica, parts.engine, parts.commits
        self._trees, self._fitness, self._tasks = parts.trees, parts.fitness, parts.tasks
        self._topology = parts.topology
        noted = parts.engine.facts.get(QUARANTINE)
        self._noted: dict[bytes, str] = _decode(noted) if noted else {}
        self._under_way: set[bytes] = set()
        self._passed_over: set[int] = {0}
        for key, reason in self._noted.items():
            self._replica.exclude(key, reason)

    async def found(self, rotten: list[Rot]) -> None:
        """A scrub has found damaged rows: their keys take part in nothing from now on, and the rows go."""
        for rot in rotten:
            if rot.row == 0:  # kept aside, or a hint: no acceptor's memory
                log.error("a weak write that waited on this disk has rotted", reason=rot.reason)
        rotten = [rot for rot in rotten if rot.row not in self._passed_over]
        unreadable = [rot for rot in rotten if rot.row < 0]
        if unreadable:
            await self._bar_for_good(unreadable[0].reason)
            return
        keyless = [rot for rot in rotten if rot.key is None]
        if keyless:
            async with self._recovery.gate:
                self._lose_all(f"the key of a row has rotted, and nothing tells whose it was: {keyless[0].reason}")
                await self._remove([rot.row for rot in keyless])
        keys = {rot.key: rot for rot in rotten if rot.key is not None and not self._is_in_hand(rot.key)}
        if keys:
            self._under_way |= keys.keys()  # the row that is removed must not be one that was restored meanwhile
            try:
                await self._exclude(keys)
            finally:
                self._under_way -= keys.keys()

    async def _exclude(self, keys: Mapping[bytes, Rot]) -> None:
        for key, rot in keys.items():
            if key not in self._replica.damaged:
                log.error("a record is damaged; this replica takes no part for its key until it is settled anew",
                          key=repr(key), reason=rot.reason)  # fmt: skip
            self._replica.exclude(key, rot.reason)
            self._noted[key] = rot.reason
        self._note()
        await self._remove([rot.row for rot in keys.values()])

    async def _remove(self, rows: list[int]) -> None:
        """Removes rows once it is on disk that something is to be recovered for them."""
        await self._commits.wait(self._commits.ticket)
        try:
            await self._commits.alone(lambda: self._engine.mend(rows))
        except CantMend as error:
            # They stay, and what is written anew for their keys is another row. Only a new folder is without them.
            self._passed_over.update(rows)
            log.error("damaged rows can't be removed; let this node start with a new folder soon", error=str(error))

    async def _bar_for_good(self, reason: str) -> None:
        """Pages can't be read, so nobody knows what was on them, and what is written beside them may fail."""
        self._passed_over.add(_UNREADABLE)
        advice = "move this folder away and start with a new one"
        if self._topology().n > 1:
            try:
                self._engine.condemn(reason)
                advice = "start this node again, which sets the database aside and learns all anew from the others"
            except OSError as error:
                log.error("it can't be noted that the database is damaged", error=str(error))
        await self._recovery.gate.acquire()  # and never lets go: on this folder there is no recovery
        self._lose_all(f"{reason}; {advice}")

    def _is_in_hand(self, key: bytes) -> bool:
        """Whether the key is written anew just now; if it turns out not to be, the next sweep finds it again."""
        is_recovering = self._trees.partition_of(key) in self._fitness.recovering
        return is_recovering or key in self._under_way or self._replica.is_being_written(key)

    async def run(self) -> None:
        """Recovers what is damaged, for ever."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            if self._fitness.bars & (Bar.UNVERIFIED | Bar.RECOVERING):
                continue  # it learns all of its keys anew then
            if any(key not in self._replica.damaged for key in self._noted):
                self._noted = {key: reason for key, reason in self._noted.items() if key in self._replica.damaged}
                self._note()
            waiting = [key for key in self._replica.damaged if key not in self._under_way]
            for key in waiting[: AT_ONCE - len(self._under_way)]:
                self._under_way.add(key)
                self._tasks.spawn(self._recover(key), "recover a damaged key")

    async def _recover(self, key: bytes) -> None:
        try:
            others = self._rounds.others(self._trees.partition_of(key))
            settled = None
            if self._rounds.needed <= len(others):
                settled = await self._rounds.settle(key, others, self._rounds.above_all(margin=False))
            if settled is None:
                await asyncio.sleep(RETRY_S)
                return
            await self._commits.wait(await self._replica.restore({key: settled.record}, settled.promised))
            log.warning("a damaged record was settled without this replica and is sound again", key=repr(key),
                        found="nothing" if settled.record is None else "a record")  # fmt: skip
        finally:
            self._under_way.discard(key)

    def _note(self) -> int:
        return self._commits.set_fact(QUARANTINE, _encode(self._noted))
