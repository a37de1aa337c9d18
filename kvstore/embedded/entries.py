"""Keys and values within one transaction. What a write does to a record is decided by the cluster's own function
(cluster/protocol/changes.py), so that conditions and fences mean the same here and there.

Expiry is settled: whoever finds a value expired deletes it before it is said to be gone, so that a clock that is set
back does not bring it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from cluster.levels import Level
from cluster.locks.lock_state import decode, lock_key
from cluster.protocol.changes import OLDEST, Put, Settle, highest_seen
from cluster.requests import ALWAYS, Condition, Conflict, Fence
from kvstore.client.values import Entry, Page, Value, Written
from kvstore.embedded.told import age_of, bad_fence, conflict_error, expires_in_s, fence_error, receipt_of
from kvstore.errors import KvstoreError
from storage.ballot import version_text
from storage.record import Record
from storage.shared_file.errors import EntryDamaged
from storage.shared_file.transaction import Reading, Writing

SWEEP_MAX = 4
"""Expired values that a write deletes beside its own work, so that those that nobody reads don't stay for ever."""
PAGE_VALUE_BYTES_MAX = 16 << 20


class Change(msgspec.Struct, frozen=True):
    """One put or delete, checked."""

    key: bytes
    value: bytes | None
    """None deletes."""
    content_type: str
    level: Level
    condition: Condition = ALWAYS
    fence: Fence | None = None
    ttl_ms: int = 0


class Look(msgspec.Struct, frozen=True):
    """One get, checked."""

    key: bytes
    level: Level
    fence: Fence | None = None


class Expired(Exception):
    """A value is over by now: what was to be a read has to delete it."""


def write(file: Writing, change: Change, now_ms: int) -> Written | KvstoreError:
    """Applies the change, or tells why not; the transaction is to be committed either way. Raises EntryDamaged."""
    if change.fence is not None and (refusal := _never_granted(file, change.key, change.fence, "written")) is not None:
        return refusal
    base = file.header(change.key)
    if base is not None and base.is_expired(now_ms):
        base = base.deleted()
        file.put(change.key, base)  # for good, whatever becomes of the change
    expires_at_ms = now_ms + change.ttl_ms if change.ttl_ms and change.value is not None else 0
    put = Put(change.value, change.content_type, change.condition, expires_at_ms, now_ms, change.fence)
    version = file.next_version(now_ms)
    record = put.apply(base, version)
    if record is None:
        return conflict_error(change.condition, put.conflict(base, ()))
    file.put(change.key, record)
    return Written(change.key.decode(), version_text(version), str(change.level), 1, 1, receipt_of(change.level))


def read(file: Reading, look: Look, now_ms: int) -> Value | None:
    """The value; None where there is none. Raises Expired, and EntryDamaged."""
    record = file.entry(look.key)
    if record is not None and record.is_expired(now_ms):
        raise Expired
    return shown(look, record, now_ms)


def settled(file: Writing, look: Look, now_ms: int) -> Value | KvstoreError | None:
    """The same once what is expired is deleted, and once the key remembers the fence, or why it does not."""
    if look.fence is not None and (refusal := _never_granted(file, look.key, look.fence, "read")) is not None:
        return refusal
    settle(file, look.key, now_ms)
    record = file.entry(look.key)
    if look.fence is not None:
        change, base = Settle(fence=look.fence), record
        record = change.marked(base, OLDEST, OLDEST)
        if record is not None and record is not base:
            file.put(look.key, record)
        if (conflict := change.conflict(record, ())) is not None:
            return fence_error(conflict, "read")
    return shown(look, record, now_ms)


def _never_granted(file: Reading, key: bytes, fence: Fence, done: str) -> KvstoreError | None:
    """Why the fence is none; one that is too low for the key is called so, whether it was granted or made up."""
    lock = decode(file.register(lock_key(fence.lock)).value)
    if lock.may_have_granted(fence.number):
        return None
    base = file.header(key)
    if (seen := highest_seen(base, fence)) > fence.number:
        version = base.origin if base is not None and base.value is not None else None
        return fence_error(Conflict(version, 0, (), fence=seen), done)
    return bad_fence(lock.fence, done)


def settle(file: Writing, key: bytes, now_ms: int) -> None:
    """Deletes the value if its time is over; the key's fences stay."""
    record = file.header(key)
    if record is not None and record.is_expired(now_ms):
        file.put(key, record.deleted())


def settle_all(file: Writing, keys: Sequence[bytes], now_ms: int) -> None:
    """The same for several."""
    for key in keys:
        settle(file, key, now_ms)


def sweep(file: Writing, now_ms: int) -> None:
    """Deletes some values whose time is over."""
    for key in file.expired(now_ms, SWEEP_MAX):
        with suppress(EntryDamaged):  # whoever asks for it will be told
            settle(file, key, now_ms)


def shown(look: Look, record: Record | None, now_ms: int) -> Value | None:
    """The value as an application sees it."""
    if record is None or record.value is None:
        return None
    return Value(
        look.key.decode(),
        record.value,
        version_text(record.origin),
        record.content_type,
        expires_in_s(record, now_ms),
        receipt_of(look.level, age_of(record, look.level, now_ms)),
    )


def page(
    file: Reading, prefix: bytes, after: bytes | None, limit: int, values: bool, now_ms: int
) -> tuple[Page, Sequence[bytes]]:
    """A part of a listing, and the keys in it whose values are over, to be settled before it is shown."""
    first = prefix if after is None else max(prefix, after + b"\0")
    found, is_all = file.scan(first, end_of(prefix), limit, values, PAGE_VALUE_BYTES_MAX)
    expired = [listed.key for listed in found if listed.record.is_expired(now_ms)]
    entries = tuple(
        Entry(
            key.decode(),
            version_text(record.origin),
            size,
            record.content_type,
            record.value if values else None,
            expires_in_s(record, now_ms),
        )
        for key, record, size in found
        if not record.is_expired(now_ms)
    )
    return Page(entries, None if is_all else found[-1].key.decode()), expired


def end_of(prefix: bytes) -> bytes | None:
    """The first key behind all that begin with the prefix; None where that is the end. A prefix is UTF-8: no 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else None
