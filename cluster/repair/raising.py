"""When a floor may be raised: what two replicas that differ on a key say about it."""

from __future__ import annotations

from collections.abc import Iterable

from storage.ballot import NONE
from storage.engine import Row
from storage.record import Record


def holds_back(copies: Iterable[Record | Row | None], floor: int) -> bool:
    """Whether a key that differs, of which these are the copies, keeps the floor from being raised so far.

    By origin, which is never above the ballot: a weak write that was merged under a ballot above the floor may still
    be older than it, and a replica that has not heard of it would call it superseded.
    """
    return any(copy is not None and NONE < copy.origin <= floor for copy in copies)
