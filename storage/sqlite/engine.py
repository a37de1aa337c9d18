"""SqliteEngine: the engine on a real disk. DESIGN.md beside this file says why it is built like this."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from storage.ballot import NONE
from storage.engine import (
    CUT_SHORT_FACT,
    Batch,
    CantMend,
    CommitFailed,
    CommitMetDamage,
    Damaged,
    DiskFull,
    FolderDamaged,
    FolderUnusable,
    HintPage,
    RowPage,
    ScanPage,
    ScrubPage,
    StorageError,
)
from storage.record import Record, ReplicaState
from storage.sqlite.folder import DataFolder
from storage.sqlite.reader import Reader
from storage.sqlite.scrub import scrub_step
from storage.sqlite.state_journal import FOLD_AFTER_S, Plan, StateJournal
from storage.sqlite.writer import Writer, is_malformed, statements_of

T = TypeVar("T")

IDLE_S = 0.02
"""Nothing was written for so long: there is time for other work."""
PACE_MIN, PACE_MAX = 0.6, 1.4
"""The replicas of a key have the same to write, and would all come to its rows, and to the checkpoint behind them, at
the same moment. At paces of their own a majority goes on while one is at it: a tenth of a second, now and then."""
PAGE_CACHE_BYTES_MAX = 32 * 1024 * 1024
"""All page caches together: half for the writer, the rest for the readers. More buys little, because the system's
own cache lies below; a million small records need no more than this to write."""


class SqliteEngine:
    """An Engine over one folder on a local disk, which it makes if need be."""

    def __init__(
        self,
        folder: Path,
        *,
        page_cache_bytes_max: int = PAGE_CACHE_BYTES_MAX,
        on_failure: Callable[[BaseException], None] = lambda failure: None,
    ) -> None:
        """on_failure: told when a transaction of the engine's own failed, the rows of its journal; whoever called
        write() is told by that. After either nothing is written any more.
        """
        self._on_failure = on_failure
        self._folder = DataFolder(folder)
        self._writer = Writer(self._folder, page_cache_bytes_max // 2)
        self._reader_cache_bytes = page_cache_bytes_max // 2
        # The writer's thread. Not aiosqlite's: there each statement is a trip through a queue and back to the event
        # loop, and another task's statement may come in between; here a whole transaction is one call.
        self._thread: ThreadPoolExecutor | None = None
        self._reader: Reader | None = None
        self._facts: dict[str, bytes] = {}
        self._leaves: dict[int, int] = {}
        self._commit_sequence = 0
        self._journal, self._pace = StateJournal({}, 0), 1.0
        self._under_way: asyncio.Future[None] | None = None
        """Done when the transaction that is being written is on disk, or undone."""
        self._fold_timer: asyncio.TimerHandle | None = None
        self._folding: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def incarnation(self) -> str:
        """See Engine."""
        return self._writer.incarnation

    @property
    def commit_sequence(self) -> int:
        """See Engine."""
        return self._commit_sequence

    @property
    def facts(self) -> Mapping[str, bytes]:
        """See Engine."""
        return MappingProxyType(self._facts)

    @property
    def leaves(self) -> Mapping[int, int]:
        """See Engine."""
        return self._leaves

    @property
    def leaves_are_lost(self) -> bool:
        """See Engine."""
        return self._writer.leaf_sums.are_lost

    @property
    def was_cut_short(self) -> str | None:
        """See Engine."""
        return self._facts.get(CUT_SHORT_FACT, b"").decode("utf-8", "replace") or None

    @staticmethod
    def set_aside(folder: Path) -> Path:
        """Renames a damaged database, so that an engine can make a new one; its new name. See DataFolder."""
        return DataFolder(folder).set_aside()

    async def open(self) -> None:
        """See Engine."""
        assert self._thread is None, "an engine is opened once"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kvstore-writer")
        try:
            await self._in_thread(self._writer.open)
            self._commit_sequence = self._writer.commit_sequence
            self._facts.update(self._writer.facts)
            self._leaves = self._writer.leaf_sums.current()
            self._pace = _pace_of(self._writer.incarnation)
            self._journal = StateJournal(self._writer.journalled, self._writer.last_entry, self._pace)
            self._writer.journalled = {}
            self._fold_in_time()
            self._reader = await Reader.open(self._folder.database, self._reader_cache_bytes)
        except sqlite3.Error as error:
            await self.close()
            kind = FolderDamaged if is_malformed(error) else FolderUnusable
            raise kind(f"{self._folder.database} can't be read: {error}; nothing was touched") from error
        except BaseException:
            await self.close()
            raise

    async def write(self, batch: Batch) -> None:
        """See Engine."""
        self._usable_reader()
        while self._under_way is not None:  # the rows of what is journalled
            await asyncio.shield(self._under_way)
            self._usable_reader()
        await self._transact(batch)

    async def _transact(self, batch: Batch) -> None:
        """One transaction; none other is under way."""
        plan = self._journal.plan(batch, self._commit_sequence + 1)
        commit = partial(self._writer.commit, statements_of(batch, plan), batch, plan)
        self._under_way = asyncio.get_running_loop().create_future()
        await self._in_thread(commit, partial(self._committed, batch, plan))

    async def load(self, keys: Sequence[bytes]) -> dict[bytes, ReplicaState | Damaged]:
        """See Engine."""
        reader = self._usable_reader()
        if not len(self._journal):
            return await reader.load(keys)
        found: dict[bytes, ReplicaState | Damaged] = {}
        for key in keys:
            state = self._journal.get(key)
            if state is not None:
                found[key] = state if state.floor == NONE else ReplicaState(state.promised, state.record)
        rest = [key for key in keys if key not in found]
        return found | await reader.load(rest) if rest else found

    async def fold(self) -> None:
        """Writes the rows of all that is journalled by now, for those who look at the table. Raises like write()."""
        await self._fold(self._write_rows)

    async def _write_rows(self, batch: Batch) -> None:
        try:
            await self.write(batch)
        except CommitFailed as failure:
            self._on_failure(failure)
            raise

    async def _fold(self, write: Callable[[Batch], Awaitable[None]]) -> None:
        for _ in range(2):  # what is being folded, and what has come since that began
            self._journal.fold()
            while self._journal.is_folding:
                await write(Batch())

    async def scan(
        self, prefix: bytes, after: bytes | None, limit: int, values: bool, value_bytes_max: int
    ) -> ScanPage:
        """See Engine."""
        await self.fold()
        return await self._usable_reader().scan(prefix, after, limit, values, value_bytes_max)

    async def kept_aside(self) -> dict[tuple[bytes, int], Record]:
        """See Engine."""
        return await self._usable_reader().kept_aside()

    async def rows(self, first: int, behind: int, after: tuple[int, bytes] | None, limit: int) -> RowPage:
        """See Engine."""
        await self.fold()
        return await self._usable_reader().rows(first, behind, after, limit)

    async def purgeable(self, first: int, behind: int, ballot_max: int, expired_before_ms: int) -> list[bytes]:
        """See Engine. What is journalled is nearly always too young for it, and most ranges have nothing."""
        may_be_journalled = self._journal.may_promise_up_to(ballot_max)  # before the table: it may move there meanwhile
        found = await self._usable_reader().purgeable(first, behind, ballot_max, expired_before_ms)
        if found or may_be_journalled:
            await self.fold()
            found = await self._usable_reader().purgeable(first, behind, ballot_max, expired_before_ms)
        return found

    async def hints(self, after: int, limit: int, value_bytes_max: int) -> HintPage:
        """See Engine."""
        return await self._usable_reader().hints(after, limit, value_bytes_max)

    async def scrub(self, after: int, limit: int) -> ScrubPage:
        """See Engine. The rows of the journal are written once a sweep, or where they may be those that rotted."""
        if after == 0:
            await self.fold()
        page = await scrub_step(self._usable_reader().sweep, after, limit)
        if page.rotten:
            await self.fold()
            page = await scrub_step(self._usable_reader().sweep, after, limit)
        return page

    async def mend(self, rows: Sequence[int]) -> None:
        """See Engine."""
        await self.fold()
        self._usable_reader()
        await self._in_thread(partial(self._writer.mend, rows), self._mended)

    async def reclaim(self, bytes_max: int) -> int:
        """See Engine."""
        self._usable_reader()
        return await self._in_thread(partial(self._writer.reclaim, bytes_max), self._note_failure)

    def free_bytes(self) -> tuple[int, int]:
        """See Engine."""
        disk = os.statvfs(self._folder.path)
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize

    def condemn(self, reason: str) -> None:
        """See Engine."""
        self._folder.condemn(reason)

    async def close(self) -> None:
        """See Engine. Readers go first, so that the writer is the last connection: it alone may checkpoint."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._thread is None:
            return
        if self._fold_timer is not None:
            self._fold_timer.cancel()
        if self._under_way is not None:
            await self._under_way
        if self._reader is not None and self._failure is None:
            with contextlib.suppress(StorageError):  # then the next start finds it in the journal
                await self._fold(self._transact)
        if self._reader is not None:
            await self._reader.close()
        try:
            await self._in_thread(self._writer.close)
        finally:
            self._thread.shutdown(wait=False)

    def _usable_reader(self) -> Reader:
        if self._failure is not None:
            kind = CommitMetDamage if isinstance(self._failure, CommitMetDamage) else CommitFailed
            failed = f"this engine refuses everything since a commit failed: {self._failure}"
            raise kind(failed) from self._failure
        if self._reader is None or self._closing is not None:
            raise StorageError(f"the data folder {self._folder.path} is not open; nothing was read or written")
        return self._reader

    def _committed(self, batch: Batch, plan: Plan, work: Future[int]) -> None:
        self._note_failure(work)
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.set_result(None)
        if work.exception() is None:
            self._commit_sequence = work.result()
            self._facts.update(batch.facts)
            self._journal.done(plan)
            self._fold_in_time()
        elif isinstance(work.exception(), DiskFull):
            self._journal.is_tight = True

    def _fold_in_time(self) -> None:
        if self._fold_timer is None and self._closing is None and not self._journal.is_empty:
            self._fold_timer = asyncio.get_running_loop().call_later(FOLD_AFTER_S * self._pace, self._fold_later)

    def _fold_later(self) -> None:
        self._fold_timer = None
        if self._closing is None and self._failure is None:
            self._folding = asyncio.get_running_loop().create_task(self._fold_quietly())

    async def _fold_quietly(self) -> None:
        """Transactions that are written anyway take the rows along; where none come, it makes some of its own.

        A full disk leaves the journal as it is.
        """
        self._journal.fold()
        with contextlib.suppress(StorageError):
            while self._journal.is_folding:
                before = self._commit_sequence
                await asyncio.sleep(IDLE_S)
                if self._commit_sequence == before:
                    await self._write_rows(Batch())

    def _mended(self, work: Future[int]) -> None:
        self._note_failure(work)
        if work.exception() is None:
            self._commit_sequence = work.result()

    def _note_failure(self, work: Future[int]) -> None:
        """After any failure but those that changed nothing, this engine refuses everything."""
        failure = work.exception()
        if failure is not None and not isinstance(failure, (DiskFull, CantMend)):
            self._failure = failure

    async def _in_thread(self, function: Callable[[], T], then: Callable[[Future[T]], None] | None = None) -> T:
        """Runs it in the writer's thread, after all that was given to it before; `then` runs here even if the
        awaiting task is cancelled meanwhile, as the function does too.
        """
        assert self._thread is not None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        work = self._thread.submit(function)
        work.add_done_callback(lambda work: loop.call_soon_threadsafe(_finish, work, then, answer))
        return await answer


def _pace_of(incarnation: str) -> float:
    """This folder's own, of all that is done once in a while: PACE_MIN to PACE_MAX."""
    return PACE_MIN + (PACE_MAX - PACE_MIN) * int(incarnation[:4], 16) / 0xFFFF


def _finish(work: Future[T], then: Callable[[Future[T]], None] | None, answer: asyncio.Future[T]) -> None:
    if then is not None:
        then(work)
    if answer.done():  # cancelled
        return
    failure = work.exception()
    if failure is not None:
        answer.set_exception(failure)
    else:
        answer.set_result(work.result())
