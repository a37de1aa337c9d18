"""What became of a request about a lock, a vote or an election, as a problem. Of keys: outcomes.py."""

from __future__ import annotations

import math

from cluster.locks.outcomes import LockBusy, LockFailure, LookFailure
from cluster.requests import NoRoom, Overloaded, TimedOut, Unavailable, Unknown
from kvstore.http.incoming.durations import duration_text
from kvstore.http.outgoing.problems import Outcome, Problem, overloaded

RENEW_UNKNOWN = "The lease may have been renewed. Renewing again is safe; until that succeeds, count the old one."
RELEASE_UNKNOWN = (
    "It may have been released, now or later. Releasing again is safe: lock-lost then says that it is done."
)
PROPOSE_UNKNOWN = (
    "The vote may have been decided by this proposal, now or later. Proposing again is safe, with this value or "
    "another: the first that won stays, and the answer names it."
)


def grant_unknown(ttl_ms: int) -> str:
    """For whoever may or may not have been granted a lock."""
    return (
        "The lock may have been granted, now or later. Nobody was told the token, so a grant that was made frees "
        f"itself once its lease of {duration_text(ttl_ms)} has been watched to its end. Asking again is safe."
    )


def held_problem(outcome: LockBusy, permits: int) -> Problem:
    """Others hold what was asked for."""
    again_s = max(1, math.ceil(outcome.retry_after_s))
    if not outcome.owner:
        detail = "Others have waited for it before this, and have the turn"
    elif outcome.permits == permits:
        detail = "Others hold it"
    else:
        detail = f"It is held with {_permits(outcome.permits)}, and this asks for {_permits(permits)}"
    return Problem(
        "lock-held",
        f"{detail}; nothing was granted. Retry-After says when the first lease may be over if nobody renews it. Ask "
        "again, or with a `wait` to be given it in your turn.",
        outcome="not-applied",
        headers=f"Retry-After: {again_s}\r\n",
        holder=outcome.owner,
        permits=outcome.permits,
        retry_after_s=again_s,
    )


def lost_problem() -> Problem:
    """The token holds nothing."""
    return Problem(
        "lock-lost",
        "This token holds nothing here: it never did, was released, or its lease ran out and was taken over. "
        "Nothing was changed; stop what the lock protects, and acquire it anew.",
        outcome="not-applied",
    )


def change_problem(outcome: LockFailure, unknown: str) -> Problem:
    """Why a change was not, or may not have been, made. unknown: what that means for who asked."""
    if isinstance(outcome, Unknown):
        told = f"{outcome.got} of {_replicas(outcome.needed)} acknowledged the change. {unknown}"
        return Problem("outcome-unknown", told, outcome="unknown", needed=outcome.needed, got=outcome.got)
    return _unmade(outcome, "not-applied", "nothing was changed")


def look_problem(outcome: LookFailure) -> Problem:
    """Why what was asked could not be looked up."""
    if isinstance(outcome, TimedOut):
        told = f"{outcome.got} of {_replicas(outcome.needed)} answered in time. Asking again is safe."
        return Problem("timeout", told, outcome="none", needed=outcome.needed, got=outcome.got)
    return _unmade(outcome, "none", "nothing was read")


def _unmade(failure: Unavailable | Overloaded | NoRoom, applied: Outcome, done: str) -> Problem:
    match failure:
        case Overloaded(retry_after_s=wait_s):
            problem = overloaded(f"Too much waits for this already, and {done}. Try again later.", wait_s)
            problem.outcome = applied
            return problem
        case NoRoom(reason=reason):
            detail = f"This node's disk is full, and {done}: {reason}. Other nodes may have room."
            return Problem("disk-full", detail, outcome=applied)
        case Unavailable(needed=needed, got=got, reason=reason):
            if reason:
                detail = f"This node can't do it now, and {done}: {reason}. Ask another node."
            else:
                detail = f"{got} of {_replicas(needed)} could be reached, and {done}. Try again when nodes are back."
            return Problem("quorum-unavailable", detail, outcome=applied, needed=needed, got=got)


def _permits(count: int) -> str:
    return "1 permit" if count == 1 else f"{count} permits"


def _replicas(count: int) -> str:
    return "1 needed replica" if count == 1 else f"{count} needed replicas"
