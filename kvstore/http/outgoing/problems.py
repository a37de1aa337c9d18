"""Errors as RFC 9457 problem documents: one table from code to status and title, one way to render them.

What a client may conclude stands in `outcome`: a write was `not-applied` or is `unknown`; a read has `none`.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from kvstore.http.outgoing.answer import NOSNIFF, Answer

Outcome = Literal["not-applied", "unknown", "none"]

CODES: dict[str, tuple[int, str]] = {
    "bad-request": (400, "Not a request that can be understood"),
    "bad-parameter": (400, "A parameter or header can't be used"),
    "quorum-too-small": (400, "Fewer replicas than the level can honour"),
    "quorum-too-large": (400, "More replicas than hold the key"),
    "needs-strong": (400, "Conditions and fences need the strong level"),
    "bad-key": (400, "Not a key"),
    "bad-json": (400, "Not the JSON that is expected here"),
    "bad-fence": (400, "The fence can't be used"),
    "forbidden": (403, "Not from there"),
    "not-found": (404, "Nothing there"),
    "not-held": (404, "Nobody holds the lock"),
    "method-not-allowed": (405, "Not with this method"),
    "not-acceptable": (406, "Not in a form that the client accepts"),
    "slow-body": (408, "The request's body did not arrive in time"),
    "lock-held": (409, "Others hold the lock"),
    "lock-lost": (410, "The token holds nothing any more"),
    "version-mismatch": (412, "The value is another one by now"),
    "exists": (412, "There is a value already"),
    "fenced": (412, "Somebody has held the lock since"),
    "too-large": (413, "Too large"),
    "unsupported-media-type": (415, "Not in this form"),
    "expectation-failed": (417, "Only 100-continue can be expected"),
    "internal": (500, "A fault of this node"),
    "overloaded": (503, "Too much to do right now"),
    "quorum-unavailable": (503, "Too few replicas can be reached"),
    "outcome-unknown": (504, "The write may be applied, now or later"),
    "timeout": (504, "Too few replicas answered in time"),
    "disk-full": (507, "No room on this node's disk"),
    "http-version": (505, "Only HTTP/1.1 and HTTP/1.0"),
}

_PROBLEM = f"Content-Type: application/problem+json\r\n{NOSNIFF}"

Extra = str | int | float | list[str] | None
"""What a member of a problem document may be."""


class Problem(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        outcome: Outcome | None = None,
        status: int | None = None,
        headers: str = "",
        close: bool = False,
        **extra: Extra,
    ) -> None:
        """outcome: None where nothing was begun, so that it follows from the method. headers: whole lines.

        status: where it is another than the code's usual one: a request line that is too large is a 414.
        close: the rest of the connection can't be trusted or is not worth reading.
        """
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.outcome = outcome
        self.status = CODES[code][0] if status is None else status
        """The HTTP status."""
        self.headers = headers
        self.close = close
        self.extra = extra
        self.receipt = ""
        """The KV-Receipt of the answer, of a kv request."""
        self.level = ""
        self.has_waited = False
        """See Answer."""


def outcome_untouched(method: str) -> Outcome:
    """The outcome of a request that was refused before anything was begun."""
    return "none" if method in ("GET", "HEAD", "OPTIONS") else "not-applied"


def document(problem: Problem, outcome: Outcome, request_id: str) -> dict[str, Extra]:
    """The problem as RFC 9457 writes it."""
    return {
        "type": f"urn:kvstore:{problem.code}",
        "title": CODES[problem.code][1],
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "outcome": problem.outcome or outcome,
        "request_id": request_id,
        **problem.extra,
    }


def render(problem: Problem, method: str, request_id: str) -> Answer:
    """The problem as an answer."""
    body = msgspec.json.encode(document(problem, outcome_untouched(method), request_id))
    receipt = f"KV-Receipt: {problem.receipt}\r\n" if problem.receipt else ""
    headers = f"{_PROBLEM}Cache-Control: no-store\r\n{receipt}{problem.headers}"
    answer = Answer(problem.status, headers, body, problem.level)
    answer.keep_alive = not problem.close
    answer.has_waited = problem.has_waited
    return answer


def overloaded(detail: str, retry_after_s: float = 1.0) -> Problem:
    """Too much waits already; worth trying again a little later."""
    header = f"Retry-After: {max(1, math.ceil(retry_after_s))}\r\n"
    return Problem("overloaded", detail, headers=header, retry_after_s=retry_after_s)
