"""Does a client that claims a session see what it wrote, and never an older value than it saw before?

Judges reads, of any level, whose invocation has `claims`: a list of `monotonic-reads` and `read-your-writes`. A
session is one process and one key. Versions are compared, so reads and writes must tell theirs. That a key is absent
counts as older than all versions, unless somebody may have deleted it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import UNSET

from kvstore.verify.checkers.linearizability.translation import WRITES
from kvstore.verify.checkers.versions import order_of
from kvstore.verify.history import History, Kind, Operation, Outcome, Process
from kvstore.verify.verdict import Finding, Judgement, Verdict

NAME: Final = "session"
MONOTONIC_READS: Final = "monotonic-reads"
READ_YOUR_WRITES: Final = "read-your-writes"
DELETED: Final = 1 << 64
"""An absent key that may have been deleted is not known to be old."""


def check(history: History) -> Judgement:
    """Judges every session in which something is claimed."""
    sessions: dict[tuple[Process, str], list[Operation]] = {}
    deleted: set[str] = set()
    for operation in history.of(Kind.READ, Kind.WEAK_READ, *WRITES):
        sessions.setdefault((operation.process, operation.key), []).append(operation)
        is_delete = operation.kind in (Kind.DELETE, Kind.WEAK_DELETE)
        if operation.kind in WRITES and (is_delete or operation.argument is None or "ttl" in operation.more):
            deleted.add(operation.key)
    findings: list[Finding] = []
    judged = 0
    claiming = {who: ops for who, ops in sessions.items() if any("claims" in op.more for op in ops)}
    for (_, key), operations in claiming.items():
        judged += len(operations)
        findings += _findings(operations, key in deleted)
    verdict = Verdict.VIOLATED if findings else Verdict.VALID if claiming else Verdict.UNDECIDED
    return Judgement(NAME, verdict, tuple(findings), operations=judged, keys=len(claiming))


def _findings(operations: Sequence[Operation], may_be_deleted: bool) -> Iterable[Finding]:
    seen: Operation | None = None
    wrote: Operation | None = None
    seen_at = wrote_at = -1
    for op in operations:
        at = _order(op, may_be_deleted)
        if op.outcome is not Outcome.OK or at is None:
            continue
        if op.kind in WRITES:
            if at >= wrote_at:
                wrote, wrote_at = op, at
            continue
        claims = op.more.get("claims", ())
        who = f"Process {op.process} read {op.version} of {op.key!r}"
        if MONOTONIC_READS in claims and seen is not None and at < seen_at:
            yield Finding(NAME, op.key, f"{who} after it had read {seen.version}, which is newer.", (seen, op))
        if READ_YOUR_WRITES in claims and wrote is not None and at < wrote_at:
            what = f"{who} after it had written {wrote.version} itself, which is newer."
            yield Finding(NAME, op.key, what, (wrote, op))
        if at != DELETED and at >= seen_at:
            seen, seen_at = op, at


def _order(operation: Operation, may_be_deleted: bool) -> int | None:
    if operation.kind not in WRITES and (
        operation.version is None or (operation.version is UNSET and operation.result is None)
    ):
        return DELETED if may_be_deleted else -1
    return order_of(operation.version)
