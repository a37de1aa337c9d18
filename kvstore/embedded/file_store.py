"""FileStore: a file as a Store. Each call is one transaction; locks and votes are the cluster's own, over a row."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import msgspec

from cluster.clock import Clock, SystemClock
from cluster.levels import Level
from cluster.locks import lock_state
from cluster.locks.lock import Lock
from cluster.locks.lock_state import LockState, Wish, lock_key, name_of_lock, token_digest
from cluster.locks.register import MayBeChanged, RegisterError
from cluster.locks.vote import VALUE_BYTES_MAX, Proposal, Vote, vote_key
from kvstore.client.store import TIMEOUT_S
from kvstore.client.values import (
    Consistency,
    Count,
    Decision,
    Fence,
    Holder,
    Lease,
    LockInfo,
    Operation,
    Page,
    Results,
    Value,
    Written,
)
from kvstore.embedded import arguments, batches, entries
from kvstore.embedded.attempts import Attempts
from kvstore.embedded.entries import Change, Expired, Look
from kvstore.embedded.file_register import FileRegister, LockRegister
from kvstore.embedded.lease_times import LeaseTimes
from kvstore.embedded.moments import era_of_host
from kvstore.embedded.told import decision_of, lost_error, storage_error
from kvstore.embedded.waiting import Wait
from kvstore.errors import KvstoreError, LockHeld, OutcomeUnknown, TooLarge
from storage.engine import StorageError
from storage.shared_file.file import SharedFile
from storage.shared_file.rows import Cell
from storage.shared_file.transaction import Reading, Writing

T = TypeVar("T")

TOKEN_BYTES = 24
"""Of chance, in each token: nobody guesses 192 bits."""
GIVE_UP_S = 5.0
"""For leaving a lock's line behind the back of a call that was cancelled."""
LOCKS_PAGE = 1_000


class FileStore:
    """The file at a path. The methods are described in client/store.py."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Clock | None = None,
        source: random.Random | None = None,
    ) -> None:
        """Touches nothing yet. Raises ValueError for a path that names no file."""
        if os.fsdecode(path) in ("", ":memory:"):
            raise ValueError(f"{os.fsdecode(path)!r} names no file; processes share a file on a disk")
        self._clock = clock or SystemClock()
        self._random = source or random.Random()
        self._timeout_s = timeout_s
        self._attempts = Attempts(SharedFile(path), self._random)
        self._era = era_of_host()
        self._times = LeaseTimes(self._clock)
        self._cleaning: set[asyncio.Task[None]] = set()

    @property
    def timeout_s(self) -> float:
        """The deadline of calls that name none."""
        return self._timeout_s

    async def open(self) -> None:
        """Opens the file, and makes it if need be: what is wrong with it is told at once."""
        await self._read(lambda file: None, None)

    async def close(self) -> None:
        """Closes the file, once what is under way is done."""
        while self._cleaning:
            await asyncio.wait(self._cleaning)
        await self._attempts.close()

    # -- keys and values -------------------------------------------------------------------------------------------

    async def get(
        self,
        key: str,
        *,
        fence: Fence | None,
        consistency: Consistency | None,
        r: Count | None,
        timeout_s: float | None,
    ) -> Value | None:
        """The value; None where there is none."""
        level = _level(consistency, r=r)
        look = Look(arguments.key_of(key), level, arguments.fence_of(fence, level, is_read=True))
        now_ms = self._clock.wall_ms()
        if look.fence is None:
            with suppress(Expired):
                return await self._read(lambda file: entries.read(file, look, now_ms), timeout_s)
        found = await self._write(lambda file: entries.settled(file, look, now_ms), timeout_s, is_read=True)
        if isinstance(found, KvstoreError):
            raise found
        return found

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        if_match: str | None,
        create: bool,
        fence: Fence | None,
        ttl_s: float | None,
        content_type: str | None,
        consistency: Consistency | None,
        w: Count | None,
        timeout_s: float | None,
    ) -> Written:
        """Writes the value."""
        level = _level(consistency, w=w)
        change = Change(
            arguments.key_of(key),
            arguments.value_of(value),
            arguments.content_type_of(content_type),
            level,
            arguments.condition_of(if_match, create, level),
            arguments.fence_of(fence, level),
            arguments.ttl_ms_of(ttl_s),
        )
        return await self._change(change, timeout_s)

    async def delete(
        self,
        key: str,
        *,
        if_match: str | None,
        fence: Fence | None,
        consistency: Consistency | None,
        w: Count | None,
        timeout_s: float | None,
    ) -> Written:
        """Deletes."""
        level = _level(consistency, w=w)
        condition = arguments.condition_of(if_match, False, level)
        change = Change(arguments.key_of(key), None, "", level, condition, arguments.fence_of(fence, level))
        return await self._change(change, timeout_s)

    async def page(
        self,
        prefix: str,
        *,
        values: bool,
        after: str | None,
        limit: int,
        consistency: Consistency | None,
        r: Count | None,
        timeout_s: float | None,
    ) -> Page:
        """A part of the keys with this prefix."""
        _level(consistency, r=r)
        arguments.check_limit(limit)
        first, behind, now_ms = arguments.prefix_of(prefix), arguments.after_of(after), self._clock.wall_ms()
        page, expired = await self._read(
            lambda file: entries.page(file, first, behind, limit, values, now_ms), timeout_s
        )
        if expired:
            await self._write(lambda file: entries.settle_all(file, expired, now_ms), timeout_s, is_read=True)
        return page

    async def batch(
        self,
        operations: Sequence[Operation],
        *,
        consistency: Consistency | None,
        r: Count | None,
        w: Count | None,
        timeout_s: float | None,
    ) -> Results:
        """One result for each operation, in order, within one transaction."""
        level = _level(consistency, r=r, w=w)
        steps, now_ms = batches.steps_of(operations, level), self._clock.wall_ms()
        is_read = not any(isinstance(step, Change) for step in steps)
        if not any(map(batches.may_change, steps)):
            try:
                return await self._read(lambda file: batches.read(file, steps, now_ms), timeout_s)
            except Expired:
                pass
        return await self._write(lambda file: batches.carry_out(file, steps, now_ms), timeout_s, is_read=is_read)

    # -- locks -----------------------------------------------------------------------------------------------------

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, wait_s: float, permits: int, timeout_s: float | None
    ) -> Lease:
        """Takes the lock. When the call is cancelled, or fails, what may have been granted is given back."""
        token = secrets.token_hex(TOKEN_BYTES)
        ttl_ms, wait_s = arguments.lease_ms_of(ttl_s), arguments.wait_s_of(wait_s)
        arguments.check_permits(permits)
        wish = Wish(arguments.owner_of("owner", owner), token_digest(token), ttl_ms, permits)
        lock, register = self._lock(name)
        wait = Wait(lock, register, self._times, wish, wait_s, self._random)
        try:
            grant = await wait.granted(self._deadline(timeout_s))
        except BaseException as error:
            if wait_s > 0 or not isinstance(error, LockHeld):
                self._clean(wait.give_up(GIVE_UP_S))
            if isinstance(error, RegisterError):
                raise _register_error(error, False) from error
            raise
        return Lease(name, owner, token, grant.fence, ttl_s)

    async def renew(self, name: str, token: str, *, timeout_s: float | None) -> None:
        """Begins the lease anew."""
        arguments.check_token(token)
        lock, _ = self._lock(name)
        grant = await self._stepped(lock.renew(token_digest(token), self._deadline(timeout_s)))
        if grant is None:
            raise lost_error()

    async def release(self, name: str, token: str, *, timeout_s: float | None) -> None:
        """Gives the lock back."""
        arguments.check_token(token)
        lock, _ = self._lock(name)
        grant = await self._stepped(lock.release(token_digest(token), self._deadline(timeout_s)))
        if grant is None:
            raise lost_error()

    async def lock_info(self, name: str, *, timeout_s: float | None) -> LockInfo | None:
        """The lock as it stands; None where nobody holds it."""
        key = lock_key(arguments.name_of(name))
        return self._shown(key, await self._read(lambda file: file.register(key), timeout_s))

    async def locks(self, prefix: str, *, timeout_s: float | None) -> list[LockInfo]:
        """All locks with this prefix that somebody holds."""
        arguments.prefix_of(prefix)
        first = lock_key(prefix)
        bound = entries.end_of(first)
        assert bound is not None
        shown: list[LockInfo] = []
        while True:
            found = await self._read(partial(_registers, first=first, bound=bound), timeout_s)
            shown += [info for key, cell in found if (info := self._shown(key, cell)) is not None]
            if len(found) < LOCKS_PAGE:
                return shown
            first = found[-1][0] + b"\0"

    # -- votes -----------------------------------------------------------------------------------------------------

    async def propose(self, name: str, candidate: str, value: Any, *, timeout_s: float | None) -> Decision:
        """Decides the vote if nobody has."""
        coded = msgspec.json.encode(value)
        if len(coded) > VALUE_BYTES_MAX:
            detail = (
                f"The value is larger than {VALUE_BYTES_MAX:,} bytes of JSON; nothing was proposed. Store it as a key."
            )
            raise TooLarge(detail, limit=VALUE_BYTES_MAX)
        proposal = Proposal(arguments.owner_of("candidate", candidate), coded)
        voted = await self._stepped(self._vote(name).propose(proposal, self._deadline(timeout_s)))
        return decision_of(name, voted.decision, voted.is_new)

    async def decision(self, name: str, *, timeout_s: float | None) -> Decision | None:
        """What the vote decided; None while nothing is."""
        decided = await self._stepped(self._vote(name).decision(self._deadline(timeout_s)), is_read=True)
        return None if decided is None else decision_of(name, decided, False)

    # ---------------------------------------------------------------------------------------------------------------

    async def _change(self, change: Change, timeout_s: float | None) -> Written:
        now_ms = self._clock.wall_ms()

        def work(file: Writing) -> Written | KvstoreError:
            entries.sweep(file, now_ms)
            return entries.write(file, change, now_ms)

        written = await self._write(work, timeout_s)
        if isinstance(written, KvstoreError):
            raise written
        return written

    async def _read(self, work: Callable[[Reading], T], timeout_s: float | None) -> T:
        try:
            return await self._attempts.read(work, self._attempts.now_s + self._deadline(timeout_s))
        except StorageError as error:
            raise storage_error(error, is_read=True) from error

    async def _write(self, work: Callable[[Writing], T], timeout_s: float | None, *, is_read: bool = False) -> T:
        """is_read: whether the caller has asked to read, and is told so if it fails."""
        try:
            return await self._attempts.write(work, self._attempts.now_s + self._deadline(timeout_s))
        except StorageError as error:
            raise storage_error(error, is_read) from error

    async def _stepped(self, step: Coroutine[Any, Any, T], *, is_read: bool = False) -> T:
        try:
            return await step
        except RegisterError as error:
            raise _register_error(error, is_read) from error

    def _lock(self, name: str) -> tuple[Lock, LockRegister]:
        key = lock_key(arguments.name_of(name))
        register = LockRegister(key, self._attempts, self._clock, self._era, self._times)
        return Lock(key, register, self._times), register

    def _vote(self, name: str) -> Vote:
        return Vote(FileRegister(vote_key(arguments.name_of(name)), self._attempts, self._clock))

    def _shown(self, key: bytes, cell: Cell) -> LockInfo | None:
        """The lock that the cell holds, without grants that are over: whoever comes may take them."""
        register = LockRegister(key, self._attempts, self._clock, self._era, self._times)
        register.saw(cell)
        state: LockState = lock_state.decode(cell.value)
        self._times.saw(key, state)
        over = self._times.over(key)
        holders = tuple(
            Holder(grant.owner, grant.fence, grant.ttl_ms / 1000, int(self._times.left_s(key, grant) * 10) / 10)
            for grant in state.grants
            if grant.identity not in over
        )
        if not holders:
            return None
        first = holders[0]
        return LockInfo(
            name_of_lock(key),
            first.owner,
            state.fence,
            first.ttl,
            first.expires_in,
            len(register.notes.line),
            state.permits,
            holders,
        )

    def _clean(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(_quietly(work))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    def _deadline(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


def _level(consistency: Consistency | None, *, r: Count | None = None, w: Count | None = None) -> Level:
    level = arguments.level_of(consistency)
    arguments.check_count("r", r, level)
    arguments.check_count("w", w, level)
    return level


def _registers(file: Reading, *, first: bytes, bound: bytes) -> list[tuple[bytes, Cell]]:
    return file.registers(first, bound, LOCKS_PAGE)


def _register_error(error: RegisterError, is_read: bool) -> KvstoreError:
    why = getattr(error, "why", error)
    if isinstance(error, MayBeChanged):
        return OutcomeUnknown(f"{why}")
    return (
        storage_error(why, is_read) if isinstance(why, StorageError) else storage_error(StorageError(str(why)), is_read)
    )


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    """What is left in the line is passed over soon, and a grant ends with its lease: nobody needs to hear of it."""
    try:
        await work
    except (RegisterError, StorageError):
        return
