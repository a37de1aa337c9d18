"""What became of a request, in the words of the client: errors as a cluster has them, and what is shown of locks."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec

from cluster.levels import Level
from cluster.locks import vote
from cluster.requests import FENCES_MAX, Condition, ConditionKind, Conflict
from kvstore import errors
from kvstore.client.values import Decision, Receipt
from kvstore.errors import KvstoreError
from storage.ballot import unix_ms_of, version_text
from storage.engine import CommitFailed, DiskFull, StorageError
from storage.record import Record
from storage.shared_file.errors import EntryDamaged, FileBusy, FileUnusable


def receipt_of(level: Level, age_s: float | None = None) -> Receipt:
    """A file is one replica, and it is always there."""
    return Receipt(level=str(level), n=1, needed=1, acks=1, age=age_s)


def age_of(record: Record | None, level: Level, now_ms: int) -> float | None:
    """Of a weak or eventual read: seconds since the version was written."""
    if record is None or level is Level.STRONG:
        return None
    return max(0, now_ms - unix_ms_of(record.origin)) / 1000


def expires_in_s(record: Record, now_ms: int) -> float | None:
    """How many seconds the value lasts, in whole tenths, rounded down; None is for ever."""
    return max(0, record.expires_at_ms - now_ms) // 100 / 10 if record.expires_at_ms else None


def conflict_error(condition: Condition, conflict: Conflict) -> KvstoreError:
    """Why a write was refused."""
    if conflict.fence is not None or conflict.is_full:
        return fence_error(conflict, "written")
    version = None if conflict.version is None else version_text(conflict.version)
    if condition.kind == ConditionKind.IF_ABSENT:
        detail = f"The key has a value already, version {version}; nothing was written."
        return errors.Exists(detail, version=version)
    found = "has no value" if version is None else f"has version {version} now"
    detail = f"The key {found}; nothing was written. Read it, decide anew, and give that version."
    return errors.VersionMismatch(detail, version=version)


def fence_error(conflict: Conflict, done: str) -> KvstoreError:
    """Why a fence was refused. done: what was not, `read` or `written`."""
    if conflict.fence is None:
        detail = (
            f"The key bears the fences of {FENCES_MAX} locks already, and takes none of another; nothing was {done}. "
            "Guard a key with one lock, or a few that keep their names."
        )
        return errors.BadFence(detail, limit=FENCES_MAX)
    version = None if conflict.version is None else version_text(conflict.version)
    detail = (
        f"The key has seen the higher fence {conflict.fence} of this lock, so somebody has held it since; nothing was "
        f"{done}. Give up what was done under the old one, and take the lock anew."
    )
    return errors.Fenced(detail, version=version, fence=conflict.fence)


def bad_fence(highest: int, done: str) -> KvstoreError:
    """The lock never granted that fence."""
    granted = f"has never granted it; its last was {highest}" if highest else "has never granted one"
    detail = f"The lock {granted}; nothing was {done}. Give the fence that came with the lock, as it came."
    return errors.BadFence(detail, fence=highest)


def storage_error(error: StorageError, is_read: bool) -> KvstoreError:
    """What the file could not do."""
    detail = _sentence(str(error))
    match error:
        case FileUnusable():
            return errors.BadRequest(detail, code="bad-file")
        case CommitFailed() if not is_read:
            return errors.OutcomeUnknown(detail)
        case FileBusy():
            again = f"{detail} Try again, with a longer timeout if need be."
            return errors.ReadTimedOut(again) if is_read else errors.Overloaded(again)
        case _ if is_read:
            return errors.ReadFailed(detail, code="damaged" if isinstance(error, EntryDamaged) else None)
        case EntryDamaged():
            return errors.NotApplied(detail, code="damaged")
        case DiskFull():
            return errors.DiskFull(detail)
        case _:
            return errors.Unavailable(detail)


def held_error(holder: str | None, permits_held: int, permits: int, retry_after_s: float) -> errors.LockHeld:
    """Others hold the lock."""
    if permits_held == permits:
        detail = "Others hold it, or wait for it, and the wait is over"
    else:
        detail = f"It is held with {permits_held} permits, and this asks for {permits}"
    again_s = float(max(1, math.ceil(retry_after_s)))
    return errors.LockHeld(f"{detail}; nothing was granted.", holder=holder, permits=permits_held, retry_after=again_s)


def lost_error() -> errors.LockLost:
    """The token holds nothing."""
    return errors.LockLost(
        "This token holds nothing here: it never did, was released, or its lease ran out and was taken over. "
        "Nothing was changed; stop what the lock protects, and acquire it anew."
    )


def decision_of(name: str, decision: vote.Decision, is_new: bool) -> Decision:
    """What a vote decided."""
    winner = decision.winner
    return Decision(name, winner.candidate, msgspec.json.decode(winner.value), is_new, _rfc3339(decision.decided_ms))


def _rfc3339(unix_ms: int) -> str:
    seconds, ms = divmod(unix_ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03}Z"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")
