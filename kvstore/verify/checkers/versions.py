"""Versions are ballots, which are ordered: written as hexadecimal numbers, or as numbers."""

from __future__ import annotations

from typing import Any


def order_of(version: Any) -> int | None:
    """The version as a number; None when it is none that can be compared."""
    if isinstance(version, bool):
        return None
    if isinstance(version, int):
        return version
    try:
        return int(version, 16) if isinstance(version, str) else None
    except ValueError:
        return None
