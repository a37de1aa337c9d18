"""What a checker says: valid, violated or undecided, with what a person needs to see it for themselves."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from kvstore.verify.history import Operation


class Verdict(StrEnum):
    """Three answers. Undecided is no pass: the search ran out of its budget, or there was nothing to judge by."""

    VALID = "valid"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


class Finding(msgspec.Struct, frozen=True):
    """One broken promise."""

    check: str
    """The checker that found it: linearizability, set, counter, lock, fence, vote, convergence, session."""
    key: str
    what: str
    """One or two sentences: what was promised, and what was seen instead."""
    operations: tuple[Operation, ...] = ()
    """The operations that show it, in order of time: as few as possible."""
    is_minimal: bool = True
    """Whether each of `operations` is needed: False where time ran out while they were made fewer."""
    details: dict[str, Any] = {}
    """Numbers and names for programs: lost elements, bounds, fences."""


class Judgement(msgspec.Struct, frozen=True):
    """What one checker says of a history, or several of them together."""

    check: str
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    undecided: tuple[str, ...] = ()
    """Keys that were not decided."""
    notes: tuple[str, ...] = ()
    """What a reader should know although nothing is broken: never-read elements, no successful reads."""
    operations: int = 0
    """How many operations were judged."""
    keys: int = 0
    parts: tuple[Judgement, ...] = ()
    """The judgements that this one sums up."""


def together(parts: Iterable[Judgement]) -> Judgement:
    """One judgement of all: violated if any is, else undecided if any is or there is none."""
    judgements = tuple(parts)
    verdicts = {part.verdict for part in judgements}
    if Verdict.VIOLATED in verdicts:
        verdict = Verdict.VIOLATED
    elif Verdict.UNDECIDED in verdicts or not judgements:
        verdict = Verdict.UNDECIDED
    else:
        verdict = Verdict.VALID
    return Judgement(
        check=" + ".join(part.check for part in judgements) or "nothing",
        verdict=verdict,
        findings=tuple(finding for part in judgements for finding in part.findings),
        undecided=tuple(key for part in judgements for key in part.undecided),
        notes=tuple(note for part in judgements for note in part.notes),
        operations=sum(part.operations for part in judgements),
        keys=sum(part.keys for part in judgements),
        parts=judgements,
    )
