"""From what a node or the wire says to what an application is told: one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvstore import client_errors, errors
from kvstore.client.over_http.answers import receipt_of
from kvstore.errors import KvstoreError, NotApplied, OutcomeUnknown, ReadFailed

KIND_OF_CODE: dict[str, type[KvstoreError]] = {
    "bad-request": errors.BadRequest,
    "bad-parameter": errors.BadRequest,
    "bad-key": errors.BadRequest,
    "bad-json": errors.BadRequest,
    "quorum-too-small": errors.BadRequest,
    "quorum-too-large": errors.BadRequest,
    "needs-strong": errors.NeedsStrong,
    "bad-fence": errors.BadFence,
    "too-large": errors.TooLarge,
    "unauthenticated": errors.NotAllowed,
    "forbidden": errors.NotAllowed,
    "slow-body": errors.Unavailable,
    "overloaded": errors.Overloaded,
    "quorum-unavailable": errors.QuorumUnavailable,
    "disk-full": errors.DiskFull,
    "version-mismatch": errors.VersionMismatch,
    "exists": errors.Exists,
    "fenced": errors.Fenced,
    "lock-held": errors.LockHeld,
    "lock-lost": errors.LockLost,
    "outcome-unknown": errors.OutcomeUnknown,
    "timeout": errors.ReadTimedOut,
}
_KIND_OF_STATUS: dict[int, type[KvstoreError]] = {
    401: errors.NotAllowed,
    403: errors.NotAllowed,
    413: errors.TooLarge,
    414: errors.TooLarge,
    431: errors.TooLarge,
    429: errors.Overloaded,
    503: errors.Unavailable,
    507: errors.DiskFull,
}
"""For answers without a code that we know, such as those of a proxy."""
_NAMED = frozenset({"type", "title", "detail", "code", "status", "receipt"})
"""What of a problem object has a place of its own in the error, or says nothing more."""


def error_of(problem: client_errors.Problem, is_read: bool) -> KvstoreError:
    """The error that a refused request becomes."""
    return error_of_fields(problem.status, problem.fields, problem.headers, is_read)


def error_of_fields(status: int, fields: Mapping[str, Any], headers: Mapping[str, str], is_read: bool) -> KvstoreError:
    """The error that a problem object becomes: of an answer, or of one operation of a batch."""
    code = str(fields.get("code") or f"status-{status}")
    detail = str(fields.get("detail") or fields.get("title") or f"The node answered {status} and gave no reason.")
    more = {name: value for name, value in fields.items() if name not in _NAMED}
    if (wait_s := retry_after_s(headers)) is not None:
        more["retry_after"] = wait_s
    kind = _kind(status, code, str(fields.get("outcome", "")), is_read)
    return kind(detail, code=code, status=status, receipt=receipt_of(headers), **more)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds of Retry-After; None where it is not there, or is a date."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _kind(status: int, code: str, outcome: str, is_read: bool) -> type[KvstoreError]:
    kind = KIND_OF_CODE.get(code) or _KIND_OF_STATUS.get(status)
    if kind is not None:
        says_otherwise = outcome == "unknown" and issubclass(kind, NotApplied)
        return OutcomeUnknown if says_otherwise else kind
    if status < 500:
        return errors.BadRequest
    if is_read:
        return ReadFailed
    return errors.Unavailable if outcome == "not-applied" else OutcomeUnknown
