"""Values from 255 bytes to 1 MiB: when bytes cost more than requests."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from loadtests.cases.bench import BOTH, Bench, Closed
from loadtests.cases.groups.group import CaseGroup, Plot
from loadtests.cases.report.charts import line_legend, lines
from loadtests.cases.report.style import log_y, size_text
from loadtests.cases.report.words import sentence, versus
from loadtests.cases.results import Group

CASES = ("put", "get")
BYTES_MAX = 32 << 20
"""Of all keys of one size: larger values have fewer keys."""

LARGE_BYTES, LARGE_SECONDS = 1 << 20, 4
"""So few of the largest fit into a second that a round must be longer."""


def measure(bench: Bench) -> None:
    """One size after the other, each on clusters of its own: files that large values left would slow the next."""
    scale = bench.scale
    for size in scale.value_sizes:
        keys = min(scale.keys, BYTES_MAX // size)
        settings = {"KEYS": keys, "VALUE_BYTES": size}
        by_side = dict.fromkeys(BOTH, settings)
        with bench.sides() as sides:
            bench.fill(sides, keys, size)
            seconds = max(scale.seconds, LARGE_SECONDS) if size >= LARGE_BYTES else scale.seconds
            cases = [
                Closed(case, case, scale.value_size_connections, by_side, at=size, seconds=seconds) for case in CASES
            ]
            bench.compare(sides, cases, scale.sweep_rounds)


def draw(group: Group, canvas: Canvas) -> None:
    """Rate, bytes, p99."""
    panels = canvas.subplots(1, 3)
    values = (
        ("requests per second", lambda one: one.per_s),
        ("MiB of values per second", lambda one: one.per_s * (one.at or 0) / 2**20),
        ("p99 latency, ms", lambda one: one.p99_ms),
    )
    for axes, (unit, value) in zip(panels, values, strict=True):
        lines(axes, group, CASES, value, size_text)
        axes.set_xlabel("size of a value")
        axes.set_ylabel(unit)
        axes.tick_params(axis="x", labelsize=8.5)
        log_y(axes)
    line_legend(panels[1], group, CASES, "upper left")


def how(group: Group) -> str:
    """What all points have in common."""
    count, keys = (group.settings.get(name, 0.0) for name in ("value_size_connections", "keys"))
    return (
        f"{count:.0f} connections, closed loop; {keys:,.0f} keys, fewer where they would have more than 32 MiB together"
    )


def words(group: Group) -> list[str]:
    """The smallest and the largest."""
    said = []
    for case in CASES:
        if places := group.places(case):
            ends = (places[0], places[-1])
            said += sentence(*(versus(group, case, f"{case} of {size_text(at)}", at) for at in ends))
    return said


GROUP = CaseGroup(
    "value-sizes",
    "Sizes of values",
    measure,
    (Plot("value-sizes", "Small values and large: strong put and get", draw, how, words, (11.0, 4.0)),),
    at=size_text,
)
