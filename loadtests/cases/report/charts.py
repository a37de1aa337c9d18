"""The two kinds of chart that most cases share: bars per case with latencies beside them, and lines over an x axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from loadtests.cases.report.style import COLOURS, GREY, linear_y, log_y, places_x, rough
from loadtests.cases.results import ETCD, KVSTORE, Figure, Group

Dashes = Literal["-", "--", ":", "-."]
SIDES = (KVSTORE, ETCD)
MARKS = ("o", "s", "^", "D")
STYLES: tuple[Dashes, ...] = ("-", "--", ":", "-.")
NARROW = 0.38


def sides_of(group: Group) -> list[str]:
    """Those that were measured."""
    return [side for side in SIDES if any(figure.side == side for figure in group.figures)]


def rate_bars(axes: Axes, group: Group, cases: Mapping[str, str], unit: str = "requests per second") -> None:
    """A bar per case and side, with its number, and below, what multiple of etcd's it is. cases: with their labels."""
    tops = [figure.per_s for case in cases for side in SIDES if (figure := group.figure(case, side))]
    for place, case in enumerate(cases):
        for offset, side in _places_of(group, case):
            figure = group.figure(case, side)
            assert figure is not None, "a place is where a figure is"
            axes.bar(place + offset, figure.per_s, NARROW, color=COLOURS[side])
            axes.annotate(
                rough(figure.per_s),
                (place + offset, figure.per_s),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    labels = [f"{label}{_times(group.ratio(case))}" for case, label in cases.items()]
    axes.set_xticks(range(len(cases)), labels)
    axes.grid(False, axis="x")
    axes.set_ylabel(unit)
    linear_y(axes)
    axes.set_ylim(top=1.2 * max(tops, default=1.0))
    axes.legend(handles=side_handles(group), loc="upper left", ncols=2)
    if any(group.ratio(case) is not None for case in cases):
        axes.set_xlabel("×: kvstore's rate as a multiple of etcd's", fontsize=8.5, color=GREY)


def _places_of(group: Group, case: str) -> list[tuple[float, str]]:
    """Beside each other, or in the middle where there is only one."""
    there = [side for side in SIDES if group.figure(case, side) is not None]
    return (
        [(0.0, there[0])] if len(there) == 1 else [((place - 0.5) * NARROW, side) for place, side in enumerate(there)]
    )


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"\n{ratio:.2f}×"


def latency_ranges(axes: Axes, group: Group, cases: Mapping[str, str], unit: str = "latency, ms") -> None:
    """Per case and side: a line from p50 to p99.9 with a mark at each of p50, p99 and p99.9."""
    for place, case in enumerate(cases):
        for offset, side in _places_of(group, case):
            figure = group.figure(case, side)
            assert figure is not None, "a place is where a figure is"
            x, colour = place + offset, COLOURS[side]
            axes.plot([x, x], [figure.p50_ms, figure.p999_ms], color=colour, linewidth=3, alpha=0.45)
            for mark, value in zip("osD", (figure.p50_ms, figure.p99_ms, figure.p999_ms), strict=True):
                axes.plot([x], [value], mark, color=colour, markersize=6)
    axes.set_xticks(range(len(cases)), list(cases.values()))
    axes.set_xlim(-0.6, len(cases) - 0.4)
    axes.grid(False, axis="x")
    axes.set_ylabel(unit)
    log_y(axes)
    marks = zip("osD", ("p50", "p99", "p99.9"), strict=True)
    axes.legend(
        handles=[Line2D([], [], color=GREY, marker=mark, linestyle="", label=text) for mark, text in marks],
        loc="upper center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
    )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.15)  # room for the legend


def lines(
    axes: Axes,
    group: Group,
    cases: Sequence[str],
    value: Callable[[Figure], float],
    labels: Callable[[float], str],
    is_log_x: bool = True,
) -> None:
    """A line per case and side over the measured places: colour for the side, dashes for the case."""
    places: list[float] = sorted({place for case in cases for place in group.places(case)})
    for number, case in enumerate(cases):
        for side in SIDES:
            found = [(at, one) for at in group.places(case) if (one := group.figure(case, side, at)) is not None]
            if found:
                axes.plot(
                    [at for at, _ in found],
                    [value(one) for _, one in found],
                    color=COLOURS[side],
                    marker=MARKS[number],
                    linestyle=STYLES[number],
                )
    places_x(axes, places, [labels(place) for place in places], is_log_x)


def line_legend(
    axes: Axes,
    group: Group,
    cases: Mapping[str, str] | Sequence[str],
    loc: Literal["best", "upper left", "upper right"] = "best",
) -> None:
    """What the colours and the dashes of lines() mean. cases: with their labels, if others than their names."""
    names = list(cases.values()) if isinstance(cases, Mapping) else list(cases)
    styles = [
        Line2D([], [], color=GREY, marker=MARKS[number], linestyle=STYLES[number], label=name)
        for number, name in enumerate(names)
    ]
    axes.legend(handles=side_handles(group) + (styles if len(names) > 1 else []), loc=loc, handlelength=3)


def side_handles(group: Group) -> list[Line2D]:
    """A legend's entries for the sides."""
    return [Line2D([], [], color=COLOURS[side], linewidth=6, label=side) for side in sides_of(group)]
