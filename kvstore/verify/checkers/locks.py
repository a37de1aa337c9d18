"""Does a lock have one holder at a time, in the order of its fences, and does the store stop whoever comes late?

* Exclusion. A holder surely holds from the answer to its acquire until the ttl has passed since it *sent* the last
  request that got or renewed the lease, or until it sends the release. Of such intervals at most `permits` overlap.
* No lease is cut short: within it the holder is not told that it has lost the lock.
* Fences are given once, and grow: who acquires after another's acquire was answered has a higher fence. (Not for
  semaphores: there each grant still has a fence of its own, and they grow as well.)
* Fenced writes to a key, under one lock, are done in the order of the fences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kvstore.verify.history import History, Kind, Operation, Outcome
from kvstore.verify.verdict import Finding, Judgement, Verdict

NAME: Final = "lock"
FENCE: Final = "fence"


def check(history: History, *, margin_s: float = 0.0) -> Judgement:
    """Judges every lock and every fenced key. margin_s: how much sooner a lease may end, for clocks that drift."""
    locks: dict[str, list[Operation]] = {}
    for operation in history.of(Kind.ACQUIRE, Kind.RENEW, Kind.RELEASE):
        locks.setdefault(operation.key, []).append(operation)
    guarded: dict[tuple[str, str], list[Operation]] = {}
    for operation in history.of(Kind.FENCED_PUT):
        lock = str(operation.more.get("lock", ""))
        guarded.setdefault((lock, operation.key), []).append(operation)
    findings: list[Finding] = []
    granted = 0
    for name, operations in locks.items():
        grants = _grants(operations, margin_s)
        granted += len(grants)
        findings += [*_overlaps(name, grants), *_cut_short(name, grants), *_fence_order(name, grants)]
    for (lock, key), writes in guarded.items():
        findings += _late_writes(lock, key, writes)
    notes = () if granted or not locks else ("no lock was ever granted",)
    judged = sum(map(len, locks.values())) + sum(map(len, guarded.values()))
    some = granted or (guarded and not locks)
    verdict = Verdict.VIOLATED if findings else Verdict.VALID if some else Verdict.UNDECIDED
    undecided = () if granted else tuple(locks)
    return Judgement(NAME, verdict, tuple(findings), undecided, notes, judged, len(locks) or len(guarded))


@dataclass
class _Grant:
    """A lease, as its holder could count it."""

    acquire: Operation
    fence: int
    start: float
    end: float
    permits: int
    shown: list[Operation] = field(default_factory=list)
    """What made it last as long as it did."""
    lost: Operation | None = None
    """The answer that it was lost, given before its end."""


def _grants(operations: Sequence[Operation], margin_s: float) -> list[_Grant]:
    grants: dict[int, _Grant] = {}
    twice: list[_Grant] = []
    for op in operations:
        if op.kind != Kind.ACQUIRE or op.outcome is not Outcome.OK or op.end is None:
            continue
        fence = op.more.get("fence", op.result)
        end = op.start + _seconds(op.more.get("ttl", op.argument)) - margin_s
        grant = _Grant(op, int(fence), op.end, end, int(op.more.get("permits", 1)), [op])
        if grant.fence in grants:
            twice.append(grant)
        else:
            grants[grant.fence] = grant
    for op in operations:
        held = grants.get(op.more.get("fence", -1))
        if op.kind == Kind.ACQUIRE or held is None:
            continue
        if op.kind == Kind.RELEASE:
            if op.start < held.end:
                held.end = op.start
                held.shown = [held.acquire, op]
        elif op.outcome is Outcome.OK:
            ttl = op.more.get("ttl", held.acquire.more.get("ttl", held.acquire.argument))
            held.end = max(held.end, op.start + _seconds(ttl) - margin_s)
            held.shown = [held.acquire, op]
        elif op.outcome is Outcome.CONFLICT and op.end is not None and op.end < held.end:
            held.lost, held.end = op, op.end
    return sorted([*grants.values(), *twice], key=lambda grant: grant.acquire.invoked)


UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(told: Any) -> float:
    """A ttl, in seconds or as the API writes durations."""
    if isinstance(told, str):
        unit = next((unit for unit in UNITS if told.endswith(unit)), None)
        return float(told.removesuffix(unit)) * UNITS[unit] if unit else float(told)
    return float(told) if told is not None else 0.0


def _overlaps(name: str, grants: Sequence[_Grant]) -> Iterable[Finding]:
    holding: list[_Grant] = []
    for grant in sorted(grants, key=lambda grant: grant.start):
        if grant.end <= grant.start:
            continue
        holding = [other for other in holding if other.end > grant.start]
        holding.append(grant)
        if len(holding) > grant.permits:
            until = min(other.end for other in holding)
            who = " and ".join(f"process {other.acquire.process} (fence {other.fence})" for other in holding)
            what = f"Lock {name!r} was held by {who} at once, from {grant.start:.3f} to {until:.3f} s."
            shown = [op for other in holding for op in other.shown]
            yield Finding(NAME, name, what, _in_order(shown), details={"fences": [other.fence for other in holding]})


def _cut_short(name: str, grants: Sequence[_Grant]) -> Iterable[Finding]:
    for grant in grants:
        if grant.lost is not None:
            what = (
                f"The lease of lock {name!r} under fence {grant.fence} was cut short: its holder was told that it was "
            )
            what += f"lost at {grant.lost.end or 0:.3f} s, before it was over."
            yield Finding(NAME, name, what, _in_order([*grant.shown, grant.lost]), details={"fence": grant.fence})


def _fence_order(name: str, grants: Sequence[_Grant]) -> Iterable[Finding]:
    """Sweeps once: beside each grant stands the highest fence of those that were answered before it was asked for."""
    seen: dict[int, _Grant] = {}
    answered = sorted(grants, key=lambda grant: grant.acquire.completed or 0)
    highest: _Grant | None = None
    position = 0
    for grant in grants:
        while position < len(answered) and (answered[position].acquire.completed or 0) < grant.acquire.invoked:
            if highest is None or answered[position].fence > highest.fence:
                highest = answered[position]
            position += 1
        other = seen.setdefault(grant.fence, grant)
        if other is not grant:
            what = f"Lock {name!r} was granted twice under fence {grant.fence}."
            yield Finding(FENCE, name, what, (other.acquire, grant.acquire), details={"fence": grant.fence})
        elif highest is not None and grant.fence <= highest.fence:
            what = f"Lock {name!r} was granted under fence {grant.fence} after it had been under {highest.fence}."
            details = {"fence": grant.fence, "before": highest.fence}
            yield Finding(FENCE, name, what, (highest.acquire, grant.acquire), details=details)


def _late_writes(lock: str, key: str, writes: Sequence[Operation]) -> Iterable[Finding]:
    done = [write for write in writes if write.outcome is Outcome.OK]
    answered = sorted(done, key=lambda write: write.completed or 0)
    highest: Operation | None = None
    position = 0
    for write in done:
        while position < len(answered) and (answered[position].completed or 0) < write.invoked:
            if highest is None or answered[position].more["fence"] > highest.more["fence"]:
                highest = answered[position]
            position += 1
        if highest is not None and write.more["fence"] < highest.more["fence"]:
            late, first = write.more["fence"], highest.more["fence"]
            what = f"Key {key!r} took a write under fence {late} of lock {lock!r} after it had taken one under {first}."
            yield Finding(FENCE, key, what, (highest, write), details={"fence": late, "before": first})


def _in_order(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    return tuple(sorted(operations, key=lambda operation: operation.invoked))
