"""What became of a request, as a problem: one place that says which status, and what the client may conclude."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.levels import Level
from cluster.requests import (
    FENCES_MAX,
    BadFence,
    Condition,
    ConditionKind,
    Conflict,
    Fence,
    NoRoom,
    Overloaded,
    TimedOut,
    Unavailable,
    Unknown,
)
from kvstore.http.backend import ClusterView
from kvstore.http.outgoing.problems import Outcome, Problem, overloaded
from kvstore.http.outgoing.receipts import receipt
from storage.ballot import version_text


def read_problem(
    view: ClusterView,
    level: Level,
    needed: int,
    outcome: Unavailable | Overloaded | TimedOut | Conflict | BadFence,
    fence: Fence | None = None,
) -> Problem:
    """Why a read, under a fence or without, or a listing has no answer."""
    match outcome:
        case Conflict(version=version, fence=int(seen)):
            problem = _fenced(version, seen, "none")
        case Conflict():
            problem = _full("none")
        case BadFence(highest=highest):
            problem = _never_granted(highest, "none")
        case Unavailable():
            elsewhere = "another node" if fence is not None else "another node or a weaker level"
            problem = _too_few(outcome, "none", f". Try {elsewhere}, or wait until nodes return.")
        case TimedOut(needed=wanted, got=got):
            detail = f"{got} of {_needed(wanted)} answered in time. Reading again is safe."
            problem = Problem("timeout", detail, outcome="none", needed=wanted, got=got)
        case Overloaded(retry_after_s=wait_s):
            problem = overloaded("Too much waits already for this to be answered in time. Try again later.", wait_s)
            problem.outcome = "none"
    return _with_receipt(problem, view, level, needed, outcome)


def write_problem(
    view: ClusterView,
    level: Level,
    needed: int,
    condition: Condition,
    outcome: Conflict | BadFence | Unavailable | Overloaded | NoRoom | Unknown,
) -> Problem:
    """Why a write was not, or may not have been, applied."""
    match outcome:
        case NoRoom(reason=reason):
            detail = f"Nothing was written: {reason}. Other nodes may have room."
            problem = Problem("disk-full", detail, outcome="not-applied")
        case Conflict(version=version, fence=int(fence)):
            problem = _fenced(version, fence, "not-applied")
        case Conflict(is_full=True):
            problem = _full("not-applied")
        case Conflict(version=version):
            problem = _conflict(condition, version)
        case BadFence(highest=highest):
            problem = _never_granted(highest, "not-applied")
        case Unavailable():
            problem = _too_few(outcome, "not-applied", "; nothing was written. Try again when nodes have returned.")
        case Unknown(needed=wanted, got=got, version=version):
            problem = Problem(
                "outcome-unknown",
                f"{got} of {_needed(wanted)} acknowledged the write. It may be applied, now or later: "
                "read before you repeat it.",
                outcome="unknown",
                needed=wanted,
                got=got,
                version=None if version is None else version_text(version),
            )
        case Overloaded(retry_after_s=wait_s):
            problem = overloaded(
                "Too much waits already for this to be done in time; nothing was written. Try again later.", wait_s
            )
            problem.outcome = "not-applied"
    return _with_receipt(problem, view, level, needed, outcome)


def _needed(count: int) -> str:
    return f"{count} needed replica{'' if count == 1 else 's'}"


def _too_few(outcome: Unavailable, applied: Outcome, advice: str) -> Problem:
    wanted = "1 replica is" if outcome.needed == 1 else f"{outcome.needed} replicas are"
    detail = f"{wanted} needed and {outcome.got} could be reached in the time there was{advice}"
    if outcome.reason:
        detail = f"This node can't take part now, and {_nothing(applied)}: {outcome.reason}. Ask another node."
    return Problem(
        "quorum-unavailable",
        detail,
        outcome=applied,
        needed=outcome.needed,
        got=outcome.got,
    )


def _conflict(condition: Condition, version: int | None) -> Problem:
    shown = None if version is None else version_text(version)
    if condition.kind == ConditionKind.IF_ABSENT:
        return Problem(
            "exists", f"The key has a value already, version {shown}; nothing was written.", outcome="not-applied",
            version=shown,
        )  # fmt: skip
    found = "has no value" if shown is None else f"has version {shown} now"
    detail = f"The key {found}; nothing was written. Read it, decide anew, and send that version in If-Match."
    return Problem("version-mismatch", detail, outcome="not-applied", version=shown)


def _fenced(version: int | None, fence: int, applied: Outcome) -> Problem:
    detail = (
        f"The key has seen the higher fence {fence} of this lock, so somebody has held it since; {_nothing(applied)}. "
        "Give up what was done under the old one, and take the lock anew."
    )
    shown = None if version is None else version_text(version)
    return Problem("fenced", detail, outcome=applied, version=shown, fence=fence)


def _full(applied: Outcome) -> Problem:
    detail = (
        f"The key bears the fences of {FENCES_MAX} locks already, and takes none of another; {_nothing(applied)}. "
        "Guard a key with one lock, or a few that keep their names."
    )
    return Problem("bad-fence", detail, outcome=applied, limit=FENCES_MAX)


def _never_granted(highest: int, applied: Outcome) -> Problem:
    granted = f"has never granted it; its last was {highest}" if highest else "has never granted one"
    detail = f"The lock {granted}; {_nothing(applied)}. Send the fence that came with the lock, as it came."
    return Problem("bad-fence", detail, outcome=applied, fence=highest)


def _nothing(applied: Outcome) -> str:
    return "nothing was written" if applied == "not-applied" else "nothing was read"


def _with_receipt(
    problem: Problem,
    view: ClusterView,
    level: Level,
    needed: int,
    outcome: Conflict | BadFence | Unavailable | Overloaded | NoRoom | Unknown | TimedOut,
) -> Problem:
    acks, replicas = _heard(outcome)
    problem.receipt = receipt(view, level, needed, acks, replicas)
    problem.level = level
    return problem


def _heard(
    outcome: Conflict | BadFence | Unavailable | Overloaded | NoRoom | Unknown | TimedOut,
) -> tuple[int, Sequence[str]]:
    match outcome:
        case Conflict(acks=acks, replicas=replicas):
            return acks, replicas
        case Overloaded() | NoRoom() | BadFence():
            return 0, ()
        case _:
            return outcome.got, outcome.replicas
