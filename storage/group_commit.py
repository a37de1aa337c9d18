"""GroupCommit: the event loop's side of the writer. Whatever arrives while a transaction is under way shares the next.

One fsync then pays for all the requests that wait. A caller puts its rows, keeps the number of the batch they are in,
and asks to be called when it is durable.

The disk's pace gathers them, and under load the loop's: as long as each of its turns brings more rows, the transaction
waits for another one. Where all who wait wait for this transaction, the next turn brings none, and it begins. So there
is no delay to set, as in databases that wait for company (PostgreSQL's commit_delay), and none for a single client.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from storage.engine import Batch, CommitFailed, DiskFull, Engine, StorageError
from storage.record import Hint, Record, ReplicaState

FULL_RETRY_S = 0.25
"""Pause before a transaction that found no room is tried again."""
GATHER_S_MAX = 0.016
"""How long rows wait for more of their kind, on a loop that is busy all that time."""
GATHER_ROWS_MAX = 256
"""What is as large has company enough."""
Result = TypeVar("Result")


class GroupCommit:
    """Gathers writes into batches 1, 2, 3, ... and commits one after another. Lives on one event loop.

    When a commit fails, on_failure is called once, and nothing that waits is ever told that it is durable: what
    was in flight may or may not be on disk, and the process has to end.
    """

    def __init__(self, engine: Engine, on_failure: Callable[[BaseException], None]) -> None:
        self._engine = engine
        self._on_failure = on_failure
        self.committed = 0
        """The number of the last batch that is durable."""
        self.is_full = False
        """Whether the batch under way waits for room on the disk."""
        self._gathering = 1
        self._pending = Batch()
        self._under_way = Batch()
        self._callbacks: dict[int, list[Callable[[], None]]] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._idle: asyncio.Future[None] | None = None
        self._alone: deque[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._stopping = False
        self._failure: BaseException | None = None
        self._writer: asyncio.Task[None] | None = None

    @property
    def backlog(self) -> int:
        """Rows that are not durable yet: those gathered and those under way."""
        return _size(self._pending) + _size(self._under_way)

    def put(self, key: bytes, state: ReplicaState) -> int:
        """Writes this state of the key, in place of any it was given before; the ticket of its batch."""
        self._pending.states[key] = state
        if self._pending.drop:
            self._pending.drop.discard(key)
        if self._idle is not None:
            self._wake()
        return self._gathering

    def drop(self, key: bytes) -> int:
        """Removes all that is held of the key, the promise too; the ticket of its batch."""
        self._pending.states.pop(key, None)
        self._pending.drop.add(key)
        return self._put()

    def set_leaf(self, leaf: int, total: int) -> None:
        """Writes the sum of a leaf with the batch that is gathered now; always beside the rows that changed it."""
        self._pending.leaves[leaf] = total

    def mend_leaf(self, leaf: int, total: int) -> int:
        """Writes the sum of a leaf that was summed up anew, beside no row; the ticket of its batch."""
        self.set_leaf(leaf, total)
        return self._put()

    def set_all_leaves(self, sums: Mapping[int, int]) -> int:
        """Writes the sums of all leaves, in place of what was lost; the ticket of the batch."""
        self._pending.leaves = dict(sums)
        self._pending.leaves_are_all = True
        return self._put()

    def hint(self, number: int, hint: Hint) -> int:
        """Keeps a hint, in place of one of the same number; the ticket of its batch."""
        self._pending.drop_hints.discard(number)
        self._pending.hints[number] = hint
        return self._put()

    def drop_hint(self, number: int) -> int:
        """Drops a hint, if there is one; the ticket of its batch."""
        self._pending.hints.pop(number, None)
        self._pending.drop_hints.add(number)
        return self._put()

    @property
    def ticket(self) -> int:
        """The batch that is gathered now: once it is durable, so is all that was put before."""
        return self._gathering if not _is_empty(self._pending) else self._gathering - 1

    def _put(self) -> int:
        if self._idle is not None:
            self._wake()
        return self._gathering

    def keep(self, key: bytes, record: Record) -> int:
        """Keeps the record aside; the ticket of its batch."""
        kept = (key, record.origin)
        self._pending.forget.discard(kept)
        self._pending.keep[kept] = record
        if self._idle is not None:
            self._wake()
        return self._gathering

    def forget(self, key: bytes, origin: int) -> int:
        """Drops the record kept aside, if there is one; the ticket of its batch."""
        kept = (key, origin)
        self._pending.keep.pop(kept, None)
        self._pending.forget.add(kept)
        if self._idle is not None:
            self._wake()
        return self._gathering

    def set_fact(self, name: str, value: bytes) -> int:
        """Writes a fact about this node; the ticket of its batch."""
        self._pending.facts[name] = value
        if self._idle is not None:
            self._wake()
        return self._gathering

    def when(self, ticket: int, callback: Callable[[], None]) -> None:
        """Calls back once that batch is durable: at once if it is, else after its commit, in order of asking."""
        if ticket <= self.committed:
            self._call(callback)
        else:
            self._callbacks.setdefault(ticket, []).append(callback)

    async def wait(self, ticket: int) -> None:
        """Returns once that batch is durable. Raises what the commit raised."""
        if ticket <= self.committed:
            return
        if self._failure is not None:
            raise self._failure
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(durable)
        self.when(ticket, lambda: None if durable.done() else durable.set_result(None))
        try:
            await durable
        finally:
            self._waiting.discard(durable)

    async def alone(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Does this between two transactions, while none is under way: for what an engine can't do beside one.

        Gives or raises what the work does; if that is CommitFailed, it ends the writer as any failed commit does.
        Raises StorageError when the writer has ended.
        """
        if self._writer is None or self._writer.done():
            raise StorageError("nothing is written to this folder any more")
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._alone.append((work, done))
        if self._idle is not None:
            self._wake()
        return await done

    def start(self) -> None:
        """Begins to commit, with what has been put already. Needs a running event loop."""
        assert self._writer is None, "a group commit is started once"
        self._writer = asyncio.get_running_loop().create_task(self._commit_batches())

    async def stop(self) -> None:
        """Commits everything that was put, then ends; what is put after that is never written. Idempotent.

        After a failed commit it just ends; so it does while the disk is full, for that may last: those who wait are
        told DiskFull, and what they put is not there.
        """
        self._stopping = True
        if self._idle is not None:
            self._wake()
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def _commit_batches(self) -> None:
        while True:
            if self._alone and not await self._do_alone():
                return
            if _is_empty(self._pending):
                if self._stopping:
                    self._refuse_alone()
                    return
                await self._until_woken()
                continue
            await self._until_gathered()
            self._under_way, self._pending = self._pending, Batch()
            ticket, self._gathering = self._gathering, self._gathering + 1
            try:
                await self._write_when_there_is_room()
            except DiskFull as failure:
                self._end_with(failure)
                return
            except Exception as failure:
                self._fail(failure)
                return
            self._under_way = Batch()
            self.committed = ticket
            for callback in self._callbacks.pop(ticket, ()):
                self._call(callback)

    async def _do_alone(self) -> bool:
        """Does what waits for a moment without a transaction; False when a commit of it failed."""
        while self._alone:
            work, done = self._alone.popleft()
            if done.done():  # whoever asked has gone
                continue
            try:
                result = await work()
            except Exception as error:
                if not done.done():
                    done.set_exception(error)
                if isinstance(error, CommitFailed):
                    self._fail(error)
                    return False
            else:
                if not done.done():
                    done.set_result(result)
        return True

    def _refuse_alone(self) -> None:
        while self._alone:
            _, done = self._alone.popleft()
            if not done.done():
                done.set_exception(StorageError("nothing is written to this folder any more"))

    async def _write_when_there_is_room(self) -> None:
        """Writes the batch under way, however long the disk is full; raises DiskFull when that lasts until the end.

        Nobody was told of it, so that it waits breaks no promise, and nothing of it is on disk until it is written.
        """
        while True:
            try:
                await self._engine.write(self._under_way)
            except DiskFull:
                self.is_full = True
                if self._stopping:
                    raise
                await asyncio.sleep(FULL_RETRY_S)
            else:
                self.is_full = False
                return

    async def _until_woken(self) -> None:
        self._idle = asyncio.get_running_loop().create_future()
        try:
            await self._idle
        finally:
            self._idle = None

    async def _until_gathered(self) -> None:
        """Returns when a turn of the loop has brought no more states, or it is time. All else goes with them: where no
        state waits, that is one turn."""
        clock = asyncio.get_running_loop().time
        latest_s, before = clock() + GATHER_S_MAX, -1
        while before < (rows := len(self._pending.states)) < GATHER_ROWS_MAX and clock() < latest_s:
            before = rows
            await asyncio.sleep(0)

    def _wake(self) -> None:
        """The writer goes on in the loop's next turn, so that all that arrives in this one joins."""
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    def _fail(self, failure: BaseException) -> None:
        self._end_with(failure)
        self._on_failure(failure)

    def _end_with(self, failure: BaseException) -> None:
        """Nothing is written any more, and whoever waits is told why."""
        self._failure = failure
        self._callbacks.clear()
        for durable in self._waiting:
            if not durable.done():
                durable.set_exception(failure)
        self._refuse_alone()

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a callback that waited for a commit failed; the commit stands", "exception": error}
            )


def _size(batch: Batch) -> int:
    rows = len(batch.states) + len(batch.keep) + len(batch.forget) + len(batch.facts)
    return rows + len(batch.drop) + len(batch.hints) + len(batch.drop_hints) + batch.leaves_are_all


def _is_empty(batch: Batch) -> bool:
    return not _size(batch) and not batch.leaves
