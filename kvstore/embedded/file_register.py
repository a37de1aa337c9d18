"""FileRegister: a register that is a row of the file. Its atomic step is a transaction that nobody else can be in."""

from __future__ import annotations

import msgspec

from cluster.clock import Clock
from cluster.locks.lock_state import decode as state_of
from cluster.locks.register import Changed, Function, MayBeChanged, NotChanged
from kvstore.embedded import notes
from kvstore.embedded.attempts import Attempts
from kvstore.embedded.lease_times import LeaseTimes
from kvstore.embedded.moments import Moment, now
from kvstore.embedded.notes import Notes
from storage.engine import CommitFailed, StorageError
from storage.shared_file.rows import Cell
from storage.shared_file.transaction import Writing


class FileRegister:
    """A Register (cluster/locks/register.py)."""

    def __init__(self, key: bytes, attempts: Attempts, clock: Clock) -> None:
        self.key = key
        self._attempts, self._clock = attempts, clock

    async def read(self, timeout_s: float) -> bytes | None:
        """See Register."""
        return (await self._cell(timeout_s)).value

    async def change(self, function: Function, timeout_s: float) -> Changed:
        """See Register."""
        try:
            return await self._attempts.write(
                lambda file: self._changed(file, function), self._attempts.now_s + timeout_s
            )
        except CommitFailed as error:
            raise MayBeChanged(error) from error
        except StorageError as error:
            raise NotChanged(error) from error

    async def _cell(self, timeout_s: float) -> Cell:
        try:
            return await self._attempts.read(lambda file: file.register(self.key), self._attempts.now_s + timeout_s)
        except StorageError as error:
            raise NotChanged(error) from error

    def _changed(self, file: Writing, function: Function) -> Changed:
        before = file.register(self.key).value
        value = function(before, self._clock.wall_ms())
        if value is None:
            return Changed(before, False)
        file.put_register(self.key, Cell(value))
        return Changed(value, True)


class Wanted(msgspec.Struct, frozen=True):
    """Who wants a lock."""

    token: bytes
    owner: str
    is_waiting: bool
    """Whether it stays in the line until it has the lock."""


class LockRegister(FileRegister):
    """A lock's register, with the notes beside it.

    Where `wanted` says for whom it is asked, a change is made only when that one's turn has come.
    """

    def __init__(self, key: bytes, attempts: Attempts, clock: Clock, era: str, times: LeaseTimes) -> None:
        super().__init__(key, attempts, clock)
        self._era, self._times = era, times
        self.wanted: Wanted | None = None
        self.leaving: bytes | None = None
        """Who waits no longer, once the next change is made."""
        self.notes = self._noted = Notes(era)
        """As they were when the register was last read or changed here."""

    def now(self) -> Moment:
        """The moment, as notes have it."""
        return now(self._era, self._clock)

    async def read(self, timeout_s: float) -> bytes | None:
        """See Register."""
        cell = await self._cell(timeout_s)
        self.saw(cell)
        return cell.value

    def saw(self, cell: Cell) -> None:
        """The file holds this."""
        self._learn(notes.decode(cell.beside, self.now()))

    async def change(self, function: Function, timeout_s: float) -> Changed:
        """See Register."""
        changed = await super().change(function, timeout_s)
        self._learn(self._noted)
        return changed

    def _learn(self, learned: Notes) -> None:
        self.notes = learned
        self._times.learn(self.key, {identity: since_ms / 1000 for identity, since_ms in learned.since().items()})

    def _changed(self, file: Writing, function: Function) -> Changed:
        cell, moment = file.register(self.key), self.now()
        before = notes.decode(cell.beside, moment)
        is_turn = self.wanted is None or before.place_of(self.wanted.token) == 0
        value = function(cell.value, self._clock.wall_ms()) if is_turn else None
        kept = cell.value if value is None else value
        after = self._after(before, kept, moment)
        if value is not None or after != before:
            file.put_register(self.key, Cell(kept, notes.encode(after)))
        self._noted = after
        return Changed(kept, value is not None)

    def _after(self, before: Notes, value: bytes | None, moment: Moment) -> Notes:
        state = state_of(value)
        after = notes.noted(before, state, moment)
        if self.leaving is not None:
            after = notes.without(after, self.leaving)
        wanted = self.wanted
        if wanted is None:
            return after
        if wanted.is_waiting and state.of_token(wanted.token) is None:
            return notes.heard(after, wanted.token, wanted.owner, moment)
        return notes.without(after, wanted.token)
