"""Mending: each difference is looked at a second time, and the newer record goes to the side that lacks it.

Keys under a live write differ for a moment all the time, and what is under way needs no help. So nothing is sent for
a key unless both sides still hold what they held SECOND_LOOK_S before.

What is sent is an ordinary accept, to the other replica or to this node's own. There is no other door. Where only the
fences differ, both are sent the record with the fences of both: under the same ballot an accept does no more than join
them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from enum import Enum, auto

from cluster.coordination.reading.read_repair import clear_promise
from cluster.protocol.messages import Accept, Accepted, Held, Outcome, Read, Refused, Settled
from cluster.repair.anti_entropy.asking import Asking
from cluster.repair.anti_entropy.at_once import at_once
from cluster.repair.anti_entropy.differences import Difference, ballot_of
from cluster.repair.parts import Parts
from storage.ballot import NONE
from storage.engine import Row
from storage.fences import digest_of
from storage.record import Record

SECOND_LOOK_S = 1.0
KEYS_AT_ONCE = 64
"""Keys of one wave: what is read and accepted together shares loads and commits."""
WAVE_BYTES = 16 << 20
"""About what the values of a wave may hold in memory. How large they are shows only in the wave before."""
VALUE_BYTES_GUESSED = 1 << 20
"""Of the largest value, before the first wave."""
BUSY = 16
"""Conversations of clients under way on this node, from which on a wave waits."""
BUSY_PAUSE_S = 0.05
CLEARINGS_AT_ONCE = 16
CLEARING_S_MAX = 15.0
"""No more rounds are begun after that: where the primaries of many keys are silent, the next comparison goes on."""


class _End(Enum):
    """What became of one difference."""

    VANISHED = auto()
    """Nothing differs any more, or something else does."""
    MOVED = auto()
    LEFT = auto()


class Mending:
    """Brings this node's replica and a peer's together."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def mend(self, asking: Asking, differences: Iterable[Difference]) -> set[bytes]:
        """Looks at the differences again, at least SECOND_LOOK_S after they were found; the keys that still differ."""
        left: set[bytes] = set()
        stuck: dict[bytes, Record] = {}
        todo = deque(differences)
        largest = VALUE_BYTES_GUESSED
        while todo and not asking.is_vain:
            await self._give_way()
            count = max(1, min(KEYS_AT_ONCE, WAVE_BYTES // largest))
            wave = [todo.popleft() for _ in range(min(count, len(todo)))]
            mended = [_Mended(self._parts, asking, difference) for difference in wave]
            await asyncio.gather(*(one.run() for one in mended))
            for one in mended:
                if one.end is _End.LEFT:
                    left.add(one.key)
                elif one.end is None and one.record is not None:
                    stuck[one.key] = one.record
            if sizes := [len(one.record.value or b"") for one in mended if one.record is not None]:
                largest = max(largest // 2, 1, *sizes)
        left |= {difference.key for difference in todo}
        return left | await self._clear(asking, stuck)

    async def _give_way(self) -> None:
        """Clients go first."""
        if len(self._parts.context.sweeper) >= BUSY:
            await asyncio.sleep(BUSY_PAUSE_S)

    async def _clear(self, asking: Asking, stuck: dict[bytes, Record]) -> set[bytes]:
        """Promises stand in the way of these; the keys of which they still do."""
        clock, topology = self._parts.context.clock, self._parts.topology()
        until_s = clock.monotonic_s() + CLEARING_S_MAX
        left = set(stuck)

        async def clear(key: bytes) -> None:
            if clock.monotonic_s() >= until_s:
                return
            ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            clear_promise(self._parts.context, topology, key, stuck[key], ended.set_result)
            if isinstance(await ended, Settled):
                asking.tally.cleared += 1
                left.discard(key)

        await at_once(CLEARINGS_AT_ONCE, stuck, clear)
        return left


class _Mended:
    """One difference on its way."""

    __slots__ = ("_asking", "_difference", "_parts", "end", "key", "record")

    def __init__(self, parts: Parts, asking: Asking, difference: Difference) -> None:
        self._parts, self._asking, self._difference = parts, asking, difference
        self.key = difference.key
        self.record: Record | None = None
        """The newer one, once it is known."""
        self.end: _End | None = None
        """None at the end: a promise stands in the way."""

    async def run(self) -> None:
        """The second look, and the accept."""
        asking, difference = self._asking, self._difference
        is_newer_here = difference.is_newer_here
        if is_newer_here and not self._parts.context.roster.is_writable(asking.slot):
            self.end = _End.LEFT
            return
        if difference.is_of_fences:
            await self._join_fences()
            return
        here = await asking.here(Read(self.key, value=is_newer_here))
        if isinstance(here, Held) and _ballot(here) != ballot_of(difference.here):
            self.end = _End.VANISHED
            return
        there = await asking.there(Read(self.key, value=not is_newer_here))
        if not isinstance(here, Held) or not isinstance(there, Held):
            self.end = _End.LEFT
        elif _ballot(there) != ballot_of(difference.there):
            self.end = _End.VANISHED
        else:
            asking.tally.differed.add(self.key)
            self.record = here.record if is_newer_here else there.record
            await self._bring(is_newer_here)

    async def _bring(self, is_newer_here: bool) -> None:
        asking, record = self._asking, self.record
        assert record is not None, "what is newer than something is something"
        ask = asking.there if is_newer_here else asking.here
        older = self._difference.there if is_newer_here else self._difference.here
        answer = await ask(Accept(self.key, record, NONE, yielding=record.weak))
        if isinstance(answer, Refused) and older is not None and _only_yields(answer, record, older.promised):
            answer = await ask(Accept(self.key, record, NONE))
        if isinstance(answer, Accepted):
            self.end = _End.MOVED
            if is_newer_here:
                asking.tally.sent += 1
            else:
                asking.tally.fetched += 1
        elif not isinstance(answer, Refused):
            self.end = _End.LEFT
        elif answer.ballot >= record.ballot:
            self.end = _End.VANISHED

    async def _join_fences(self) -> None:
        """The second look at one write that bears other fences here than there, and an accept for who lacks any."""
        asking, difference = self._asking, self._difference
        here = await asking.here(Read(self.key, value=True))
        there = await asking.there(Read(self.key, value=False))
        if not isinstance(here, Held) or not isinstance(there, Held):
            self.end = _End.LEFT
            return
        if not _is_still(here, difference.here) or not _is_still(there, difference.there):
            self.end = _End.VANISHED
            return
        if here.record is None or there.record is None:
            raise AssertionError("what bears a ballot is a record")
        asking.tally.differed.add(self.key)
        self.record = record = here.record.bearing(there.record.fences)
        answers = []
        if record.fences != there.record.fences:
            answers.append(await asking.there(Accept(self.key, record, NONE)))
            asking.tally.sent += isinstance(answers[-1], Accepted)
        if record.fences != here.record.fences:
            answers.append(await asking.here(Accept(self.key, record, NONE)))
            asking.tally.fetched += isinstance(answers[-1], Accepted)
        if all(isinstance(answer, Accepted) for answer in answers):
            self.end = _End.MOVED
        else:  # newer there by now, or unfit
            self.end = _End.VANISHED if any(isinstance(answer, Refused) for answer in answers) else _End.LEFT


def _is_still(held: Held, row: Row | None) -> bool:
    """Whether the replica holds what the row said."""
    fences = digest_of(held.record.fences) if held.record is not None else 0
    return _ballot(held) == ballot_of(row) and fences == (row.fences if row is not None else 0)


def _only_yields(refused: Refused, record: Record, promised: int) -> bool:
    """Whether the ballot would do, and nothing stands in the way but the courtesy to a strong proposer.

    It is not at work if its promise is the one from the first look: a ballot that was prepared once and is kept for
    later, which the key's newer record has outdated.
    """
    return record.weak and refused.ballot < record.ballot >= refused.promised == promised


def _ballot(held: Held) -> int:
    return held.record.ballot if held.record is not None else NONE
