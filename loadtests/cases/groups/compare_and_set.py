"""Compare-and-set under contention: writers of one key, each on condition of the version it was told last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec.structs
from matplotlib.figure import Figure as Canvas

from loadtests.cases.bench import Bench, Closed
from loadtests.cases.groups.group import CaseGroup, Plot
from loadtests.cases.report.charts import line_legend, lines
from loadtests.cases.report.style import linear_y, log_y
from loadtests.cases.report.words import number, sentence, versus
from loadtests.cases.results import ETCD, KVSTORE, Group, Round

CASE = "compare-and-set"


def measure(bench: Bench) -> None:
    """A thread of wrk is a writer with a connection of its own, which knows what it was told."""
    with bench.sides() as sides:
        bench.fill(sides, 100)
        cases = [
            Closed(
                CASE,
                "compare_and_set",
                count,
                at=count,
                unit="wins",
                threads=count,
                seconds=2 * bench.scale.seconds,
                read=of_wins,
            )
            for count in bench.scale.writers
        ]
        bench.compare(sides, cases)


def of_wins(found: Round, report: Mapping[str, Any]) -> tuple[Round, dict[str, float]]:
    """Counts won writes, not attempts; times are those from a writer's first attempt until it has won,
    or until the end.
    """
    tries = report["won"] + report["lost"]
    one = msgspec.structs.replace(
        found,
        per_s=round(report["won"] / report["seconds"], 1),
        p50_ms=round(report["won_p50_us"] / 1000, 3),
        p99_ms=round(report["won_p99_us"] / 1000, 3),
        p999_ms=round(report["won_p999_us"] / 1000, 3),
        max_ms=round(report["won_max_us"] / 1000, 3),
        wrong=report["wrong"] + report["socket_errors"] + report["timeouts"],
    )
    share = report["won"] / tries if tries else 0.0
    return one, {
        "attempts_per_s": round(tries / report["seconds"], 1),
        "won_share": round(share, 4),
        "never_won": report["starved"],
    }


def draw(group: Group, canvas: Canvas) -> None:
    """Wins, how many attempts win, and how long a win takes."""
    panels = canvas.subplots(1, 3)
    values = (
        ("won writes per second", lambda one: one.per_s),
        ("attempts that win, %", lambda one: 100 * one.more.get("won_share", 0.0)),
        ("p99 from first attempt to win, ms", lambda one: one.p99_ms),
    )
    for axes, (unit, value) in zip(panels, values, strict=True):
        lines(axes, group, (CASE,), value, lambda at: f"{at:.0f}")
        axes.set_xlabel("writers of one key")
        axes.set_ylabel(unit)
    linear_y(panels[0])
    linear_y(panels[1])
    log_y(panels[2])
    line_legend(panels[0], group, (CASE,))


def how(_: Group) -> str:
    """What a writer does."""
    return "each writes on condition of the version it was told last, again and again; a refusal tells it the new one"


def words(group: Group) -> list[str]:
    """The most writers."""
    places = group.places(CASE)
    if not places:
        return []
    most = places[-1]
    said = sentence(versus(group, CASE, f"{most:.0f} writers of one key", most))
    for side in (KVSTORE, ETCD):
        if (one := group.figure(CASE, side, most)) is not None:
            tries = 1 / one.more["won_share"] if one.more.get("won_share") else 0.0
            starved = f"{one.more.get('never_won', 0):.0f} of the {most:.0f} never won in the last round"
            said += sentence(
                f"a win takes {side} {number(tries)} attempts then, and {number(one.p99_ms)} ms at p99; {starved}"
            )
    return said


GROUP = CaseGroup(
    "compare-and-set",
    "Compare-and-set under contention",
    measure,
    (Plot("compare-and-set", "Compare-and-set: writers of one key", draw, how, words, (11.0, 4.0)),),
    at=lambda at: f"{at:.0f} writer{'' if at == 1 else 's'}",
)
