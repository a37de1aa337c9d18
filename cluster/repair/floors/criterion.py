"""How far a floor may be raised: no further than nobody needs what lies below. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.protocol.prepared import PREPARED_MS_MAX
from storage.ballot import NONE
from storage.engine import Row
from storage.record import Record

DEADLINE_S = 60.0
"""The longest that an application may give a request (kvstore/http/incoming/parameters.py)."""
MARGIN_S = 10.0
"""For what is on its way when a deadline passes."""


def shortest_purge_after_s(clock_offset_max_s: float) -> float:
    """How old a deletion must be at least before it may be purged.

    No rule below rests on it: it is so long that hardly anything still under way is as old, and so nothing has to be
    refused for a floor's sake. Two clocks may be apart by twice what one may be off.
    """
    return DEADLINE_S + PREPARED_MS_MAX / 1000 + 2 * clock_offset_max_s + MARGIN_S


def holds_back(copies: Iterable[Record | Row | None], floor: int) -> bool:
    """Whether a key that differs, of which these are the copies, keeps the floor from being raised so far.

    By origin, which is never above the ballot: a weak write that was merged under a ballot above the floor may still
    be older than it, and a replica that has not heard of it would call it superseded.
    """
    return any(copy is not None and NONE < copy.origin <= floor for copy in copies)
