"""The steps of a conversation: what the pure generators yield, and what they are sent back.

Ask        ask replicas; sent back: the answers
Pause      wait a moment; sent back: no answers
HandOver   let the key's primary propose a change; sent back: the outcome, as the only "answer"
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster.protocol.changes import Change
from cluster.protocol.messages import Answer, Request

Answers = list[tuple[int, Answer]]
"""(slot of the replica, what came from it), in the order of arrival."""


class Ask(msgspec.Struct, frozen=True, gc=False):
    """Ask replicas, and go on when `needed` have granted, or no longer can."""

    request: Request
    needed: int
    slots: tuple[int, ...] | None = None
    """Whom to ask; None is every replica of the key."""
    value_from: int | None = None
    """For a Read of ballots: the one replica that sends its value with them."""
    grants: Callable[[Answer], bool] | None = None
    """Which answers grant; None is the kind of reply that the request names."""
    hedge: bool = False
    """Go on after a moment even without enough, so that others can be asked."""
    linger: bool = False
    """With enough, wait a moment more for the rest."""
    hear_out: bool = False
    """Without hope for enough, wait for the rest all the same: what nobody took may be begun anew."""


class Pause(msgspec.Struct, frozen=True, gc=False):
    """Wait a moment, longer with each attempt, before the next one."""

    attempt: int


class HandOver(msgspec.Struct, frozen=True, gc=False):
    """Let the key's primary propose this change, and wait for what becomes of it."""

    change: Change
    needed: int


Step = Ask | Pause | HandOver
