"""Does each vote have one winner, whom somebody proposed, and for ever?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from kvstore.verify.history import History, Kind, Operation, Outcome
from kvstore.verify.verdict import Finding, Judgement, Verdict

NAME: Final = "vote"


def check(history: History) -> Judgement:
    """Judges every vote of the history."""
    votes: dict[str, list[Operation]] = {}
    for operation in history.of(Kind.VOTE, Kind.RESULT):
        votes.setdefault(operation.key, []).append(operation)
    findings: list[Finding] = []
    told = 0
    for name, operations in votes.items():
        answers = [op for op in operations if op.outcome is Outcome.OK]
        told += len(answers)
        findings += _findings(name, operations, answers)
    verdict = Verdict.VIOLATED if findings else Verdict.VALID if told else Verdict.UNDECIDED
    notes = () if told or not votes else ("no vote was ever answered",)
    judged = sum(map(len, votes.values()))
    undecided = () if told else tuple(votes)
    return Judgement(NAME, verdict, tuple(findings), undecided, notes, judged, len(votes))


def _findings(name: str, operations: Sequence[Operation], answers: Sequence[Operation]) -> Iterable[Finding]:
    first: dict[Any, Operation] = {}
    for answer in sorted(answers, key=lambda op: op.completed or 0):
        if isinstance(answer.result, str | int):
            first.setdefault(answer.result, answer)
    if len(first) > 1:
        winners = " and ".join(map(repr, first))
        shown = tuple(sorted(first.values(), key=lambda op: op.invoked))
        yield Finding(NAME, name, f"Vote {name!r} has more than one winner: {winners}.", shown)
    for winner, answer in first.items():
        ended = answer.completed or 0
        proposals = [op for op in operations if op.kind == Kind.VOTE and op.argument == winner and op.invoked < ended]
        if all(op.outcome in (Outcome.FAIL, Outcome.CONFLICT) for op in proposals):
            what = f"Vote {name!r} was won by {winner!r}, whom nobody had proposed"
            what += ", or whose proposal is proved to have failed." if proposals else "."
            yield Finding(NAME, name, what, (*proposals, answer))
    if first:
        decided = next(iter(first.values()))
        for answer in answers:
            if answer.result is None and answer.invoked > (decided.completed or 0):
                what = f"Vote {name!r} was decided, and later it was not."
                yield Finding(NAME, name, what, (decided, answer))
                break
