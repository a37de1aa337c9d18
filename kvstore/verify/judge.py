"""Every checker that a history gives work to, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from kvstore.verify.checkers import convergence, counters, locks, registers, sessions, sets, votes
from kvstore.verify.checkers.registers import Budget
from kvstore.verify.explain.minimal import explain_register
from kvstore.verify.history import History, Kind, Operation
from kvstore.verify.verdict import Judgement, Verdict, together


def _claims_a_session(operation: Operation) -> bool:
    return "claims" in operation.more


def _of(*kinds: Kind) -> Callable[[Operation], bool]:
    return lambda operation: operation.kind in kinds


CHECKS: Final[Mapping[str, tuple[Callable[[Operation], bool], Callable[[History], Judgement]]]] = {
    sets.NAME: (_of(Kind.ADD, Kind.READ_ALL), sets.check),
    counters.NAME: (_of(Kind.INCREMENT, Kind.COUNT), counters.check),
    locks.NAME: (_of(Kind.ACQUIRE, Kind.RENEW, Kind.RELEASE, Kind.FENCED_PUT), locks.check),
    votes.NAME: (_of(Kind.VOTE, Kind.RESULT), votes.check),
    convergence.NAME: (_of(Kind.INSPECT), convergence.check),
    sessions.NAME: (_claims_a_session, sessions.check),
}
"""The quick checks: name -> (what gives it work, the check). Registers, which take a search, are apart."""


def judge(
    history: History,
    *,
    initial: Any = None,
    budget: Budget | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Judgement:
    """What all checkers say that this history gives work to.

    initial: what keys hold at the beginning; None: they are absent. progress(keys done, keys) is called during the
    search for the order of registers, which may be long; `budget` bounds it.
    """
    parts = [check(history) for gives_work, check in CHECKS.values() if any(map(gives_work, history.operations))]
    if registers.needs_search(history):
        parts.insert(
            0,
            registers.check(history, initial=initial, budget=budget, progress=progress, explain=explain_register),
        )
    if not parts:
        reason = "there are no operations" if not len(history) else "there are no operations that promise anything"
        return Judgement("nothing", Verdict.UNDECIDED, notes=(f"{reason}: nothing was judged",))
    return together(parts)
