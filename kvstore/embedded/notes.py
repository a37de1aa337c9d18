"""Notes: what stands beside a lock's register in the file, and is no part of the lock. Pure.

    seen    since when each grant stands as it does. A process that comes later need not watch a dead holder's lease
            from its beginning: one that is started every minute, and tries once, would never get the lock.
    line    who waits, in order of arrival, each with the moment it was last heard of. Shared memory promises no
            order: without a line, who releases a lock and wants it again gets it nearly every time.

Safety rests on neither: the lock grants only where a permit is left, or over grants whose lease is over; a line that is
lost, or is full of the dead, costs time. All moments are of one era; of another era nothing is believed.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cluster.locks.lock_state import Identity, LockState
from kvstore.embedded.moments import Moment

HEARTBEAT_MS = 400
"""How often those who wait say that they still do."""
SILENT_MS = 1_500
"""Who was not heard of for so long is passed over: it has died, or was stopped."""


class Waiter(msgspec.Struct, frozen=True, array_like=True):
    """Somebody in the line."""

    token: bytes
    """The digest of the token that it wishes to hold the lock by."""
    owner: str
    heard_ms: int


class Notes(msgspec.Struct, frozen=True, array_like=True):
    """What stands beside the register."""

    era: str = ""
    seen: tuple[tuple[int, int, int], ...] = ()
    """(fence, renewals, since when in milliseconds of the era) of each grant."""
    line: tuple[Waiter, ...] = ()

    def since(self) -> Mapping[Identity, int]:
        """Since when the grants stand, by their identity."""
        return {(fence, renewals): since_ms for fence, renewals, since_ms in self.seen}

    def is_heartbeat_due(self, token: bytes, moment: Moment) -> bool:
        """Whether somebody who waits has not been heard of for a while; so it is when it is not in the line."""
        waiter = next((one for one in self.line if one.token == token), None)
        return waiter is None or moment.ms - waiter.heard_ms >= HEARTBEAT_MS

    def place_of(self, token: bytes) -> int:
        """How many are in front; all, where it is not in the line."""
        return next((place for place, one in enumerate(self.line) if one.token == token), len(self.line))


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Notes)


def decode(beside: bytes | None, moment: Moment) -> Notes:
    """The notes as of this moment: without those who are silent, and empty where they are of another era."""
    notes = Notes() if beside is None else _decoder.decode(beside)
    if notes.era != moment.era:
        return Notes(moment.era)
    line = tuple(one for one in notes.line if moment.ms - one.heard_ms <= SILENT_MS)
    return notes if len(line) == len(notes.line) else Notes(notes.era, notes.seen, line)


def encode(notes: Notes) -> bytes:
    """As it stands beside the register."""
    return _encode(notes)


def noted(notes: Notes, state: LockState, moment: Moment) -> Notes:
    """The notes once the register holds this state: a grant that was not there before stands since now."""
    since = notes.since()
    seen = tuple((*grant.identity, since.get(grant.identity, moment.ms)) for grant in state.grants)
    return notes if seen == notes.seen else Notes(notes.era, seen, notes.line)


def heard(notes: Notes, token: bytes, owner: str, moment: Moment) -> Notes:
    """The notes once somebody has said that it waits: where it stood, or at the end."""
    if not notes.is_heartbeat_due(token, moment):
        return notes
    anew = Waiter(token, owner, moment.ms)
    if all(one.token != token for one in notes.line):
        return Notes(notes.era, notes.seen, (*notes.line, anew))
    return Notes(notes.era, notes.seen, tuple(anew if one.token == token else one for one in notes.line))


def without(notes: Notes, token: bytes) -> Notes:
    """The notes once somebody waits no longer."""
    line = tuple(one for one in notes.line if one.token != token)
    return notes if len(line) == len(notes.line) else Notes(notes.era, notes.seen, line)
