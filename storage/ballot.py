"""Ballots: the versions of this store, totally ordered and never reused.

A ballot is a 63-bit integer, so that SQLite, msgpack and Python all carry it as it is:

    41 bits  milliseconds since 2025-01-01 UTC (69 years)
    12 bits  counter, for ballots within one millisecond
    10 bits  slot of the node that issued it

Zero is below every ballot that a node issues and stands for "none yet". The slot makes ballots of
different nodes differ; the clock (cluster/ballot_clock.py) makes those of one node differ.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

EPOCH_MS = 1_735_689_600_000  # 2025-01-01T00:00:00Z in Unix milliseconds
COUNTER_BITS = 12
SLOT_BITS = 10
SLOTS_MAX = 1 << SLOT_BITS
COUNTERS_MAX = 1 << COUNTER_BITS
BALLOT_MAX = (1 << 63) - 1
NONE = 0

Ballot = Annotated[int, msgspec.Meta(ge=NONE, le=BALLOT_MAX)]
"""A ballot in a message: whatever comes over the wire and is none is refused when it is decoded."""

_MS_SHIFT = COUNTER_BITS + SLOT_BITS


def ballot_of(unix_ms: int, counter: int, slot: int) -> int:
    """The ballot of that moment, counter and slot. Raises ValueError when a part does not fit."""
    if not 0 <= counter < COUNTERS_MAX or not 0 <= slot < SLOTS_MAX:
        raise ValueError(f"counter {counter} or slot {slot} does not fit a ballot")
    ballot = ((unix_ms - EPOCH_MS) << _MS_SHIFT) | (counter << SLOT_BITS) | slot
    if not 0 < ballot <= BALLOT_MAX:
        raise ValueError(f"{unix_ms} ms is outside the years that a ballot can hold")
    return ballot


def unix_ms_of(ballot: int) -> int:
    """The Unix time in milliseconds that the ballot carries."""
    return (ballot >> _MS_SHIFT) + EPOCH_MS


def slot_of(ballot: int) -> int:
    """The slot of the node that issued the ballot."""
    return ballot & (SLOTS_MAX - 1)


def version_text(ballot: int) -> str:
    """How a version is shown to people and applications: 16 lower-case hexadecimal digits."""
    return f"{ballot:016x}"


def parse_version(text: str) -> int:
    """The ballot that version_text() showed. Raises ValueError for anything else."""
    if len(text) != 16 or not all(digit in "0123456789abcdef" for digit in text):
        raise ValueError("a version is 16 lower-case hexadecimal digits")
    ballot = int(text, 16)
    if ballot > BALLOT_MAX:
        raise ValueError("a version is below 8000000000000000")
    return ballot
