"""LeaseTimes: the lease watch, which also believes what other processes of the host have seen."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.locks.lease_watch import LeaseWatch
from cluster.locks.lock_state import Identity, LockState


class LeaseTimes(LeaseWatch):
    """Since when each grant stands: as this process has seen it, or as the file says, whichever is earlier.

    Who writes a grant or a renewal notes the moment in the same transaction. The holder counts from before it asked,
    so its lease is over before anybody's count that begins with that moment; the argument of LeaseWatch holds.
    """

    _told: tuple[bytes, Mapping[Identity, float]] = (b"", {})

    def learn(self, key: bytes, since_s: Mapping[Identity, float]) -> None:
        """The file's word, by this host's monotonic clock; to be told right before saw() of the same lock."""
        self._told = key, since_s

    def saw(self, key: bytes, state: LockState) -> None:
        """See LeaseWatch."""
        super().saw(key, state)
        told_key, told = self._told
        seen = self._seen.get(key)
        if seen is None or told_key != key:
            return
        for identity, (since_s, grant) in seen.items():
            seen[identity] = min(since_s, told.get(identity, since_s)), grant
