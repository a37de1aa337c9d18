"""MemoryEngine: the engine's meaning in dictionaries, and a disk that tests and the simulator can pull the plug on.

No threads, no clock, no dice but the incarnation, which can be given: with a deterministic event loop, a run is
repeatable. What survives a crash is in the MemoryFolder; what does not is in the MemoryEngine.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from storage.ballot import NONE
from storage.engine import (
    CUT_SHORT_FACT,
    Batch,
    CommitFailed,
    Damaged,
    DiskFull,
    FolderDamaged,
    FolderLocked,
    HintPage,
    Rot,
    Row,
    RowPage,
    ScanEntry,
    ScanPage,
    ScrubPage,
    StorageError,
)
from storage.fences import digest_of
from storage.keyspace import hash_of
from storage.record import Hint, Record, ReplicaState
from storage.sqlite.rows import shown

_NEVER_HEARD_OF = ReplicaState()


def _new_incarnation() -> str:
    return secrets.token_hex(16)


async def _one_turn() -> None:
    await asyncio.sleep(0)


@dataclass(slots=True)
class MemoryFolder:
    """What is committed: the disk of a MemoryEngine. Survives its engine, and serves one at a time."""

    incarnation: str = field(default_factory=_new_incarnation)
    commit_sequence: int = 0
    facts: dict[str, bytes] = field(default_factory=dict)
    states: dict[bytes, ReplicaState] = field(default_factory=dict)
    kept_aside: dict[tuple[bytes, int], Record] = field(default_factory=dict)
    leaves: dict[int, int] = field(default_factory=dict)
    leaves_are_lost: bool = False
    """Set by a test: what is on disk of the leaves has rotted."""
    hints: dict[int, Hint] = field(default_factory=dict)
    numbers: dict[bytes, int] = field(default_factory=dict)
    """The number of each key's row. A row that is made takes the one behind the highest, as a table's do."""
    damaged: dict[bytes, str] = field(default_factory=dict)
    """Keys whose row has rotted, with the reason; writing the key anew mends it."""
    damaged_hints: dict[int, str] = field(default_factory=dict)
    """Hints that have rotted, with the reason."""
    was_cut_short: str | None = None
    """Set by a test that takes commits away; None again once the fact CUT_SHORT_FACT is written empty."""
    condemned: str | None = None
    """Why it must not be opened again."""
    bytes_free: int = 1 << 40
    """Room on the disk; a write into less than none of it fails with DiskFull."""
    bytes_total: int = 1 << 40
    in_use: bool = False

    def apply(self, batch: Batch) -> None:
        """Commits the batch, all of it at once."""
        self.states.update((key, _as_stored(state)) for key, state in batch.states.items())
        for key in batch.states:
            self.number_of(key)
            self.damaged.pop(key, None)
        for key in batch.drop:
            self.remove(key)
        if batch.leaves_are_all:
            self.leaves.clear()
            self.leaves_are_lost = False
        if not self.leaves_are_lost:
            self.leaves.update(batch.leaves)
        self.hints.update(batch.hints)
        for number in batch.drop_hints:
            self.hints.pop(number, None)
        for number in (*batch.hints, *batch.drop_hints):
            self.damaged_hints.pop(number, None)
        self.kept_aside.update(batch.keep)
        for kept in batch.forget:
            self.kept_aside.pop(kept, None)
        self.facts.update(batch.facts)
        if batch.facts.get(CUT_SHORT_FACT) == b"":
            self.was_cut_short = None
        self.commit_sequence += 1

    def number_of(self, key: bytes) -> int:
        """The number of the key's row, which it is given if it has none."""
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = next(reversed(self.numbers.values()), 0) + 1
        return number

    def remove(self, key: bytes) -> None:
        """Removes the key's row, if there is one."""
        self.states.pop(key, None)
        self.numbers.pop(key, None)
        self.damaged.pop(key, None)


class MemoryEngine:
    """An Engine over a MemoryFolder.

    commit_delay is awaited between the start of a write and its commit: the time in which a crash loses it.
    """

    def __init__(
        self, folder: MemoryFolder | None = None, *, commit_delay: Callable[[], Awaitable[None]] = _one_turn
    ) -> None:
        self.folder = folder if folder is not None else MemoryFolder()
        self._commit_delay = commit_delay
        self._last_write: asyncio.Task[None] | None = None
        self._unusable: StorageError | None = StorageError("this engine is not open; nothing was read or written")
        self._failing: tuple[str, bool] | None = None
        self._leaves: dict[int, int] = {}

    @property
    def incarnation(self) -> str:
        """See Engine."""
        return self.folder.incarnation

    @property
    def commit_sequence(self) -> int:
        """See Engine."""
        return self.folder.commit_sequence

    @property
    def facts(self) -> Mapping[str, bytes]:
        """See Engine."""
        return MappingProxyType(self.folder.facts)

    async def open(self) -> None:
        """See Engine."""
        if self.folder.in_use:
            raise FolderLocked("another engine uses this folder; nothing was touched. Close or crash it first")
        if self.folder.condemned is not None:
            raise FolderDamaged(f"this folder was found to be damaged when it was last used: {self.folder.condemned}")
        self.folder.in_use = True
        self._unusable = None
        if not self.folder.leaves_are_lost:
            self._leaves = {leaf: total for leaf, total in self.folder.leaves.items() if total}

    async def write(self, batch: Batch) -> None:
        """See Engine. In a task of its own, because cancelling the caller must not undo it."""
        self._refuse_if_unusable()
        self._last_write = asyncio.get_running_loop().create_task(self._commit(batch, self._last_write))
        await asyncio.shield(self._last_write)

    async def load(self, keys: Sequence[bytes]) -> dict[bytes, ReplicaState | Damaged]:
        """See Engine."""
        self._refuse_if_unusable()
        damaged = self.folder.damaged
        return {
            key: Damaged(damaged[key]) if key in damaged else self.folder.states.get(key, _NEVER_HEARD_OF)
            for key in keys
        }

    async def scan(
        self, prefix: bytes, after: bytes | None, limit: int, values: bool, value_bytes_max: int
    ) -> ScanPage:
        """See Engine."""
        self._refuse_if_unusable()
        entries: list[ScanEntry] = []
        value_bytes = 0
        for key in sorted(key for key in self.folder.states if key.startswith(prefix)):
            if after is not None and key <= after:
                continue
            record, reason = self.folder.states[key].record, self.folder.damaged.get(key)
            if record is None and reason is None:
                continue
            if len(entries) >= limit or (values and entries and value_bytes >= value_bytes_max):
                return ScanPage(entries, complete=False)
            if record is None or reason is not None:
                raise StorageError(f"the listing can't go on at key {shown(key)}: {reason}")
            entry = _entry_of(key, record, values)
            entries.append(entry)
            value_bytes += entry.size
        return ScanPage(entries, complete=True)

    async def kept_aside(self) -> dict[tuple[bytes, int], Record]:
        """See Engine."""
        self._refuse_if_unusable()
        return dict(self.folder.kept_aside)

    @property
    def was_cut_short(self) -> str | None:
        """See Engine."""
        return self.folder.was_cut_short

    @property
    def leaves(self) -> Mapping[int, int]:
        """See Engine."""
        return self._leaves

    @property
    def leaves_are_lost(self) -> bool:
        """See Engine."""
        return self.folder.leaves_are_lost

    async def rows(self, first: int, behind: int, after: tuple[int, bytes] | None, limit: int) -> RowPage:
        """See Engine."""
        self._refuse_if_unusable()
        places = sorted(
            (place, key)
            for key in self.folder.states
            if first <= (place := hash_of(key)) < behind and (after is None or (place, key) > after)
        )
        rows = [_row_of(key, self.folder.states[key]) for _, key in places[:limit]]
        return RowPage(rows, complete=len(places) <= limit)

    async def purgeable(self, first: int, behind: int, ballot_max: int, expired_before_ms: int) -> list[bytes]:
        """See Engine."""
        page = await self.rows(first, behind, None, len(self.folder.states))
        return [
            row.key
            for row in page.rows
            if max(row.ballot, row.promised) <= ballot_max
            and (row.ballot == NONE or row.tombstone or 0 < row.expires_at_ms < expired_before_ms)
            and not row.fences
        ]

    async def hints(self, after: int, limit: int, value_bytes_max: int) -> HintPage:
        """See Engine."""
        self._refuse_if_unusable()
        found: dict[int, Hint] = {}
        damaged: dict[int, str] = {}
        size = 0
        for number in sorted(number for number in self.folder.hints if number > after):
            if len(found) >= limit or (found and size >= value_bytes_max):
                return HintPage(found, complete=False, damaged=damaged)
            if number in self.folder.damaged_hints:
                damaged[number] = self.folder.damaged_hints[number]
                continue
            found[number] = self.folder.hints[number]
            size += len(found[number].record.value or b"")
        return HintPage(found, complete=True, damaged=damaged)

    async def scrub(self, after: int, limit: int) -> ScrubPage:
        """See Engine."""
        self._refuse_if_unusable()
        keys = {self.folder.number_of(key): key for key in self.folder.states}
        rows = sorted(number for number in keys if number > after)
        some = rows[:limit]
        damaged = self.folder.damaged
        rotten = [Rot(row, keys[row], damaged[keys[row]]) for row in some if keys[row] in damaged]
        if len(rows) > limit:
            return ScrubPage(len(some), rotten, some[-1])
        rotten += [
            Rot(0, self.folder.hints[number].key, reason)
            for number, reason in sorted(self.folder.damaged_hints.items())
        ]
        others = len(self.folder.kept_aside) + len(self.folder.hints)
        return ScrubPage(len(some) + others, rotten, None)

    async def mend(self, rows: Sequence[int]) -> None:
        """See Engine."""
        self._refuse_if_unusable()
        still = [key for key in self.folder.damaged if self.folder.number_of(key) in rows]
        for key in still:
            self.folder.remove(key)
        self.folder.commit_sequence += bool(still)

    async def reclaim(self, bytes_max: int) -> int:
        """See Engine. There is nothing to give back."""
        self._refuse_if_unusable()
        return 0

    def free_bytes(self) -> tuple[int, int]:
        """See Engine."""
        return self.folder.bytes_free, self.folder.bytes_total

    def condemn(self, reason: str) -> None:
        """See Engine."""
        self.folder.condemned = reason

    async def close(self) -> None:
        """See Engine."""
        if self._last_write is not None:
            await asyncio.wait([self._last_write])
        self._leave(StorageError("this engine is closed; nothing was read or written"))

    def crash(self) -> None:
        """The plug is pulled: a write under way is lost and its caller cancelled; this engine refuses everything.

        What was committed is in `folder`, for a new engine: `MemoryEngine(crashed.folder)`.
        """
        if self._last_write is not None:
            self._last_write.cancel()
        self._leave(StorageError("this engine has crashed; what it had not committed is lost"))

    def fail_next_commit(self, reason: str, *, applied: bool = False) -> None:
        """Makes the next commit raise CommitFailed, after it was applied or without: a real disk does either."""
        self._failing = (reason, applied)

    def damage(self, key: bytes, reason: str) -> None:
        """Rots the row of a key: it loads as Damaged, and a scan that meets it fails, until it is written anew."""
        self.folder.damaged[key] = reason

    async def _commit(self, batch: Batch, previous: asyncio.Task[None] | None) -> None:
        if previous is not None and not previous.done():  # its caller was cancelled, it was not
            await asyncio.wait([previous])
        await self._commit_delay()
        self._refuse_if_unusable()
        if self.folder.bytes_free <= 0:
            raise DiskFull("there is no room on this disk; nothing was written")
        if self._failing is None:
            self.folder.apply(batch)
            return
        reason, applied = self._failing
        if applied:
            self.folder.apply(batch)
        self._unusable = CommitFailed(f"{reason}; what was being written may or may not be on disk")
        raise self._unusable

    def _leave(self, why: StorageError) -> None:
        if isinstance(self._unusable, CommitFailed) or self._unusable is None:
            self.folder.in_use = False
        self._unusable = why

    def _refuse_if_unusable(self) -> None:
        if self._unusable is not None:
            raise type(self._unusable)(str(self._unusable))


def _as_stored(state: ReplicaState) -> ReplicaState:
    """Without the floor, which is not a row's but a partition's."""
    return ReplicaState(state.promised, state.record) if state.floor else state


def _row_of(key: bytes, state: ReplicaState) -> Row:
    record = state.record
    if record is None:
        return Row(key, state.promised, NONE, NONE, False, 0)
    is_tombstone, fences = record.value is None, digest_of(record.fences)
    return Row(key, state.promised, record.ballot, record.origin, is_tombstone, record.expires_at_ms, fences)


def _entry_of(key: bytes, record: Record, values: bool) -> ScanEntry:
    shown_record = record if values else record.without_value()
    return ScanEntry(key, shown_record, len(record.value or b""), record.value is None)
