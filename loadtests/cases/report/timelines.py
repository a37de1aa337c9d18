"""Time lines of a death, from the ends of single requests."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.cases.load.generator import Event
from loadtests.cases.results import Timeline


def timeline_of(
    events: Sequence[Event], side: str, victim: str, home: int, died_s: float, bin_s: float, seconds: float
) -> Timeline:
    """Counts answers and failures by when they came, slow ones by when they were meant to be sent.

    home: the victim's place among the addresses. seconds: how long requests were sent.
    """
    began_s = min((event.intended_s for event in events), default=died_s)
    before = int((died_s - began_s) // bin_s)  # whole bins: the death is a border between two
    first_s, count = -before * bin_s, round(seconds / bin_s)
    survivors, orphans, failed, slowest = [0] * count, [0] * count, [0] * count, [0.0] * count
    for event in events:
        ended = int((event.ended_s - died_s - first_s) // bin_s)
        meant = int((event.intended_s - died_s - first_s) // bin_s)
        if 0 <= ended < count:
            row = failed if not event.is_good else orphans if event.home == home else survivors
            row[ended] += 1
        elif not event.is_good:
            failed[-1] += 1  # given up after the end
        if 0 <= meant < count:
            slowest[meant] = max(slowest[meant], round(1000 * (event.ended_s - event.intended_s), 3))
    return Timeline(side, victim, bin_s, round(first_s, 3), survivors, orphans, failed, slowest)


def longest_gap_s(timeline: Timeline) -> float:
    """The longest row of bins without an answer, between the first bin with one and the last."""
    answers = [a + b for a, b in zip(timeline.survivors_ok, timeline.orphans_ok, strict=True)]
    longest = run = 0
    for count in "".join("x" if count else " " for count in answers).strip():
        run = 0 if count == "x" else run + 1
        longest = max(longest, run)
    return round(longest * timeline.bin_s, 3)


def failures(timeline: Timeline) -> int:
    """All of them."""
    return sum(timeline.failed)
