"""Moments that all processes of a host agree on: its monotonic clock, and the era in which that clock counts.

The clock is the kernel's, the same for all processes from one boot to the next, but for those in a time namespace of
their own. So a moment that one process wrote down means something to another of the same era, and nothing to any other.
"""

from __future__ import annotations

import math
import os
import secrets
from pathlib import Path

import msgspec

from cluster.clock import Clock

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_TIME_NAMESPACE = Path("/proc/self/ns/time")


class Moment(msgspec.Struct, frozen=True):
    """A moment of an era."""

    era: str
    ms: int


def era_of_host() -> str:
    """The boot, and the time namespace; where the system does not tell, an era of this process alone."""
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        return secrets.token_hex(8)
    try:
        namespace = os.readlink(_TIME_NAMESPACE)
    except OSError:  # a kernel before 5.6 has no others
        namespace = ""
    return f"{boot} {namespace}"


def now(era: str, clock: Clock) -> Moment:
    """Rounded up: a lease must never seem older than it is."""
    return Moment(era, math.ceil(clock.monotonic_s() * 1000))
