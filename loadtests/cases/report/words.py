"""Half sentences that the groups make theirs of. They compare, so that they stay true when the figures change."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.cases.results import ETCD, KVSTORE, Figure, Group


def number(value: float) -> str:
    """For reading: three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f} times" if value < 10 else f"{value:.0f} times"


def versus(group: Group, case: str, what: str, at: float | None = None) -> str:
    """`strong put: 4,200 a second, 0.81 times etcd's`; empty where it was not measured."""
    ours, theirs = group.figure(case, KVSTORE, at), group.figure(case, ETCD, at)
    if ours is None:
        return ""
    said = f"{what}: {number(ours.per_s)} {ours.unit} a second"
    ratio = group.ratio(case, at)
    return said if theirs is None or ratio is None else f"{said}, {times(ratio)} etcd's {number(theirs.per_s)}"


def change(before: Figure | None, after: Figure | None) -> str:
    """`from 4,200 to 2,100 a second (0.50 times)`; empty where one is missing."""
    if before is None or after is None or not before.per_s:
        return ""
    share = after.per_s / before.per_s
    return f"from {number(before.per_s)} to {number(after.per_s)} a second ({times(share)})"


def percentiles(figure: Figure) -> str:
    """`p50 3.1, p99 12, p99.9 20 ms`."""
    return f"p50 {number(figure.p50_ms)}, p99 {number(figure.p99_ms)}, p99.9 {number(figure.p999_ms)} ms"


def sentence(*parts: str) -> list[str]:
    """Those of the parts that say something, as one sentence, or none."""
    said = [part for part in parts if part]
    if not said:
        return []
    text = "; ".join(said)
    is_name = text.startswith((KVSTORE, ETCD))  # which are never written large
    return [f"{text if is_name else text[:1].upper() + text[1:]}."]


def and_list(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) if parts else ""
