"""A backend and a view for tests: one store in memory that keeps the contract of kvstore/http/backend.py.

It is honest: what is written is read back, conditions and fences are checked, versions grow, deletions leave
tombstones. For outcomes that a store in memory never has, a test puts one in `next_outcome`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from cluster.protocol.changes import Put, Settle
from cluster.requests import (
    BadFence,
    FencedReadOutcome,
    Found,
    Listed,
    ListOutcome,
    ListRequest,
    ReadOutcome,
    ReadRequest,
    WriteOutcome,
    WriteRequest,
    Written,
)
from kvstore.http.backend import ConvergenceView, MemberView, RepairReport, Unreachable
from storage.ballot import NONE, ballot_of
from storage.engine import ScanEntry
from storage.record import Record

WRITTEN_MS = 1_760_000_000_000
NOW_MS = WRITTEN_MS + 12_345


class HonestBackend:
    """Three replicas that are always of one mind."""

    def __init__(self) -> None:
        self.records: dict[bytes, Record] = {}
        self.granted: dict[str, int] = {}
        """The highest fence of each lock."""
        self.seen: list[Any] = []
        self.next_outcome: Any = None
        """Answered once, instead of the truth; an exception is raised."""
        self.gate: asyncio.Event | None = None
        """When there is one, requests wait for it."""
        self._count = 0
        self._news = asyncio.Event()

    async def read(self, request: ReadRequest) -> FencedReadOutcome:
        await self._arrive(request)
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        names, fence = self._names(request.needed), request.fence
        if fence is not None:
            if fence.number > self.granted.get(fence.lock, 0):
                return BadFence(self.granted.get(fence.lock, 0))
            settle, base = Settle(fence=fence), self.records.get(request.key)
            marked = settle.marked(base, self._ballot() if base is None else base.ballot, NONE)
            if (refusal := settle.conflict(marked, names)) is not None:
                return refusal
            assert marked is not None
            self.records[request.key] = marked
        return Found(self.records.get(request.key), len(names), names)

    async def write(self, request: WriteRequest) -> WriteOutcome:
        await self._arrive(request)
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        base = self.records.get(request.key)
        names = self._names(request.needed)
        fence = request.fence
        if fence is not None and fence.number > self.granted.get(fence.lock, 0):
            return BadFence(self.granted.get(fence.lock, 0))
        expires_at_ms = request.expires_at_ms(NOW_MS)
        change = Put(request.value, request.content_type, request.condition, expires_at_ms, NOW_MS, fence)
        ballot = self._ballot()
        record = change.apply(base, ballot)
        if record is None:
            return change.conflict(base, names)
        self._count += 1
        self.records[request.key] = record
        return Written(ballot, len(names), names)

    def begin_read(self, request: ReadRequest, on_outcome: Callable[[ReadOutcome], None]) -> None:
        self._begin(self.read(request), on_outcome)

    def begin_write(self, request: WriteRequest, on_outcome: Callable[[WriteOutcome], None]) -> None:
        self._begin(self.write(request), on_outcome)

    def begin_writes(
        self, requests: Sequence[WriteRequest], timeout_s: float, on_outcome: Callable[[int, WriteOutcome], None]
    ) -> None:
        """One after another; what one of them raises is that one's."""
        for place, request in enumerate(requests):
            told: Callable[[Any], None] = partial(on_outcome, place)
            try:
                self.begin_write(replace(request, timeout_s=timeout_s), told)
            except Exception as fault:
                told(fault)

    async def list(self, request: ListRequest) -> ListOutcome:
        await self._arrive(request)
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        after = request.after or b""
        keys = sorted(
            key
            for key, record in self.records.items()
            if record.value is not None and key.startswith(request.prefix) and key > after
        )
        page = keys[: request.limit]
        names = self._names(request.needed)
        entries = [self._entry(key, request.values) for key in page]
        return Listed(entries, page[-1] if len(keys) > len(page) else None, len(names), names)

    async def versions(self, key: bytes, timeout_s: float) -> Mapping[str, int | Unreachable | None]:
        record = self.records.get(key)
        return {"n1": record.origin if record else None, "n2": None, "n3": "unreachable"}

    async def repair(self, partition: int, timeout_s: float) -> RepairReport | str:
        await self._arrive(("repair", partition, timeout_s))
        if self.next_outcome is not None:
            return self._staged()  # type: ignore[no-any-return]
        return "nobody is there" if partition == 63 else RepairReport(partition, "n2", 3, 1, 2, 0, 4_711, ("n3",))

    async def arrived(self, count: int) -> None:
        """Waits until so many requests have come in."""
        while len(self.seen) < count:
            self._news.clear()
            await self._news.wait()

    def _begin(self, work: Coroutine[Any, Any, Any], on_outcome: Callable[[Any], None]) -> None:
        """Done before this returns, unless requests wait."""
        if self.gate is not None:
            asyncio.get_running_loop().create_task(work).add_done_callback(lambda task: on_outcome(task.result()))
            return
        try:
            work.send(None)
        except StopIteration as ended:
            on_outcome(ended.value)

    async def _arrive(self, request: Any) -> None:
        self.seen.append(request)
        self._news.set()
        if self.gate is not None:
            await self.gate.wait()

    def _staged(self) -> Any:
        outcome, self.next_outcome = self.next_outcome, None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _ballot(self) -> int:
        return ballot_of(WRITTEN_MS, self._count // 1000, self._count % 1000)

    def _names(self, needed: int) -> tuple[str, ...]:
        return ("n1", "n3", "n2")[:needed]

    def _entry(self, key: bytes, values: bool) -> ScanEntry:
        record = self.records[key]
        shown = record if values else record.without_value()
        return ScanEntry(key, shown, len(record.value or b""), False)


class ThreeNodes:
    """A view of three members that never changes."""

    node_name = "n1"
    cluster_name = "kvstore"
    cluster_id = "c0ffee"
    epoch = 4
    n = 3
    partitions = 64
    moving: Sequence[int] = ()

    convergence = ConvergenceView((), 7, 1_792, 1, 2, 60, 3, 1, 2.5, 0, 0, ("n3 is away",))

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.members = [
            MemberView("n1", 0, "127.0.0.1:7001", "127.0.0.1:7101", "a", "self", "11" * 16),
            MemberView("n2", 1, "db2.example:7001", "127.0.0.1:7102", "b", "alive", "22" * 16),
            MemberView("n3", 2, None, "db3.example:7103", "c", "suspect", None),
        ]

    def partition_of(self, key: bytes) -> int:
        return sum(key) % self.partitions

    def replica_set(self, partition: int) -> tuple[str, ...]:
        return ("n2", "n3", "n1")

    def primary(self, partition: int) -> str:
        return "n2"

    def unready(self) -> Sequence[str]:
        return self.reasons
