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

from storage.engine import (
    Batch,
    CommitFailed,
    Damaged,
    FolderLocked,
    ScanEntry,
    ScanPage,
    StorageError,
)
from storage.record import Record, ReplicaState
from storage.rows import shown

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
    damaged: dict[bytes, str] = field(default_factory=dict)
    """Keys whose row has rotted, with the reason; writing the key anew mends it."""
    in_use: bool = False

    def apply(self, batch: Batch) -> None:
        """Commits the batch, all of it at once."""
        self.states.update(batch.states)
        for key in batch.states:
            self.damaged.pop(key, None)
        self.kept_aside.update(batch.keep)
        for kept in batch.forget:
            self.kept_aside.pop(kept, None)
        self.facts.update(batch.facts)
        self.commit_sequence += 1


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
        self.folder.in_use = True
        self._unusable = None

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


def _entry_of(key: bytes, record: Record, values: bool) -> ScanEntry:
    shown_record = record if values else record.without_value()
    return ScanEntry(key, shown_record, len(record.value or b""), record.value is None)
