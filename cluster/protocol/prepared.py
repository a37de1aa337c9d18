"""Prepared ballots: promises given with the last accept, so that the next write needs one round trip.

CASPaxos section 2.2.1 calls it the one-round-trip optimisation. It is safe under three conditions, all kept here
or by the caller: a prepared ballot is taken out before it is used, so it is used once; it is put in only by an
accept whose next ballot a majority promised, or by a prepare whose ballot no accept has borne; and one proposer works
on a key at a time (coordination/writing/primary.py).

It is worth using only while this node's own replica still shows that promise and that record. A replica that moved
on says that somebody else was here: an accept would be refused, and with it the outcome would become unknown. Nor
while it shows other fences: those came from a replica that was told more (acceptor.py, 5), past all promises, so that
whoever was promised a ballot before may not have been told of them. Only a round of its own makes that sure.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from storage.fences import digest_of
from storage.record import Record, ReplicaState

PREPARED_MS_MAX = 60_000
"""How old a prepared ballot may be used: a version's time, which people and weak writes see, is its ballot's."""
PREPARED_MAX = 131_072
"""Keys with a prepared ballot: as many as the cache holds small records of. About 250 bytes each, so 32 MB; a key that
falls out pays one more round trip."""
PREPARED_STEP = 1_024
"""So many fall out together."""


class Prepared(NamedTuple):
    """The ballot, and the record that a majority held when they promised it."""

    ballot: int
    base: Record


class PreparedBallots:
    """Key -> Prepared, bounded; the oldest falls out first."""

    def __init__(
        self, own_state: Callable[[bytes], ReplicaState | None], is_recent: Callable[[int], bool] = lambda _: True
    ) -> None:
        """own_state(key): what this node's replica holds, as far as it is in memory.

        is_recent(ballot): whether its time is still near enough to now to be a version's.
        """
        self._own_state, self._is_recent = own_state, is_recent
        self._ballots: dict[bytes, tuple[int, int, int]] = {}
        """Key -> the ballot, and ballot and digest of the fences of its base."""

    def put(self, key: bytes, ballot: int, base: Record) -> None:
        """Remembers that a majority has `base` and promised `ballot`."""
        if len(self._ballots) >= PREPARED_MAX:
            for oldest in list(islice(self._ballots, PREPARED_STEP)):  # one by one, the search for it grows each time
                del self._ballots[oldest]
        self._ballots[key] = (ballot, base.ballot, digest_of(base.fences))

    def take(self, key: bytes) -> Prepared | None:
        """The prepared ballot, gone from here; None if there is none or it is not worth trying."""
        found = self._ballots.pop(key, None)
        if found is None or not self._is_recent(found[0]):
            return None
        state = self._own_state(key)
        if state is None or (record := state.record) is None:
            return None
        if (state.promised, record.ballot, digest_of(record.fences)) != found:
            return None
        return Prepared(found[0], record)

    def clear(self) -> None:
        """Forgets all, as a change of epoch demands."""
        self._ballots.clear()
