"""What an application is told when something did not go as asked.

The first question after an error is whether the data changed, so that is what the tree is sorted by:

KvstoreError
├── NotApplied                  surely nothing was changed, now or later
│   ├── NoNodeReachable         no node could be asked
│   ├── BadRequest              it can't mean anything; asking again won't help
│   │   ├── NeedsStrong         a condition or fence at a level that can't keep it
│   │   ├── BadFence            a fence that the lock never granted, or that can't be read
│   │   └── TooLarge            a value, a batch, a name
│   ├── NotAllowed              who asked may not
│   ├── Unavailable             it could not be done now; later, or through another node, it may
│   │   ├── QuorumUnavailable   too few replicas could be reached
│   │   ├── Overloaded          too much to do
│   │   └── DiskFull            no room on the node's disk
│   ├── ConditionFailed         the key is not as the write wanted it, or the read under a fence
│   │   ├── VersionMismatch     it has another version, or none
│   │   ├── Exists              it has a value already
│   │   └── Fenced              it has seen a higher fence of that lock: another holds the lock by now
│   ├── LockHeld                others hold the lock, and the wait is over
│   └── LockLost                the lock is no longer this holder's
├── OutcomeUnknown              a write that may be applied, now or later: read before you repeat it
└── ReadFailed                  a read without an answer; nothing was changed
    └── ReadTimedOut            too few answered in time
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from kvstore.client.values import Receipt

Outcome = Literal["not-applied", "unknown", "none"]
"""What became of the write; a read has `none`."""


class KvstoreError(Exception):
    """The root of what a client can be told."""

    code = "error"
    """As the HTTP API has it: see the table of codes in docs/operations.md."""
    outcome: Outcome = "none"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        receipt: Receipt | None = None,
        **fields: Any,
    ) -> None:
        """detail: in words a person can act on. fields: what else is known, such as `version` or `holder`."""
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        self.status = status
        """The HTTP status; None where no node said it."""
        self.receipt = receipt
        """Who was asked, where the answer said."""
        self.fields: Mapping[str, Any] = fields
        """What else is known: the members of the problem object."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles with its fields, so that a pool of processes may hand it on."""
        return _rebuilt, (type(self), self.detail, self.code, self.status, self.receipt, dict(self.fields))


class NotApplied(KvstoreError):
    """Surely nothing was changed, now or later."""

    code = "not-applied"
    outcome = "not-applied"


class NoNodeReachable(NotApplied):
    """No node could be asked."""

    code = "no-node-reachable"


class BadRequest(NotApplied):
    """It can't mean anything; asking again won't help."""

    code = "bad-request"


class NeedsStrong(BadRequest):
    """A condition or a fence holds only at the strong level."""

    code = "needs-strong"


class BadFence(BadRequest):
    """The lock never granted this fence, or it can't be read."""

    code = "bad-fence"


class TooLarge(BadRequest):
    """A value, a batch or a name has more than is taken."""

    code = "too-large"

    @property
    def limit(self) -> int | None:
        """How much is taken."""
        limit = self.fields.get("limit")
        return limit if isinstance(limit, int) else None


class NotAllowed(NotApplied):
    """Who asked may not."""

    code = "forbidden"


class Unavailable(NotApplied):
    """It could not be done now; later, or through another node, it may."""

    code = "unavailable"


class QuorumUnavailable(Unavailable):
    """Too few replicas could be reached."""

    code = "quorum-unavailable"


class Overloaded(Unavailable):
    """Too much to do right now."""

    code = "overloaded"


class DiskFull(Unavailable):
    """No room on the node's disk."""

    code = "disk-full"


class ConditionFailed(NotApplied):
    """The key is not as the write wanted it."""

    code = "condition-failed"

    @property
    def version(self) -> str | None:
        """The version that the key has; None where it has no value."""
        version = self.fields.get("version")
        return version if isinstance(version, str) else None


class VersionMismatch(ConditionFailed):
    """The key has another version than the write wanted, or no value."""

    code = "version-mismatch"


class Exists(ConditionFailed):
    """The key has a value already."""

    code = "exists"


class Fenced(ConditionFailed):
    """The key has seen a higher fence of that lock: who wrote held it once, and another has it by now."""

    code = "fenced"

    @property
    def fence(self) -> int | None:
        """The highest that the key has seen."""
        fence = self.fields.get("fence")
        return fence if isinstance(fence, int) else None


class LockHeld(NotApplied):
    """Others hold the lock, and the wait is over."""

    code = "lock-held"

    @property
    def holder(self) -> str | None:
        """The owner that holds it; one of them, where several do."""
        holder = self.fields.get("holder")
        return holder if isinstance(holder, str) else None

    @property
    def retry_after(self) -> float | None:
        """Seconds until it may be free, if nobody renews it."""
        seconds = self.fields.get("retry_after")
        return float(seconds) if isinstance(seconds, int | float) else None


class LockLost(NotApplied):
    """The lock is no longer this holder's: released, or its lease is over."""

    code = "lock-lost"


class OutcomeUnknown(KvstoreError):
    """A write that may be applied, now or later: read before you repeat it."""

    code = "outcome-unknown"
    outcome = "unknown"

    @property
    def version(self) -> str | None:
        """The version that the key has if the write is applied, where that is known."""
        version = self.fields.get("version")
        return version if isinstance(version, str) else None


class ReadFailed(KvstoreError):
    """A read without an answer; nothing was changed. Reading again is safe."""

    code = "read-failed"


class ReadTimedOut(ReadFailed):
    """Too few answered in time."""

    code = "timeout"


def _rebuilt(
    kind: type[KvstoreError], detail: str, code: str, status: int | None, receipt: Receipt | None, fields: Any
) -> KvstoreError:
    return kind(detail, code=code, status=status, receipt=receipt, **fields)
