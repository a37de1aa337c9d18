"""Once writes have stopped and the network is whole: do all replicas hold the same, and is it what was written?

Judges `inspect`: what each replica itself holds of a key. The last word of each replica counts. They must be equal;
what they hold must have been written by somebody; and where a key had only weak writes, no acknowledged one may be
newer than what won.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import UNSET

from kvstore.verify.checkers.linearizability.translation import WEAK, WRITES
from kvstore.verify.checkers.versions import order_of
from kvstore.verify.history import History, Kind, Operation, Outcome
from kvstore.verify.verdict import Finding, Judgement, Verdict

NAME: Final = "convergence"


def check(history: History) -> Judgement:
    """Judges every key that was inspected."""
    inspected: dict[str, list[Operation]] = {}
    for operation in history.of(Kind.INSPECT):
        if operation.outcome is Outcome.OK:
            inspected.setdefault(operation.key, []).append(operation)
    writes: dict[str, list[Operation]] = {}
    for operation in history.of(*WRITES):
        if operation.key in inspected:
            writes.setdefault(operation.key, []).append(operation)
    findings: list[Finding] = []
    undecided: list[str] = []
    for key, operations in inspected.items():
        replicas = {str(op.more.get("node", op.process)): op for op in operations}
        if len(replicas) < 2:
            undecided.append(key)
        findings += _differing(key, replicas) or _strange(key, next(iter(replicas.values())), writes.get(key, ()))
    verdict = Verdict.VIOLATED if findings else Verdict.UNDECIDED if undecided or not inspected else Verdict.VALID
    notes = (f"of {len(undecided)} keys fewer than two replicas could be asked",) if undecided else ()
    judged = sum(map(len, inspected.values()))
    return Judgement(NAME, verdict, tuple(findings), tuple(undecided), notes, judged, len(inspected))


def _differing(key: str, replicas: Mapping[str, Operation]) -> list[Finding]:
    groups: dict[str, list[str]] = {}
    for node, operation in replicas.items():
        groups.setdefault(_held(operation), []).append(node)
    if len(groups) < 2:
        return []
    told = "; ".join(f"{' and '.join(sorted(nodes))}: {held}" for held, nodes in groups.items())
    shown = tuple(replicas[nodes[0]] for nodes in groups.values())
    what = f"The replicas of {key!r} differ after everything was healed. {told}."
    return [Finding(NAME, key, what, shown, details={"differ": groups})]


def _strange(key: str, winner: Operation, writes: Sequence[Operation]) -> list[Finding]:
    return [*_never_written(key, winner, writes), *_newer_lost(key, winner, writes)]


def _never_written(key: str, winner: Operation, writes: Sequence[Operation]) -> Iterable[Finding]:
    possible = [op for op in writes if op.outcome not in (Outcome.FAIL, Outcome.CONFLICT)]
    has_version = winner.version is not UNSET and winner.version is not None
    if has_version and all(op.version is not UNSET for op in possible):
        written = winner.version in {op.version for op in possible}
    elif winner.result is not UNSET and winner.result is not None:
        written = winner.result in [op.argument for op in possible]
    else:
        return
    if possible and not written:
        what = f"The replicas of {key!r} hold {_held(winner)}, which nobody wrote."
        yield Finding(NAME, key, what, (winner,))


def _newer_lost(key: str, winner: Operation, writes: Sequence[Operation]) -> Iterable[Finding]:
    won = order_of(winner.version)
    if won is None or any(op.kind not in WEAK for op in writes):
        return
    newest = max(
        ((order_of(op.version) or -1, op.invoked, op) for op in writes if op.outcome is Outcome.OK), default=None
    )
    if newest is not None and newest[0] > won:
        what = f"An acknowledged write of {key!r} was lost to an older one: {newest[2].version} was acknowledged, "
        what += f"and all replicas hold {_held(winner)}."
        yield Finding(NAME, key, what, (newest[2], winner))


def _held(operation: Operation) -> str:
    told: list[Any] = []
    if operation.result is not UNSET:
        told.append("nothing" if operation.result is None else repr(operation.result))
    if operation.version is not UNSET:
        told.append("no version" if operation.version is None else f"version {operation.version}")
    return ", ".join(told) or "something"
