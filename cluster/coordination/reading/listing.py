"""Listings: pages of keys, merged from what the replicas hold.

Every live node is asked for the same page of its own keys, tombstones included. A merged page ends at the smallest
last key of a page that was cut short, for behind it somebody has said nothing yet. A key counts as heard when enough
nodes of its replica set have answered, whether they hold it or not.

strong: a key whose majority agrees on one ballot is as a strong read would have shown it; any other key, and one whose
value has expired, is read by a strong read of its own. weak, eventual: the newest of what was heard, unless it has
expired. A page is not a snapshot.

Keys that begin with NUL are this store's own (locks, votes). No application's does, so its listings begin behind them;
whoever wants them asks for a prefix that begins so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from cluster.coordination.drive import PATIENCE_S, Context
from cluster.coordination.expiry import is_doubtful, is_expired
from cluster.levels import Level
from cluster.membership.topology import Topology
from cluster.protocol.messages import Answer, Scan, Scanned
from cluster.requests import (
    Found,
    Listed,
    ListOutcome,
    ListRequest,
    Overloaded,
    ReadOutcome,
    ReadRequest,
    TimedOut,
    Unavailable,
)
from storage.ballot import NONE
from storage.engine import ScanEntry

BEHIND_INTERNAL = b"\0\xff"
"""Keys are UTF-8: no key that begins with NUL comes behind this one, and every other does."""
SCAN_SLACK = 16
"""Asked for beyond the page's limit, so that a few tombstones don't cost another round."""
STRONG_READS_AT_ONCE = 32

Read = Callable[[ReadRequest], Awaitable[ReadOutcome]]
Pages = dict[int, Scanned]


class Listing:
    """Answers list requests."""

    def __init__(self, context: Context, read: Read, topology: Callable[[], Topology], own_slot: int) -> None:
        self._context, self._read, self._topology, self._own_slot = context, read, topology, own_slot

    async def page(self, request: ListRequest) -> ListOutcome:
        """One page of live keys, or why there is none."""
        topology = self._topology()
        targets = self._targets(topology, request)
        if isinstance(targets, Unavailable):
            return targets
        is_alone = targets == (self._own_slot,)
        deadline_s = self._context.clock.monotonic_s() + request.timeout_s
        entries: list[ScanEntry] = []
        after, heard = _start_of(request), targets
        while True:
            pages = await self._scan(topology, targets, request, after, request.limit - len(entries), deadline_s)
            heard = tuple(pages)
            short = _partition_short_of(topology, heard, request.needed)
            if short is not None and is_alone:  # what it holds of this page is damaged: the others are asked, too
                is_alone, targets = False, self._all_alive(topology, request)
                if isinstance(targets, Unavailable):
                    return targets
                continue
            if short is not None:
                refusal = TimedOut if self._context.clock.monotonic_s() >= deadline_s else Unavailable
                return refusal(request.needed, short, topology.names(heard))
            keys, after = _keys_of(pages)
            merged = await self._merge(topology, request, pages, keys, deadline_s)
            if not isinstance(merged, list):
                return merged
            room = request.limit - len(entries)
            names = topology.names(heard)
            if len(merged) > room:
                entries += merged[:room]
                return Listed(entries, entries[-1].key, len(heard), names)
            entries += merged
            if after is None:
                return Listed(entries, None, len(heard), names)
            if len(entries) == request.limit or (request.values and entries):
                return Listed(entries, after, len(heard), names)

    def _targets(self, topology: Topology, request: ListRequest) -> tuple[int, ...] | Unavailable:
        """Whom to ask: this node alone where it may, holds everything and one answer is enough, else all that live."""
        sets, roster = topology.replica_slots, self._context.roster
        suffices = request.level is not Level.STRONG and request.needed == 1 and roster.is_readable(self._own_slot)
        if suffices and all(self._own_slot in slots for slots in sets):
            return (self._own_slot,)
        return self._all_alive(topology, request)

    def _all_alive(self, topology: Topology, request: ListRequest) -> tuple[int, ...] | Unavailable:
        roster = self._context.roster
        alive = tuple(m.slot for m in topology.members if roster.is_readable(m.slot))
        short = _partition_short_of(topology, alive, request.needed)
        return alive if short is None else Unavailable(request.needed, short, topology.names(alive))

    async def _scan(
        self,
        topology: Topology,
        targets: tuple[int, ...],
        request: ListRequest,
        after: bytes | None,
        limit: int,
        deadline_s: float,
    ) -> Pages:
        """The page of each target that answers in time."""
        scan = Scan(request.prefix, after, limit + SCAN_SLACK, request.values)
        loop = asyncio.get_running_loop()
        waiting: set[asyncio.Future[tuple[int, Answer]]] = set()
        for slot in targets:
            future: asyncio.Future[tuple[int, Answer]] = loop.create_future()
            waiting.add(future)
            self._context.transport.send(slot, scan, _answering(future))
        answers = await self._collect(topology, request.needed, waiting, deadline_s)
        return {slot: answer for slot, answer in sorted(answers.items()) if isinstance(answer, Scanned)}

    async def _collect(
        self, topology: Topology, needed: int, waiting: set[asyncio.Future[tuple[int, Answer]]], deadline_s: float
    ) -> dict[int, Answer]:
        """Waits for all, but for the slow ones only as long as the others don't suffice."""
        answers: dict[int, Answer] = {}
        now_s = began_s = self._context.clock.monotonic_s()
        while waiting and now_s < deadline_s:
            scanned = tuple(slot for slot, answer in answers.items() if isinstance(answer, Scanned))
            if now_s - began_s >= PATIENCE_S and _partition_short_of(topology, scanned, needed) is None:
                break
            wait_s = min(PATIENCE_S, deadline_s - now_s)
            done, waiting = await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            answers.update(future.result() for future in done)
            now_s = self._context.clock.monotonic_s()
        return answers

    async def _merge(
        self, topology: Topology, request: ListRequest, pages: Pages, keys: list[bytes], deadline_s: float
    ) -> list[ScanEntry] | TimedOut | Unavailable | Overloaded:
        """The live entry of each key, in order."""
        held = {slot: {entry.key: entry for entry in page.entries} for slot, page in pages.items()}
        chosen: dict[bytes, ScanEntry | None] = {}
        doubtful: list[bytes] = []
        for key in keys:
            asked = [held[slot].get(key) for slot in topology.replicas_of(key) if slot in held]
            ballot = max(map(_ballot, asked), default=NONE)
            if request.level is Level.STRONG:
                ballot, holders = Counter(map(_ballot, asked)).most_common(1)[0]
                if holders < topology.majority:
                    doubtful.append(key)
                    continue
            entry = next((entry for entry in asked if _ballot(entry) == ballot), None)
            if request.level is not Level.STRONG:
                chosen[key] = None if entry is not None and is_expired(self._context, entry.record) else entry
            elif entry is not None and is_doubtful(self._context, entry.record):
                doubtful.append(key)
            else:
                chosen[key] = entry
        for start in range(0, len(doubtful), STRONG_READS_AT_ONCE):
            some = doubtful[start : start + STRONG_READS_AT_ONCE]
            outcomes = await asyncio.gather(*(self._read_one(key, request, deadline_s) for key in some))
            for key, outcome in zip(some, outcomes, strict=True):
                if not isinstance(outcome, Found):
                    return outcome
                chosen[key] = _entry(key, outcome, request.values)
        return [entry for key in keys if (entry := chosen[key]) is not None and not entry.tombstone]

    def _read_one(self, key: bytes, request: ListRequest, deadline_s: float) -> Awaitable[ReadOutcome]:
        budget_s = max(deadline_s - self._context.clock.monotonic_s(), 0.001)
        return self._read(ReadRequest(key, Level.STRONG, request.needed, budget_s))


def _start_of(request: ListRequest) -> bytes | None:
    """Behind which key the page begins."""
    if request.prefix:
        return request.after
    return max(request.after or b"", BEHIND_INTERNAL)


def _answering(future: asyncio.Future[tuple[int, Answer]]) -> Callable[[int, Answer], None]:
    def on_answer(slot: int, answer: Answer) -> None:
        if not future.done():
            future.set_result((slot, answer))

    return on_answer


def _partition_short_of(topology: Topology, heard: tuple[int, ...], needed: int) -> int | None:
    """The smallest number of replicas heard of any partition, if that is below `needed`; else None."""
    slots = set(heard)
    fewest = min(len(slots.intersection(replicas)) for replicas in topology.replica_slots)
    return fewest if fewest < needed else None


def _keys_of(pages: Pages) -> tuple[list[bytes], bytes | None]:
    """The keys that all pages cover, in order, and where they end; None when nobody has more."""
    ends = [page.entries[-1].key for page in pages.values() if not page.complete and page.entries]
    end = min(ends, default=None)
    keys = {entry.key for page in pages.values() for entry in page.entries}
    return sorted(key for key in keys if end is None or key <= end), end


def _ballot(entry: ScanEntry | None) -> int:
    return entry.record.ballot if entry is not None else NONE


def _entry(key: bytes, found: Found, values: bool) -> ScanEntry | None:
    record = found.record
    if record is None:
        return None
    size = len(record.value or b"")
    return ScanEntry(key, record if values else record.without_value(), size, record.value is None)
