"""GroupCommit: the event loop's side of the writer. Whatever arrives while a transaction is under way shares the next.

One fsync then pays for all the requests that wait. There is no delay to gather more: the disk's own pace gathers
them. A caller puts its rows, keeps the number of the batch they are in, and asks to be called when it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from storage.engine import Batch, Engine
from storage.record import Record, ReplicaState


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
        self._gathering = 1
        self._pending = Batch()
        self._under_way = Batch()
        self._callbacks: dict[int, list[Callable[[], None]]] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._idle: asyncio.Future[None] | None = None
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

    def start(self) -> None:
        """Begins to commit, with what has been put already. Needs a running event loop."""
        assert self._writer is None, "a group commit is started once"
        self._writer = asyncio.get_running_loop().create_task(self._commit_batches())

    async def stop(self) -> None:
        """Commits everything that was put, then ends; what is put after that is never written. Idempotent.

        After a failed commit it just ends.
        """
        self._stopping = True
        if self._idle is not None:
            self._wake()
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def _commit_batches(self) -> None:
        while True:
            if not _size(self._pending):
                if self._stopping:
                    return
                await self._until_woken()
                continue
            self._under_way, self._pending = self._pending, Batch()
            ticket, self._gathering = self._gathering, self._gathering + 1
            try:
                await self._engine.write(self._under_way)
            except Exception as failure:
                self._fail(failure)
                return
            self._under_way = Batch()
            self.committed = ticket
            for callback in self._callbacks.pop(ticket, ()):
                self._call(callback)

    async def _until_woken(self) -> None:
        self._idle = asyncio.get_running_loop().create_future()
        try:
            await self._idle
        finally:
            self._idle = None

    def _wake(self) -> None:
        """The writer goes on in the loop's next turn, so that all that arrives in this one joins."""
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    def _fail(self, failure: BaseException) -> None:
        self._failure = failure
        self._callbacks.clear()
        for durable in self._waiting:
            if not durable.done():
                durable.set_exception(failure)
        self._on_failure(failure)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a callback that waited for a commit failed; the commit stands", "exception": error}
            )


def _size(batch: Batch) -> int:
    return len(batch.states) + len(batch.keep) + len(batch.forget) + len(batch.facts)
