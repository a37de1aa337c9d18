"""One of three members down, and the second in which it dies."""

from __future__ import annotations

import threading
import time

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from loadtests.cases.bench import PATIENCE_S, Bench, Closed
from loadtests.cases.groups.group import CaseGroup, Plot, typical
from loadtests.cases.load.generator import Order
from loadtests.cases.load.open_loop import open_loop
from loadtests.cases.report.charts import latency_ranges, rate_bars
from loadtests.cases.report.style import BAD, COLOURS, linear_y, log_y
from loadtests.cases.report.timelines import failures, longest_gap_s, timeline_of
from loadtests.cases.report.words import change, number, sentence
from loadtests.cases.results import ETCD, KVSTORE, Group, Timeline
from loadtests.cases.sides.side import Member, Side, addresses

LABELS = {
    "put, all up": "put,\nall up",
    "put, one down": "put,\none down",
    "get, all up": "get,\nall up",
    "get, one down": "get,\none down",
}
SETTLE_S = 3.0
"""After the death, before the survivors are measured: etcd's election is over by then."""
BIN_S = 0.1


def measure(bench: Bench) -> None:
    """All up and one down on the same clusters; then a death under load, on fresh ones."""
    with bench.sides() as sides:
        bench.fill(sides)
        bench.compare(sides, _cases(bench, "all up"))
        survivors = {side.name: _after_a_death(side) for side in sides}
        time.sleep(SETTLE_S)
        bench.compare(sides, _cases(bench, "one down"), members_of=lambda side: survivors[side.name])
    with bench.sides() as sides:
        bench.fill(sides)
        with bench.progress.long_work("a death under load", len(sides)) as step:
            for side in sides:
                bench.book.timelines.append(_death(bench, side))
                step.advance()


def _cases(bench: Bench, state: str) -> list[Closed]:
    return [Closed(f"{script}, {state}", script, bench.scale.connections) for script in ("put", "get")]


def _after_a_death(side: Side) -> list[Member]:
    victim = side.victim()
    side.kill(victim)
    return [member for member in side.members if member != victim]


def _death(bench: Bench, side: Side) -> Timeline:
    scale, victim, died_s = bench.scale, side.victim(), [0.0]

    def kill() -> None:
        side.kill(victim)
        died_s[0] = time.monotonic()

    def arm(begins_s: float) -> None:
        timer = threading.Timer(begins_s + scale.death_after_s - time.monotonic(), kill)
        timer.daemon = True
        timer.start()

    order = Order(side.name, addresses(side.members), "put", scale.death_rate, scale.death_seconds,
                  scale.death_connections, scale.keys, scale.value_bytes, PATIENCE_S,
                  timeout_s=scale.death_timeout_s, keeps_events=True)  # fmt: skip
    outcome = open_loop(order, arm)
    home = side.members.index(victim)
    return timeline_of(outcome.events, side.name, victim.name, home, died_s[0], BIN_S, scale.death_seconds)


def draw_down(group: Group, canvas: Canvas) -> None:
    """Rates, and latencies beside them."""
    left, right = canvas.subplots(1, 2)
    rate_bars(left, group, LABELS)
    latency_ranges(right, group, LABELS)


def draw_death(group: Group, canvas: Canvas) -> None:
    """A column per side: answers, failures, and the slowest request of each tenth of a second."""
    columns = max(1, len(group.timelines))
    panels = canvas.subplots(3, columns, sharex=True, sharey="row", squeeze=False, height_ratios=(2, 1, 1.4))
    for column, timeline in enumerate(group.timelines):
        middles = [timeline.first_s + (place + 0.5) * timeline.bin_s for place in range(len(timeline.failed))]
        answers, failed, slowest = (panels[row][column] for row in range(3))
        _draw_answers(answers, timeline, middles)
        failed.bar(middles, timeline.failed, timeline.bin_s, color=BAD)
        failed.annotate(
            f"{failures(timeline):,} in all", (1, 0.95), xycoords="axes fraction", ha="right", va="top", color=BAD
        )
        slowest.plot(middles, [max(one, 0.1) for one in timeline.slowest_ms], color=COLOURS[timeline.side])
        slowest.set_xlabel("seconds since the death")
        for axes in (answers, failed, slowest):
            axes.axvline(0, color="black", linewidth=1, linestyle="--")
        if column == 0:
            answers.set_ylabel("answers\nper 0.1 s")
            failed.set_ylabel("failures\nper 0.1 s")
            slowest.set_ylabel("slowest\nrequest, ms")
    for row in panels[:2]:
        linear_y(row[0])
        row[0].set_ylim(top=1.4 * row[0].get_ylim()[1])  # room for what is written there
    log_y(panels[2][0])


def _draw_answers(axes: Axes, timeline: Timeline, middles: list[float]) -> None:
    colour = COLOURS[timeline.side]
    both = [a + b for a, b in zip(timeline.survivors_ok, timeline.orphans_ok, strict=True)]
    axes.plot(middles, both, color=colour)
    axes.plot(middles, timeline.orphans_ok, color=colour, linestyle=":", linewidth=1.6)
    role = " (the leader)" if timeline.side == ETCD else ""
    axes.set_title(f"{timeline.side}: {timeline.victim}{role} is killed")
    axes.legend(
        handles=[
            Line2D([], [], color=colour, label="all clients"),
            Line2D([], [], color=colour, linestyle=":", label="clients of the one that dies"),
        ],
        loc="upper right",
    )


def how_death(group: Group) -> str:
    """What the clients do."""
    rate, patience = (group.settings.get(name, 0.0) for name in ("death_rate", "death_timeout_s"))
    return (
        f"{rate:,.0f} strong puts sent per second, open loop; a client gives a request up after {patience:g} s, "
        "and goes on with the next member when its own is gone"
    )


def words_down(group: Group) -> list[str]:
    """Before and after, at each side."""
    said = []
    for script in ("put", "get"):
        for side in (KVSTORE, ETCD):
            moved = change(group.figure(f"{script}, all up", side), group.figure(f"{script}, one down", side))
            said += sentence(f"{script} with one of three down: {side} goes {moved}" if moved else "")
    return said


def words_death(group: Group) -> list[str]:
    """How long nobody was answered, and what failed."""
    said = []
    for one in group.timelines:
        gap = longest_gap_s(one)
        silence = f"no put is answered for {number(gap)} s" if gap else f"no {one.bin_s:g} s pass without an answer"
        slowest = number(max(one.slowest_ms))
        said += sentence(f"{one.side}: {silence}; {failures(one):,} requests fail; the slowest takes {slowest} ms")
    return said


GROUP = CaseGroup(
    "outage",
    "One member down",
    measure,
    (
        Plot("one-down", "One of three members down: strong put and get", draw_down, typical, words_down, (10.0, 4.0)),
        Plot(
            "death",
            "The second in which a member dies (kill -9)",
            draw_death,
            how_death,
            words_death,
            (11.0, 6.0),
        ),
    ),
)
