"""The shapes as plain functions of time: how many users there shall be after so many seconds.

A plan gets the share of the run that has passed, 0 to 1, and the number of users at its peak (`--users`).
"""

from __future__ import annotations

from collections.abc import Callable

Plan = Callable[[float, int], int]

STEPS = 5
SPIKE_FROM, SPIKE_TO = 0.4, 0.6
BASE_SHARE = 0.2
"""Of the peak, before and after a spike."""
RAMP_SHARE = 0.1
"""Of a soak's time, until all users are there."""


def steps(passed: float, peak: int) -> int:
    """As many users more at each of five equal steps: at which load do latencies begin to rise?"""
    step = min(int(passed * STEPS) + 1, STEPS)
    return max(1, round(peak * step / STEPS))


def spike(passed: float, peak: int) -> int:
    """A fifth of the users, all of them at once in the middle fifth, and a fifth again: does it recover?"""
    return peak if SPIKE_FROM <= passed < SPIKE_TO else max(1, round(peak * BASE_SHARE))


def soak(passed: float, peak: int) -> int:
    """All users for the whole time, after a short ramp in ten parts: does anything grow or wear out?"""
    tenths = min(int(passed / RAMP_SHARE * 10) + 1, 10)
    return max(1, round(peak * tenths / 10))
