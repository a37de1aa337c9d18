"""A fixed arrival rate: what clients wait when they don't wait for one another. No coordinated omission."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from loadtests.cases.bench import Bench
from loadtests.cases.groups.group import CaseGroup, Plot
from loadtests.cases.load.work import Operation
from loadtests.cases.report.charts import Dashes, side_handles
from loadtests.cases.report.style import COLOURS, GREY, log_y, places_x, short
from loadtests.cases.report.words import number, percentiles, sentence
from loadtests.cases.results import ETCD, KVSTORE, Figure, Group

OPERATIONS: tuple[Operation, ...] = ("put", "get")
LATE_MS_MAX, LATE_SHARE_MAX = 1.0, 0.1
"""A generator whose own p99 of lateness is above both, the share being of the p99 that was measured, fell behind."""
KEPT_UP_SHARE = 0.98
_LINES: tuple[tuple[str, Dashes, str], ...] = (("p50", ":", "o"), ("p99", "-", "s"), ("p99.9", "--", "D"))


def measure(bench: Bench) -> None:
    """Each rate once at each side, from the lowest up."""
    scale = bench.scale
    rates = {"put": scale.put_rates, "get": scale.get_rates}
    with bench.sides() as sides:
        bench.fill(sides)
        total = sum(len(found) for found in rates.values())
        with bench.progress.long_work("fixed rates", total) as step:
            for operation in OPERATIONS:
                for rate in rates[operation]:
                    step.now(f"{rate:,} {operation}s a second")
                    bench.at_fixed_rate(sides, operation, operation, rate)
                    step.advance()


def has_kept_up(figure: Figure) -> bool:
    """Whether that many were answered as were sent."""
    return figure.at is None or figure.per_s >= KEPT_UP_SHARE * figure.at


def generator_fell_behind(figure: Figure) -> bool:
    """Whether the generator itself was late: then the latencies are too high by that."""
    return figure.more.get("late_p99_ms", 0.0) > max(LATE_MS_MAX, LATE_SHARE_MAX * figure.p99_ms)


def draw(group: Group, canvas: Canvas) -> None:
    """Percentiles over the rate; hollow marks where the answers did not keep up."""
    for axes, operation in zip(canvas.subplots(1, 2), OPERATIONS, strict=True):
        for side in (KVSTORE, ETCD):
            found = [one for at in group.places(operation) if (one := group.figure(operation, side, at)) is not None]
            for name, style, mark in _LINES:
                values = [_value(one, name) for one in found]
                axes.plot([one.at for one in found], values, style, color=COLOURS[side], linewidth=1.8)
                for one, value in zip(found, values, strict=True):
                    face = COLOURS[side] if has_kept_up(one) else "white"
                    axes.plot([one.at], [value], mark, color=COLOURS[side], markerfacecolor=face, markersize=5)
        places = group.places(operation)
        places_x(axes, places, [short(place) for place in places])
        axes.set_title(operation)
        axes.set_xlabel(f"{operation}s sent per second (fixed)")
        axes.set_ylabel("latency from the intended moment, ms")
        log_y(axes)
        styles = [Line2D([], [], color=GREY, linestyle=s, marker=m, markersize=5, label=n) for n, s, m in _LINES]
        axes.legend(handles=[*side_handles(group), *styles], loc="upper left", ncols=2, handlelength=3)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.25)  # room for the legend


def _value(figure: Figure, name: str) -> float:
    return {"p50": figure.p50_ms, "p99": figure.p99_ms, "p99.9": figure.p999_ms}[name]


def how(group: Group) -> str:
    """What the marks mean."""
    seconds, count = (group.settings.get(name, 0.0) for name in ("rate_seconds", "rate_connections"))
    return (
        f"open loop, {seconds:g} s per rate, up to {count:.0f} requests under way; counted from the moment a request "
        "was meant to be sent; hollow: fewer answers than requests"
    )


def words(group: Group) -> list[str]:
    """A rate that both keep up with, the limits, and whether the generator kept time."""
    said = []
    for operation in OPERATIONS:
        for side in (KVSTORE, ETCD):
            found = [one for at in group.places(operation) if (one := group.figure(operation, side, at)) is not None]
            kept = [one for one in found if has_kept_up(one)]
            if kept:
                most = kept[-1]
                said += sentence(
                    f"{side} keeps up with {number(most.at or 0)} {operation}s a second: {percentiles(most)}"
                )
            if len(kept) < len(found):
                lost = next(one for one in found if one not in kept)
                said += sentence(f"sent {number(lost.at or 0)}, {side} answers {number(lost.per_s)} a second")
    late = [one.more["late_p99_ms"] for one in group.figures if "late_p99_ms" in one.more]
    behind = [one for one in group.figures if generator_fell_behind(one)]
    if late:
        said += sentence(f"the generator itself was at most {number(max(late))} ms late at its p99")
    for one in behind:
        said += sentence(
            f"it fell behind at {number(one.at or 0)} {one.case}s a second to {one.side}: read that as an upper bound"
        )
    return said


GROUP = CaseGroup(
    "fixed-rate",
    "Fixed arrival rate",
    measure,
    (
        Plot(
            "fixed-rate", "Latency at a fixed arrival rate, without coordinated omission", draw, how, words, (11.0, 4.4)
        ),
    ),
    at=lambda at: f"{at:,.0f} per s sent",
)
