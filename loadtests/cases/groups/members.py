"""Three, five and seven members on the same machine: kvstore keeps each key on three of them, etcd on all."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from loadtests.cases.bench import Bench, Closed
from loadtests.cases.groups.group import CaseGroup, Plot, typical
from loadtests.cases.report.charts import line_legend, lines
from loadtests.cases.report.style import linear_y, log_y
from loadtests.cases.report.words import change, sentence
from loadtests.cases.results import ETCD, KVSTORE, Group

CASES = ("put", "get")


def measure(bench: Bench) -> None:
    """Fresh clusters of each size."""
    for count in bench.scale.member_counts:
        with bench.sides(count) as sides:
            bench.fill(sides)
            cases = [Closed(case, case, bench.scale.connections, at=count) for case in CASES]
            bench.compare(sides, cases, bench.scale.sweep_rounds)


def draw(group: Group, canvas: Canvas) -> None:
    """Rate and p99."""
    left, right = canvas.subplots(1, 2)
    lines(left, group, CASES, lambda one: one.per_s, lambda at: f"{at:.0f}", is_log_x=False)
    lines(right, group, CASES, lambda one: one.p99_ms, lambda at: f"{at:.0f}", is_log_x=False)
    for axes, unit in ((left, "requests per second"), (right, "p99 latency, ms")):
        axes.set_xlabel("members (kvstore: N=3; etcd: all hold all)")
        axes.set_ylabel(unit)
    linear_y(left)
    log_y(right)
    line_legend(left, group, CASES)


def words(group: Group) -> list[str]:
    """From the fewest to the most."""
    said = []
    for case in CASES:
        places = group.places(case)
        if len(places) < 2:
            continue
        for side in (KVSTORE, ETCD):
            moved = change(group.figure(case, side, places[0]), group.figure(case, side, places[-1]))
            what = f"{case}, {places[0]:.0f} members to {places[-1]:.0f}: {side} goes {moved}"
            said += sentence(what if moved else "")
    return said


GROUP = CaseGroup(
    "members",
    "Three, five and seven members",
    measure,
    (Plot("members", "Three, five and seven members on one machine: strong put and get", draw, typical, words),),
    at=lambda at: f"{at:.0f} members",
)
