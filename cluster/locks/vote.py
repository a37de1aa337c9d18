"""The vote: of several proposals one wins, once and for ever, and all are told the same. Consensus over a register.

Of several candidates at most one has a majority: the register's change is accepted by a majority of replicas, any two
majorities share one, and the function leaves a register alone that holds a winner already.
"""

from __future__ import annotations

import msgspec

from cluster.locks.register import Register

VALUE_BYTES_MAX = 64 * 1024
"""Of a proposal's value as JSON: a vote decides, it does not store."""
CANDIDATE_BYTES_MAX = 256
_KEY_PREFIX = b"\0vote/"


class Proposal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a candidate proposes."""

    candidate: str
    value: bytes
    """JSON."""


class Decision(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was decided."""

    winner: Proposal
    decided_ms: int
    """When, in Unix milliseconds, by the clock of the node that carried the change through."""


class Voted(msgspec.Struct, frozen=True, gc=False):
    """The answer to a proposal."""

    decision: Decision
    is_new: bool
    """Whether this very proposal decided the vote; False where it was decided before."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Decision)


def vote_key(name: str) -> bytes:
    """The key of the register of the vote of that name."""
    return _KEY_PREFIX + name.encode()


class Vote:
    """One vote."""

    def __init__(self, register: Register) -> None:
        self._register = register

    async def propose(self, proposal: Proposal, timeout_s: float) -> Voted:
        """Decides the vote, if nobody has. Raises RegisterError; proposing again after MayBeChanged does no harm."""

        def decide(value: bytes | None, now_ms: int) -> bytes | None:
            return _encoder.encode(Decision(proposal, now_ms)) if value is None else None

        changed = await self._register.change(decide, timeout_s)
        assert changed.value is not None, "a register that was left alone held a decision"
        return Voted(_decoder.decode(changed.value), changed.is_new)

    async def decision(self, timeout_s: float) -> Decision | None:
        """What was decided; None while nothing is. Raises NotChanged."""
        value = await self._register.read(timeout_s)
        return None if value is None else _decoder.decode(value)
