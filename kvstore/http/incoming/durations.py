"""Durations and whole numbers as people write them: `250ms`, `10s`, `5m`; one spelling for each, and no surprises."""

from __future__ import annotations

from collections.abc import Mapping

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000}
LONG_UNITS_MS = {**UNITS_MS, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str, units_ms: Mapping[str, int]) -> int | None:
    """The duration in milliseconds; None where it is none."""
    digits = text.rstrip("smhd")
    unit_ms = units_ms.get(text[len(digits) :])
    return int(digits) * unit_ms if unit_ms is not None and is_number(digits) else None


def duration_text(duration_ms: int) -> str:
    """The duration in whole seconds, or in milliseconds where that would lose some."""
    return f"{duration_ms}ms" if duration_ms % 1_000 else f"{duration_ms // 1_000}s"


def is_number(text: str) -> bool:
    """Without leading zeros, which some read as octal; int() alone takes Arabic digits and 1_000, too."""
    return text.isascii() and text.isdigit() and len(text) <= 9 and (text == "0" or text[0] != "0")
