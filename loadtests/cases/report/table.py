"""The one table: a row per case, kvstore and etcd beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from loadtests.cases.groups import fixed_rate, keys
from loadtests.cases.groups.group import CaseGroup
from loadtests.cases.report.timelines import failures, longest_gap_s
from loadtests.cases.report.words import number
from loadtests.cases.results import ETCD, KVSTORE, Figure, Footprint, Group

HEAD = (
    "case", "unit", "kvstore", "etcd", "ratio",
    "kvstore p50 / p99 / p99.9 ms", "etcd p50 / p99 / p99.9 ms", "not 2xx",
)  # fmt: skip
NOTHING = "-"


class Row(Struct, frozen=True):
    """Its cells, in the order of HEAD."""

    case: str
    unit: str
    ours: str
    theirs: str
    ratio: str = NOTHING
    our_latency: str = NOTHING
    their_latency: str = NOTHING
    wrong: str = "0"

    def cells(self) -> tuple[str, ...]:
        """All of them."""
        return (
            self.case, self.unit, self.ours, self.theirs, self.ratio, self.our_latency, self.their_latency, self.wrong,
        )  # fmt: skip


def rows(cases: CaseGroup, group: Group) -> list[Row]:
    """Of one group: its figures, what its members take, its deaths."""
    return [*_figure_rows(cases, group), *_footprint_rows(group), *_timeline_rows(group)]


def markdown(blocks: Iterable[tuple[str, list[Row]]]) -> list[str]:
    """The lines of one table; each block of rows begins with its title."""
    lines = [_line(HEAD), _line(("---", "---", *["---:"] * 6))]
    for title, found in blocks:
        lines.append(_line((f"**{title}**", *[""] * 7)))
        lines += [_line(row.cells()) for row in found]
    return lines


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure_rows(cases: CaseGroup, group: Group) -> Iterable[Row]:
    for case, at in dict.fromkeys((one.case, one.at) for one in group.figures):
        ours, theirs = group.figure(case, KVSTORE, at), group.figure(case, ETCD, at)
        one = ours or theirs
        assert one is not None, "it was found a moment ago"
        times = group.ratio(case, at)
        yield Row(
            case if at is None else f"{case}, {cases.at(at)}",
            f"{one.unit}/s",
            _rate(ours),
            _rate(theirs),
            NOTHING if times is None else f"{times:.2f}",
            _latency(ours),
            _latency(theirs),
            " / ".join(f"{figure.wrong:,}" for figure in (ours, theirs) if figure is not None),
        )


def _plain(case: str, unit: str, ours: str, theirs: str) -> Row:
    """A row that is about no requests."""
    return Row(case, unit, ours, theirs, wrong=NOTHING)


def _rate(figure: Figure | None) -> str:
    return NOTHING if figure is None else number(figure.per_s)


def _latency(figure: Figure | None) -> str:
    if figure is None:
        return NOTHING
    said = " / ".join(number(value) for value in (figure.p50_ms, figure.p99_ms, figure.p999_ms))
    return f"{said} (generator late)" if fixed_rate.generator_fell_behind(figure) else said


def _footprint_rows(group: Group) -> Iterable[Row]:
    kinds: tuple[tuple[str, Callable[[Footprint], float]], ...] = (
        ("memory", lambda one: one.memory_bytes),
        ("disk", lambda one: one.disk_bytes),
    )
    by_side = {side: [one for one in group.footprints if one.side == side] for side in (KVSTORE, ETCD)}
    for place in range(len(by_side[KVSTORE])):
        pair = [found[place] if place < len(found) else None for found in by_side.values()]
        for kind, value in kinds:
            cells = [NOTHING if one is None else number(value(one) / 2**20) for one in pair]
            counts = " and ".join(dict.fromkeys(f"{one.keys:,}" for one in pair if one is not None))
            yield _plain(f"{kind} of a member, {counts} keys", "MiB", *cells)
    for kind, value in kinds:
        shares = [keys.per_key(group, side, value) for side in (KVSTORE, ETCD)]
        if shares[0] is not None:
            cells = [NOTHING if share is None else f"{share:,.0f}" for share in shares]
            yield _plain(f"{kind} of a member per key, with the most", "bytes", *cells)


def _timeline_rows(group: Group) -> Iterable[Row]:
    by_side = {one.side: one for one in group.timelines}
    pair = [by_side.get(side) for side in (KVSTORE, ETCD)]
    if not group.timelines:
        return
    gaps = [NOTHING if one is None else f"{longest_gap_s(one):g}" for one in pair]
    yield _plain("a death: longest time without an answer", "s", *gaps)
    slowest = [NOTHING if one is None else number(max(one.slowest_ms)) for one in pair]
    yield _plain("a death: slowest request", "ms", *slowest)
    failed = [NOTHING if one is None else f"{failures(one):,}" for one in pair]
    yield _plain("a death: failed requests", "requests", *failed)
