"""What a lock's register holds, and the steps that change it: pure functions of that state.

A grant is one holder's right, from when it was given until it is released, or taken over because nobody renewed it.
Its identity is (fence, renewals): whoever has seen the same identity for a whole lease knows that the lease is over.

    fence       grows with each grant, for ever: at least the previous one plus one, and at least the milliseconds of
                the moment it was given. It stays in the register when the lock is released, and should the register
                be lost with its disk, time has gone on. Hochstein/Kleppmann's fencing token: a store that has seen a
                higher fence refuses what comes under a lower one, so a paused holder can't write.
    token       a secret that proves the holder. Here is only its digest: who reads the disk can't take the lock.
    permits     how many may hold it at once: 1 is a lock, more a semaphore (Dijkstra, 1965).
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from typing import Annotated

import msgspec

from storage.record import Number

NAME_BYTES_MAX = 256
OWNER_BYTES_MAX = 256
TTL_S_MIN, TTL_S_MAX = 1.0, 3_600.0
"""A shorter lease would end in an ordinary pause of a process; a longer one keeps a dead holder's lock too long."""
WAIT_S_MAX = 600.0
PERMITS_MAX = 100
"""All holders stand in one register, which is written with each of their steps."""
TOKEN_DIGEST_BYTES = 16
RECENT_MAX = 32
"""Fences that a lock remembers one by one: 9 bytes each, in a register that is written with each step."""

_KEY_PREFIX = b"\0lock/"
"""A key of applications has no NUL, so none of theirs is one of these, and all of these stand before theirs."""

Identity = tuple[int, int]
"""(fence, renewals) of a grant."""


class Wish(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What somebody asks for."""

    owner: str
    """Who it is, for people."""
    token: bytes
    """The digest of the secret that will prove the holder; see token_digest()."""
    ttl_ms: Annotated[int, msgspec.Meta(ge=1, le=int(TTL_S_MAX * 1000))]
    """The lease: how long the grant holds without a renewal."""
    permits: Annotated[int, msgspec.Meta(ge=1, le=PERMITS_MAX)] = 1


class Grant(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One holder's right."""

    owner: str
    token: bytes
    fence: Number
    ttl_ms: int
    renewals: int = 0

    @property
    def identity(self) -> Identity:
        """What changes with every grant and every renewal."""
        return self.fence, self.renewals


class LockState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the register holds."""

    fence: Number = 0
    """The highest that was ever granted."""
    permits: int = 1
    """How many may hold it, as the first of those that hold it now has asked for."""
    grants: tuple[Grant, ...] = ()
    recent: tuple[Number, ...] = ()
    """The fences granted last, the oldest first: RECENT_MAX of them, or all."""

    def of_token(self, token: bytes) -> Grant | None:
        """The grant that this token proves."""
        return next((grant for grant in self.grants if grant.token == token), None)

    @property
    def is_free(self) -> bool:
        """Whether nobody holds it."""
        return not self.grants

    def may_have_granted(self, fence: int) -> bool:
        """Whether it granted this fence; of one from before those that it remembers nobody can say that it did not."""
        if len(self.recent) == RECENT_MAX and fence < self.recent[0]:
            return True
        return fence in self.recent


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LockState)


def lock_key(name: str) -> bytes:
    """The key of the register of the lock of that name."""
    return _KEY_PREFIX + name.encode()


def name_of_lock(key: bytes) -> str:
    """The name of the lock whose register has this key."""
    return key[len(_KEY_PREFIX) :].decode()


def token_digest(token: str) -> bytes:
    """What is kept of a token."""
    return blake2b(token.encode("utf-8", "surrogateescape"), digest_size=TOKEN_DIGEST_BYTES).digest()


def decode(value: bytes | None) -> LockState:
    """The state in a register's value; a free lock where there is none."""
    return LockState() if value is None else _decoder.decode(value)


def encode(state: LockState) -> bytes:
    """The register's value for this state."""
    return _encoder.encode(state)


def acquired(state: LockState, wish: Wish, over: Collection[Identity], now_ms: int) -> LockState | None:
    """The state once the wish is granted; None while others hold all there is, or hold it with other permits.

    over: the grants whose lease is known to be over; those of them that still stand are taken away, the wish's own too.
    A wish that was granted before, and not lost since, keeps its grant: asking twice takes no second permit. Its lease
    begins anew, for whoever asks again counts from then, and others may have watched the grant for a while.
    """
    own = state.of_token(wish.token)
    if own is not None and own.identity not in over:
        return renewed(state, wish.token)
    grants = tuple(grant for grant in state.grants if grant.identity not in over)
    permits = state.permits if grants else wish.permits
    if len(grants) >= permits or permits != wish.permits:
        return None
    fence = max(state.fence + 1, now_ms)
    grant = Grant(wish.owner, wish.token, fence, wish.ttl_ms)
    return LockState(fence, permits, (*grants, grant), (*state.recent, fence)[-RECENT_MAX:])


def renewed(state: LockState, token: bytes) -> LockState | None:
    """The state once the token's grant is renewed; None if it holds nothing."""
    grant = state.of_token(token)
    if grant is None:
        return None
    anew = msgspec.structs.replace(grant, renewals=grant.renewals + 1)
    return _holding(state, tuple(anew if one is grant else one for one in state.grants))


def released(state: LockState, token: bytes, only: Identity | None = None) -> LockState | None:
    """The state once the token's grant is given back; None if it holds nothing. The fence stays.

    only: give it back if it is this very grant, not renewed since.
    """
    grant = state.of_token(token)
    if grant is None or only not in (None, grant.identity):
        return None
    return _holding(state, tuple(one for one in state.grants if one is not grant))


def expired(state: LockState, over: Collection[Identity]) -> LockState | None:
    """The state without those of its grants whose lease is known to be over; None if it has none of them."""
    grants = tuple(grant for grant in state.grants if grant.identity not in over)
    return _holding(state, grants) if len(grants) < len(state.grants) else None


def _holding(state: LockState, grants: tuple[Grant, ...]) -> LockState:
    return LockState(state.fence, state.permits, grants, state.recent)
