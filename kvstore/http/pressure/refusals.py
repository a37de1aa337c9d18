"""Refusals, rendered once: the answer `overloaded`, of which there are the most when there is least time for them.

All that changes from one to the next is the request's id, which is of characters that need no escape in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from kvstore.http.outgoing.answer import Answer
from kvstore.http.outgoing.problems import document, outcome_untouched, overloaded, render

DETAIL = (
    "More is asked of this node than it can do in good time; nothing was done. Try again after Retry-After, and after "
    "a longer pause each time, or ask another node."
)
REMEMBERED_MAX = 64
LOOK_S = 0.02
"""How often the date is looked at: one that is asked for as often as this is no later than the way to the client."""
_ID = "|request id|"


class Refusals:
    """Makes them."""

    def __init__(self, receipt: Callable[[], str]) -> None:
        """receipt: the KV-Receipt of a kv request that no replica was asked about."""
        self._receipt = receipt
        self._rendered: dict[tuple[str, int, str], tuple[str, bytes, bytes, int]] = {}

    def answer(self, method: str, is_receipted: bool, retry_after_s: float, request_id: str) -> Answer:
        """The answer to one request."""
        wait_s = max(1, math.ceil(retry_after_s))
        key = (outcome_untouched(method), wait_s, self._receipt() if is_receipted else "")
        rendered = self._rendered.get(key)
        if rendered is None:
            rendered = self._render(method, *key[1:])
            if len(self._rendered) >= REMEMBERED_MAX:
                self._rendered.clear()
            self._rendered[key] = rendered
        headers, before, after, status = rendered
        return Answer(status, headers, before + request_id.encode("ascii") + after)

    def _render(self, method: str, wait_s: int, receipt: str) -> tuple[str, bytes, bytes, int]:
        problem = overloaded(DETAIL, float(wait_s))
        problem.receipt = receipt
        answer = render(problem, method, _ID)
        body = msgspec.json.encode(document(problem, outcome_untouched(method), _ID))
        before, _, after = body.partition(_ID.encode())
        return answer.headers, before, after, answer.status


class ReadyRefusals:
    """Whole refusals as they go over the wire, made anew each second: all that differs within one is the id."""

    def __init__(self, wall_ms: Callable[[], int], make: Callable[[str, str], bytes]) -> None:
        """make(method, id) makes one from the ground up."""
        self._wall_ms, self._make = wall_ms, make
        self._look_again_s = -math.inf
        self._second = -1
        self._parts: dict[str, list[bytes]] = {}

    def refusal(self, method: str, request_id: str, now_s: float) -> bytes:
        """The one for this id, which is as long as all others are. now_s: of a monotonic clock."""
        if now_s >= self._look_again_s:
            self._look_again_s = now_s + LOOK_S
            self._look()
        bare_id = request_id.encode("ascii")
        parts = self._parts.get(method)
        if parts is None:
            parts = self._parts[method] = self._make(method, request_id).split(bare_id)
        return bare_id.join(parts)

    def _look(self) -> None:
        second = self._wall_ms() // 1000
        if second != self._second:
            self._second = second
            self._parts.clear()
