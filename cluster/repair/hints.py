"""Hinted handoff: weak writes kept on this node's disk for home replicas that could not be reached.

DeCandia et al., "Dynamo: Amazon's Highly Available Key-value Store" (2007), section 4.6. One difference: a hint is
never a vote. Only an eventual write that asks for one acknowledgement, and reached no home replica, is answered for its
hint alone, which is a **sole** hint then.

    stored      on disk before the write is answered, one row for all its targets
    replayed    to each target by itself once it is writable, in the order of the hints' numbers, so many at a time, as
                the ordinary yielding accept of the write, under its own ballot
    done with   by a target that has it, or something newer and weak, or a floor above it; or that refuses it: then the
                record is kept aside and merged back (merge_back.py), which reaches all
    dropped     with its last target; or unsent at the bound, the oldest first, for anti-entropy brings it too. Never a
                sole one

Which hint is for whom is in memory, the values are on disk only. What memory knows and the disk does not is that some
targets of several are done with: after a restart those are sent it once more, which does nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from cluster.coordination.drive import Context
from cluster.protocol.messages import Accept, Accepted, Answer, Refused
from cluster.protocol.weak_write import is_taken
from cluster.repair.origins import OldestOrigins
from cluster.tasks import Tasks, safely
from storage.ballot import NONE, unix_ms_of
from storage.engine import Engine, HintPage, StorageError
from storage.group_commit import GroupCommit
from storage.record import Hint, Record

BYTES_MAX = 256 << 20
"""Unless it is set."""
OVERHEAD_BYTES = 512
"""What a hint counts for beside its key and value: its row, and its place in memory."""
INTERVAL_S = 0.5
"""Between two looks at who has returned, and before a target that did not take a hint is tried again."""
IN_FLIGHT = 64
"""Hints on their way to one target at a time: they are not to crowd out the applications."""
RATE_PER_S = 2_000
"""Hints sent to one target in a second at most."""
PAGE_BYTES = 4 << 20
"""Values in memory at a time, per target."""
ANSWER_S = 5.0
"""A target that does not answer for so long is left alone until the next look."""
MERGES_MAX = 10_000
"""Replaying waits while so many records are kept aside already: those are in memory with their values."""

KeepAside = Callable[[bytes, Record, Callable[[], None]], None]
"""(key, record, kept): keeps the record on disk, then calls kept."""
log = structlog.get_logger()


class _Kept:
    """What memory knows of a hint."""

    __slots__ = ("is_kept_aside", "is_sole", "origin", "partition", "size", "targets")

    def __init__(self, hint: Hint, partition: int) -> None:
        self.targets, self.is_sole = hint.targets, hint.sole
        self.partition, self.origin = partition, hint.record.origin
        self.size = size_of(hint.key, hint.record)
        self.is_kept_aside = False


class Hints:
    """The hints of one node, and the task that delivers them."""

    def __init__(
        self,
        context: Context,
        engine: Engine,
        commits: GroupCommit,
        tasks: Tasks,
        *,
        partition_of: Callable[[bytes], int],
        keep_aside: KeepAside,
        kept_aside: Callable[[], tuple[int, int]],
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """kept_aside(): how many records wait to be merged back, and their bytes, which count with the hints'."""
        self._context, self._engine, self._commits, self._tasks = context, engine, commits, tasks
        self._partition_of, self._keep_aside, self._kept_aside = partition_of, keep_aside, kept_aside
        self.bytes_max = bytes_max
        self._kept: dict[int, _Kept] = {}
        self._droppable: OrderedDict[int, None] = OrderedDict()
        self._waiting: dict[int, OrderedDict[int, None]] = {}
        self._replaying: set[int] = set()
        self._origins = OldestOrigins()
        self._last_number = 0
        self._says_full = False
        self._droppable_bytes = 0
        self.size_bytes = 0
        """All that is kept, as it counts at the bound."""
        self.delivered = 0
        """Times that a target was done with a hint, since this node started."""
        self.dropped = 0
        """Hints that were dropped unsent at the bound, since this node started."""
        self.on_added: Callable[[int, int], None] = _nobody_cares
        """Called with partition and origin of each hint that is added, before it is on disk."""

    # -- what is kept ------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Learns what is on disk; to be awaited before anything else."""
        is_complete = False
        while not is_complete:
            page = await self._engine.hints(self._last_number, 1_000, PAGE_BYTES)
            for number, hint in page.hints.items():
                self._add(number, hint)
                self._may_be_sent(number)
            self._drop_damaged(page)
            self._last_number = max((self._last_number, *page.hints, *page.damaged))
            is_complete = page.complete

    def add(self, key: bytes, record: Record, targets: tuple[int, ...], sole: bool, stored: Callable[[], None]) -> bool:
        """Keeps the write for these targets; stored() follows once it is on disk. False when there is no room."""
        if not self._make_room(size_of(key, record)):
            return False
        self._last_number += 1
        number, hint = self._last_number, Hint(key, record, targets, sole)
        self._add(number, hint)
        safely(self.on_added, self._kept[number].partition, record.origin)
        ticket = self._commits.hint(number, hint)
        self._commits.when(ticket, partial(self._may_be_sent, number))
        self._commits.when(ticket, stored)
        return True

    def has_room(self, key: bytes, record: Record) -> bool:
        """Whether one more write could be kept, here or aside, once what may go has gone."""
        used = self.size_bytes - self._droppable_bytes + self._kept_aside()[1]
        return used + size_of(key, record) <= self.bytes_max

    def _make_room(self, size: int) -> bool:
        """Drops the oldest that may go until so many bytes fit; False, and drops none, when they never would."""
        kept_aside = self._kept_aside()[1]
        has_room = self.size_bytes - self._droppable_bytes + kept_aside + size <= self.bytes_max
        while has_room and self.size_bytes + kept_aside + size > self.bytes_max:
            self._forget(next(iter(self._droppable)))
            self.dropped += 1
        if not has_room and not self._says_full:
            log.warning(
                "there is no room for more hints: what is kept may not be dropped, as it may be the only copy",
                hints_bytes=self.size_bytes,
                kept_aside_bytes=kept_aside,
                hints_bytes_max=self.bytes_max,
            )
        self._says_full = not has_room
        return has_room

    def _add(self, number: int, hint: Hint) -> None:
        kept = self._kept[number] = _Kept(hint, self._partition_of(hint.key))
        self._origins.add(kept.partition, number, kept.origin)
        self.size_bytes += kept.size
        if not kept.is_sole:
            self._let_go(number, kept)

    def _let_go(self, number: int, kept: _Kept) -> None:
        """At the bound it may be dropped."""
        kept.is_sole = False
        self._droppable[number] = None
        self._droppable_bytes += kept.size

    def _may_be_sent(self, number: int) -> None:
        """It is on disk."""
        kept = self._kept.get(number)
        for slot in kept.targets if kept is not None else ():
            self._waiting.setdefault(slot, OrderedDict())[number] = None

    def _forget(self, number: int) -> None:
        kept = self._kept.pop(number)
        self._origins.remove(kept.partition, number)
        self.size_bytes -= kept.size
        if not kept.is_sole:
            del self._droppable[number]
            self._droppable_bytes -= kept.size
        for slot in kept.targets:
            if slot in self._waiting:
                self._waiting[slot].pop(number, None)
        self._commits.drop_hint(number)

    def _drop_damaged(self, page: HintPage) -> None:
        for number, reason in page.damaged.items():
            log.error("a hint is damaged and can't be delivered; it is dropped", hint=number, reason=reason)
            if number in self._kept:
                self._forget(number)
            else:
                self._commits.drop_hint(number)

    # -- replaying ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Replays, for ever: to each target that is writable, whatever becomes of the others."""
        while True:
            for slot, waiting in self._waiting.items():
                if waiting and slot not in self._replaying and self._context.roster.is_writable(slot):
                    self._replaying.add(slot)
                    self._tasks.spawn(self._replay(slot), "replay hints")
            await asyncio.sleep(INTERVAL_S)

    async def _replay(self, slot: int) -> None:
        """One pass over what waits for a target."""
        numbers = deque(self._waiting[slot])
        try:
            while numbers and self._context.roster.is_writable(slot) and self._kept_aside()[0] < MERGES_MAX:
                began_s = self._context.clock.monotonic_s()
                batch = await self._read_first(slot, numbers)
                if batch and not await self._deliver(slot, batch):
                    return
                due_s = began_s + len(batch) / RATE_PER_S
                await asyncio.sleep(max(due_s - self._context.clock.monotonic_s(), 0.0))
        except StorageError as error:
            log.error("hints can't be read", error=str(error))
        finally:
            self._replaying.discard(slot)

    async def _read_first(self, slot: int, numbers: deque[int]) -> dict[int, Hint]:
        """Takes the first of these numbers away and gives their hints: those that still wait for this target."""
        page = await self._engine.hints(numbers[0] - 1, IN_FLIGHT, PAGE_BYTES)
        self._drop_damaged(page)
        last = numbers[-1] if page.complete else max(page.hints)
        batch: dict[int, Hint] = {}
        while numbers and numbers[0] <= last:
            number = numbers.popleft()
            if number not in self._waiting[slot]:
                continue
            if number in page.hints:
                batch[number] = page.hints[number]
            else:
                log.error("a hint is gone from the disk; it is forgotten", hint=number)
                self._forget(number)
        return batch

    async def _deliver(self, slot: int, hints: Mapping[int, Hint]) -> bool:
        """Sends them all and waits for what comes. False when the target is better left alone for a while."""
        round_ = _Round(len(hints))
        for number, hint in hints.items():
            accept = Accept(hint.key, hint.record, NONE, yielding=True)
            self._context.transport.send(slot, accept, partial(self._answered, round_, number, hint))
        try:
            await asyncio.wait_for(round_.is_over, ANSWER_S)
        except TimeoutError:
            return False
        return round_.taken > 0

    def _answered(self, round_: _Round, number: int, hint: Hint, slot: int, answer: Answer) -> None:
        is_taken_now = type(answer) is Accepted or is_taken(answer, hint.record)
        if is_taken_now:
            self._done(number, slot, hint)
        elif type(answer) is Refused:
            self._refused(number, slot, hint)
        round_.answered(is_taken_now or type(answer) is Refused)

    def _refused(self, number: int, slot: int, hint: Hint) -> None:
        """A promise, or a strong record, is in the way: the write has to be merged."""
        kept = self._kept.get(number)
        if kept is None:
            return
        # Not before it is on disk there: at no moment may neither of the two know of it.
        done = partial(self._done, number, slot, hint)
        if kept.is_kept_aside:
            self._commits.when(self._commits.ticket, done)
        else:
            kept.is_kept_aside = True
            self._keep_aside(hint.key, hint.record, done)

    def _done(self, number: int, slot: int, hint: Hint) -> None:
        """This target needs it no longer."""
        kept = self._kept.get(number)
        if kept is None or slot not in kept.targets:
            return
        self.delivered += 1
        kept.targets = tuple(target for target in kept.targets if target != slot)
        self._waiting[slot].pop(number, None)
        if not kept.targets:
            self._forget(number)
            return
        if kept.is_sole:
            self._let_go(number, kept)
        if not any(map(self._context.roster.is_writable, kept.targets)):  # else it is gone in a moment
            self._commits.hint(number, Hint(hint.key, hint.record, kept.targets, False))

    # -- what others ask ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def soles(self) -> int:
        """Hints that may be the only copy of their write."""
        return len(self._kept) - len(self._droppable)

    def oldest(self, partition: int) -> int | None:
        """The lowest origin of which a hint is kept in this partition; None when there is none."""
        return self._origins.oldest(partition)

    def per_target(self) -> dict[int, int]:
        """How many wait for each slot."""
        return {slot: len(waiting) for slot, waiting in self._waiting.items() if waiting}

    def oldest_age_s(self, now_ms: int) -> float:
        """How long ago the write was made that has waited longest; 0 when none waits."""
        firsts = [next(iter(waiting)) for waiting in self._waiting.values() if waiting]
        oldest_ms = min((unix_ms_of(self._kept[number].origin) for number in firsts), default=now_ms)
        return max(now_ms - oldest_ms, 0) / 1000


class _Round:
    """The answers to one batch."""

    __slots__ = ("is_over", "outstanding", "taken")

    def __init__(self, count: int) -> None:
        self.outstanding, self.taken = count, 0
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(self, is_done: bool) -> None:
        """One more; is_done tells whether the target needs that hint no longer."""
        self.taken += is_done
        self.outstanding -= 1
        if not self.outstanding and not self.is_over.done():
            self.is_over.set_result(None)


def size_of(key: bytes, record: Record) -> int:
    """The bytes for which a hint, or a record kept aside, counts at the bound."""
    return OVERHEAD_BYTES + len(key) + len(record.value or b"")


def _nobody_cares(partition: int, origin: int) -> None:
    """Until somebody does."""
