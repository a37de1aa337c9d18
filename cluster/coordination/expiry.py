"""Expired values, as a coordinator sees them.

Clocks differ. A weak or eventual read goes by the clock of its coordinator. A strong one must not, or the next one,
through a node whose clock is behind, would show the value again: what may have expired is settled by the key's
primary (protocol/proposer.py), and what that leaves on a majority is the answer.
"""

from __future__ import annotations

from cluster.coordination.drive import Context
from cluster.protocol.changes import Settle
from cluster.requests import Fence
from storage.record import Record


def is_expired(context: Context, record: Record | None) -> bool:
    """Whether there is a value whose time is over by this node's clock."""
    return record is not None and record.expires_at_ms > 0 and record.is_expired(context.ballots.now_ms())


def is_doubtful(context: Context, record: Record | None) -> bool:
    """Whether a strong read has to let the primary say what became of the value.

    A node that knows its clock to be wrong can't say of any value that it is still there.
    """
    if record is None or record.expires_at_ms == 0:
        return False
    return not context.roster.is_clock_right or is_expired(context, record)


def settle(context: Context, fence: Fence | None = None) -> Settle:
    """The change that settles a key as of this node's time, and makes it remember the fence."""
    return Settle(now_ms=context.ballots.now_ms() if context.roster.is_clock_right else 0, fence=fence)
