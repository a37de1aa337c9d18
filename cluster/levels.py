"""The three levels of consistency, and how many replicas each needs.

R + W > N alone makes no store linearizable; what each level promises is said in docs/protocol.md. This file
only counts. N is the replication factor, or the number of members where that is smaller.
"""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """How much agreement a request pays for."""

    STRONG = "strong"
    WEAK = "weak"
    EVENTUAL = "eventual"


class QuorumTooSmall(ValueError):
    """Fewer replicas were asked for than the level can honour."""


class QuorumTooLarge(ValueError):
    """More replicas were asked for than hold the key."""


def majority(n: int) -> int:
    """The smallest number of n replicas of which any two groups share a member."""
    return n // 2 + 1


def quorum_size(level: Level, n: int, asked: int | str | None) -> int:
    """How many of n replicas must answer a read or acknowledge a write.

    asked is the request's `r` or `w`: a number, "one", "quorum", "all", or None for the level's own count
    (a majority when strong, else one). Raises QuorumTooSmall or QuorumTooLarge, whose texts a client may see.
    """
    named = {"one": 1, "quorum": majority(n), "all": n}
    if asked is None:
        return majority(n) if level is Level.STRONG else 1
    count = named[asked] if isinstance(asked, str) else asked
    if count > n:
        raise QuorumTooLarge(f"{count} replicas were asked for, but only {n} hold this key; ask for {n} or fewer")
    if count < 1:
        raise QuorumTooSmall(f"{count} replicas were asked for; ask for at least 1")
    if level is Level.STRONG and count < majority(n):
        raise QuorumTooSmall(
            f"a strong request needs a majority of the {n} replicas; ask for {majority(n)} or more, "
            "or choose consistency=weak"
        )
    return count
