"""Recovery: a replica that lost its memory learns it anew, partition by partition, from rounds that leave it out.

Copying what one of the others holds, or all of them, would not do: an accept that this replica granted before it
forgot, and that reaches a second replica after the copy, is chosen, and nobody else knows. So first the others promise
a ballot R above all that this replica can have answered, for every key of the partition at once (witness.py): from then
on no accept of earlier times can be granted by a majority. Only then what they hold is listed, and copied where they
agree; where they differ, a round settles the key among them.

Until a partition is done, this replica answers nothing for it; until all are, the node proposes nothing. Nothing of an
unfinished recovery is relied on after a restart: it begins anew, and finds most of what it needs here already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from cluster.membership.fitness import Bar
from cluster.protocol.messages import Held, Read
from cluster.protocol.repair_messages import Inventoried, Inventory, PromiseRaised, RaisePromise
from cluster.repair.amnesia.findings import Listed, Place, compare, copies_of, end_of, place_of
from cluster.repair.amnesia.rounds import Rounds
from cluster.repair.amnesia.verification import RECOVERY, UNVERIFIED_FROM
from cluster.repair.parts import Parts
from storage.ballot import NONE
from storage.engine import CUT_SHORT_FACT, Row
from storage.record import Record

PARTITIONS_AT_ONCE = 4
PAGE_ROWS = 500
FETCHES_AT_ONCE = 16
"""Keys of one partition that are fetched, or settled, at a time: bounds the memory of it."""
RETRY_S = 0.5
REPORT_S = 60.0
"""How often the log says how far it is."""
log = structlog.get_logger()


class _NotNow(Exception):
    """A partition can't go on at the moment; the text says for whom or what it waits."""


@dataclass(slots=True)
class Progress:
    """How far a recovery is."""

    partitions: int = 0
    partitions_done: int = 0
    partitions_alone: int = 0
    """Done without anybody, because nobody else holds them: what this node lost of them is lost."""
    keys_fetched: int = 0
    """Taken over where the others agreed."""
    keys_settled: int = 0
    """Brought together by a round of their own."""
    keys_kept: int = 0
    """Held here alone, and kept."""
    keys_dropped: int = 0
    """Held here alone, and deleted for good meanwhile."""


class Recovery:
    """The recovery of one node."""

    def __init__(self, parts: Parts, rounds: Rounds, on_done: Callable[[], None]) -> None:
        """on_done is called when all is learned anew and the bar has fallen."""
        self._rounds, self._on_done = rounds, on_done
        self._replica, self._engine, self._commits = parts.replica, parts.engine, parts.commits
        self._marks, self._trees, self._fitness = parts.marks, parts.trees, parts.fitness
        self._ballots, self._clock, self._tasks = parts.context.ballots, parts.context.clock, parts.tasks
        self._topology, self._own_slot = parts.topology, parts.slot
        self.progress = Progress()
        self._reason = ""
        self._heard_since: dict[int, int] = {}
        self._barred_s = float("inf")
        self._round = NONE
        self._waits: dict[int, str] = {}
        self._is_running = self._must_begin_anew = False
        self.gate = asyncio.Lock()
        """Whoever holds it has the node barred by begin(), and recovered only once it lets go."""

    def begin(self, reason: str) -> None:
        """Bars this node at once, and begins; once more from the beginning, if it was at it already."""
        self._reason = reason
        self._commits.set_fact(RECOVERY, reason.encode())
        self._heard_since.clear()
        self._barred_s = self._clock.monotonic_s()
        self._bar_all()
        if self._is_running:
            self._must_begin_anew = True
            return
        self._is_running = True
        log.error("this node lost its memory, all or some of it; it takes part in nothing until it has recovered",
                  reason=reason, partitions=len(self._fitness.recovering))  # fmt: skip
        self._tasks.spawn(self._run(), "recovery")

    def heard(self, slot: int, ballot: int, sent_s: float) -> None:
        """A peer was asked at that moment, and has said which ballots it knows of.

        The first answer to a question that was sent since this node is barred tells of all that it can have granted.
        """
        if self._is_running and sent_s >= self._barred_s:
            self._heard_since.setdefault(slot, ballot)

    def _bar_all(self) -> None:
        sets = self._topology().replica_slots
        self._fitness.recovering.update(p for p, slots in enumerate(sets) if self._own_slot in slots)
        self._fitness.bar(Bar.RECOVERING, self._words())

    def _words(self) -> str:
        done, progress = "", self.progress
        if progress.partitions:
            keys = progress.keys_fetched + progress.keys_settled
            done = f"; {progress.partitions_done} of {progress.partitions} partitions are done, {keys} keys taken over"
        waits = sorted(set(self._waits.values()))
        waiting = f"; it waits: {waits[0]}" if waits else ""
        return f"this node lost its memory and learns it anew from the others: {self._reason}{done}{waiting}"

    async def _run(self) -> None:
        reporter = self._tasks.spawn(self._report(), "report on the recovery")
        try:
            while True:
                async with self.gate:
                    self._round, self._must_begin_anew = NONE, False
                    self._bar_all()
                waiting = sorted(self._fitness.recovering)
                self.progress = Progress(partitions=len(waiting))
                await asyncio.gather(*(self._work(waiting) for _ in range(PARTITIONS_AT_ONCE)))
                if not self._must_begin_anew:
                    self._commits.set_fact(RECOVERY, b"")
                    self._commits.set_fact(CUT_SHORT_FACT, b"")
                    await self._commits.wait(self._commits.set_fact(UNVERIFIED_FROM, b""))
                    if not self._must_begin_anew:
                        break
                    self._commits.set_fact(RECOVERY, self._reason.encode())
        finally:
            reporter.cancel()
            self._is_running = False
        progress = self.progress
        log.warning(
            "this node has recovered and takes part again; weak writes that only the lost folder had are lost",
            partitions=progress.partitions,
            partitions_lost=progress.partitions_alone,
            keys_fetched=progress.keys_fetched,
            keys_settled=progress.keys_settled,
            keys_kept=progress.keys_kept,
            keys_dropped=progress.keys_dropped,
        )
        self._fitness.clear(Bar.RECOVERING)
        self._on_done()

    async def _report(self) -> None:
        beats = 0
        while True:
            self._fitness.bar(Bar.RECOVERING, self._words())
            beats += 1
            if beats % int(REPORT_S) == 0:
                log.warning("recovering", state=self._words())
            await asyncio.sleep(1.0)

    async def _work(self, waiting: list[int]) -> None:
        """Takes one partition after another from the list."""
        while waiting and not self._must_begin_anew:
            partition = waiting.pop(0)
            while not await self._recovered(partition):
                self._fitness.bar(Bar.RECOVERING, self._words())
                await asyncio.sleep(RETRY_S)
            self._waits.pop(partition, None)
            if self._must_begin_anew:
                return
            self._fitness.recovering.discard(partition)
            self.progress.partitions_done += 1

    async def _recovered(self, partition: int) -> bool:
        try:
            await self._recover(partition)
        except _NotNow as reason:
            self._waits[partition] = str(reason)
            return False
        except Exception as error:
            log.exception("a partition could not be recovered; it is tried again", partition=partition)
            self._waits[partition] = f"partition {partition} failed: {error}"
            return False
        return True

    # -- one partition -----------------------------------------------------------------------------------------

    async def _recover(self, partition: int) -> None:
        others, needed = self._rounds.others(partition), self._rounds.needed
        if needed > len(others):
            self.progress.partitions_alone += 1
            await self._commits.wait(self._replica.raise_promise(partition, self._rounds.above_all()))
            return
        ballot = await self._choose_ballot(others, needed)
        witnesses, floor = await self._raise_promises(partition, ballot, others, needed)
        after: Place | None = None
        while True:
            after = await self._stretch(partition, witnesses, floor, ballot, after)
            if after is None:
                break
        if floor != NONE:
            self._commits.set_fact(*self._marks.raise_floor(partition, floor))
        await self._commits.wait(self._replica.raise_promise(partition, ballot))

    async def _choose_ballot(self, others: tuple[int, ...], needed: int) -> int:
        """R: above all that this replica can have answered. Who is to be a witness has said what ballots it knows."""
        heard = [slot for slot in others if slot in self._heard_since]
        if len(heard) < needed:
            raise _NotNow(self._silent(others, heard, "for word of"))
        if self._round == NONE or any(self._heard_since[slot] >= self._round for slot in heard):
            self._round = self._ballots.tick(self._rounds.above_all())
        ballot = self._round
        await self._rounds.durable()
        return ballot

    async def _raise_promises(
        self, partition: int, ballot: int, others: tuple[int, ...], needed: int
    ) -> tuple[list[int], int]:
        """The replicas that promised the ballot for the whole partition, and the highest of their floors."""
        heard = [slot for slot in others if self._heard_since.get(slot, ballot) < ballot]
        request = RaisePromise(partition, ballot)
        answers = await asyncio.gather(*(self._rounds.ask(slot, request) for slot in heard))
        granted = {slot: a for slot, a in zip(heard, answers, strict=True) if isinstance(a, PromiseRaised)}
        if len(granted) < needed:
            raise _NotNow(self._silent(others, granted, f"for the promises of {needed} replicas of partitions, among"))
        floor = max((*(answer.floor for answer in granted.values()), self._marks.floors.get(partition, NONE)))
        return list(granted), floor

    async def _stretch(
        self, partition: int, witnesses: list[int], floor: int, ballot: int, after: Place | None
    ) -> Place | None:
        """Recovers the keys behind `after` that one page of each witness covers; where that ends, None at the end."""
        request = Inventory(partition, after, PAGE_ROWS)
        answers = await asyncio.gather(*(self._rounds.ask(slot, request) for slot in witnesses))
        pages = [Listed(answer.rows, answer.complete) for answer in answers if isinstance(answer, Inventoried)]
        if len(pages) < len(witnesses):
            raise _NotNow(f"for what {' and '.join(self._topology().names(witnesses))} hold of partition {partition}")
        end = end_of(pages)
        own = copies_of(await self._own_rows(partition, after, end), end)
        findings = compare([copies_of(page.rows, end) for page in pages], own, floor)
        await self._replica.forget(findings.covered)
        self.progress.keys_dropped += len(findings.covered)
        to_settle = list(findings.to_settle)
        for some in _groups(findings.to_fetch):
            fetched = await asyncio.gather(*(self._fetch(key, findings.to_fetch[key], witnesses) for key in some))
            records = {key: record for key, record in zip(some, fetched, strict=True) if record is not None}
            to_settle += [key for key in some if key not in records]
            await self._commits.wait(await self._replica.restore(records, ballot))
            self.progress.keys_fetched += len(records)
        for some in _groups(to_settle):
            settled = await asyncio.gather(*(self._settle(partition, key, ballot) for key in some))
            if not all(settled):
                key = some[settled.index(False)]
                raise _NotNow(f"for {self._rounds.needed} other replicas that can agree on key {key!r}")
        self.progress.keys_kept += len(findings.kept)
        return end

    async def _own_rows(self, partition: int, after: Place | None, end: Place | None) -> list[Row]:
        """This replica's rows behind `after`, up to `end` at least."""
        await self._commits.wait(self._commits.ticket)
        first, behind = self._trees.places_of(partition)
        rows: list[Row] = []
        while True:
            page = await self._engine.rows(first, behind, after, PAGE_ROWS)
            rows += page.rows
            if page.complete or not page.rows or (end is not None and place_of(page.rows[-1]) >= end):
                return rows
            after = place_of(page.rows[-1])

    async def _fetch(self, key: bytes, ballot: int, witnesses: list[int]) -> Record | None:
        """The record of that ballot from one of the witnesses; None when none has it any more."""
        turn = hash(ballot) % len(witnesses)
        for slot in witnesses[turn:] + witnesses[:turn]:
            answer = await self._rounds.ask(slot, Read(key, value=True))
            if isinstance(answer, Held) and answer.record is not None and answer.record.ballot == ballot:
                return answer.record
        return None

    async def _settle(self, partition: int, key: bytes, ballot: int) -> bool:
        settled = await self._rounds.settle(key, self._rounds.others(partition), ballot)
        if settled is None:
            return False
        await self._commits.wait(await self._replica.restore({key: settled.record}, settled.promised))
        self.progress.keys_settled += 1
        return True

    def _silent(self, others: Iterable[int], heard: Iterable[int], what: str) -> str:
        missing = [slot for slot in others if slot not in set(heard)]
        return f"{what} {', '.join(self._topology().names(missing))}"


def _groups(keys: Iterable[bytes]) -> list[list[bytes]]:
    """The keys, some at a time."""
    listed = list(keys)
    return [listed[at : at + FETCHES_AT_ONCE] for at in range(0, len(listed), FETCHES_AT_ONCE)]
