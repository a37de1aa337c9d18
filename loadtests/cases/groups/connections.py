"""From one connection to many: where the rate stops rising, and what the wait is then."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from loadtests.cases.bench import Bench, Closed
from loadtests.cases.groups.group import CaseGroup, Plot
from loadtests.cases.report.charts import line_legend, lines
from loadtests.cases.report.style import log_y
from loadtests.cases.report.words import number, sentence, versus
from loadtests.cases.results import KVSTORE, Group

CASES = ("put", "get")


def measure(bench: Bench) -> None:
    """Strong puts and gets over so many connections, spread over three members."""
    with bench.sides() as sides:
        bench.fill(sides)
        cases = [Closed(case, case, count, at=count) for case in CASES for count in bench.scale.connection_counts]
        bench.compare(sides, cases, bench.scale.sweep_rounds)


def draw(group: Group, canvas: Canvas) -> None:
    """Rate and p99."""
    left, right = canvas.subplots(1, 2)
    for axes, unit in ((left, "requests per second"), (right, "p99 latency, ms")):
        lines(axes, group, CASES, (lambda one: one.per_s) if axes is left else (lambda one: one.p99_ms), str_of)
        axes.set_xlabel("connections")
        axes.set_ylabel(unit)
        log_y(axes)
        line_legend(axes, group, CASES)


def how(group: Group) -> str:
    """What all points have in common."""
    keys, size = (group.settings.get(name, 0.0) for name in ("keys", "value_bytes"))
    return f"{keys:,.0f} keys, values of {size:,.0f} bytes, connections spread over all members, closed loop"


def str_of(at: float) -> str:
    """Plain."""
    return f"{at:.0f}"


def words(group: Group) -> list[str]:
    """The ends, and the peak."""
    said = []
    for case in CASES:
        places = group.places(case)
        if not places:
            continue
        found = [one for at in places if (one := group.figure(case, KVSTORE, at)) is not None]
        peak = max(found, key=lambda one: one.per_s)
        said += sentence(
            versus(group, case, f"{case} over {places[0]:.0f} connection", places[0]),
            versus(group, case, f"over {places[-1]:.0f}", places[-1]),
            f"most with {peak.at:.0f}, {number(peak.per_s)} a second",
        )
    return said


GROUP = CaseGroup(
    "connections",
    "Connections",
    measure,
    (Plot("connections", "Few connections and many: strong put and get", draw, how, words),),
    at=lambda at: f"{at:.0f} connection{'' if at == 1 else 's'}",
)
