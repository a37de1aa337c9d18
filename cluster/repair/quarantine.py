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
from collections.abc import Callable

import msgspec
import structlog

from cluster.membership.fitness import Bar
from cluster.repair.parts import Parts
from cluster.repair.rounds import Rounds
from storage.engine import Rot

QUARANTINE = "quarantine"
"""The fact that lists the keys whose damaged rows were removed and that are not settled yet."""
AT_ONCE = 8
INTERVAL_S = 0.5
RETRY_S = 5.0
"""Pause after a round that could not settle a key."""
log = structlog.get_logger()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[bytes, str]).decode


class Quarantine:
    """The damaged keys of one replica, and the task that recovers them."""

    def __init__(self, parts: Parts, rounds: Rounds, lose_all: Callable[[str], None]) -> None:
        """lose_all(reason) sends the whole node into recovery: a row was lost, and nobody can say of which key."""
        self._rounds, self._lose_all = rounds, lose_all
        self._replica, self._engine, self._commits = parts.replica, parts.engine, parts.commits
        self._trees, self._fitness, self._tasks = parts.trees, parts.fitness, parts.tasks
        noted = parts.engine.facts.get(QUARANTINE)
        self._noted: dict[bytes, str] = _decode(noted) if noted else {}
        self._under_way: set[bytes] = set()
        for key, reason in self._noted.items():
            self._replica.exclude(key, reason)

    async def found(self, rotten: list[Rot]) -> None:
        """A scrub has found damaged rows: their keys take part in nothing from now on, and the rows go."""
        rows: list[int] = []
        held: set[bytes] = set()
        for rot in rotten:
            if rot.key is None:
                log.error("a row has lost its key; all keys are to be recovered", row=rot.row, reason=rot.reason)
                self._lose_all(f"the key of a row has rotted: {rot.reason}")
            elif self._is_in_hand(rot.key):
                continue  # it is written anew just now; if it is not, the next sweep finds it again
            else:
                if rot.key not in self._replica.damaged:
                    log.error("a record is damaged; this replica takes no part for its key until it is settled anew",
                              key=repr(rot.key), reason=rot.reason)  # fmt: skip
                self._replica.exclude(rot.key, rot.reason)
                self._noted[rot.key] = rot.reason
                held.add(rot.key)
            rows.append(rot.row)
        if not rows:
            return
        self._under_way |= held  # the row that is removed must not be one that was restored meanwhile
        try:
            await self._commits.wait(self._note())
            await self._commits.alone(lambda: self._engine.mend(rows))
        finally:
            self._under_way -= held

    def _is_in_hand(self, key: bytes) -> bool:
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
