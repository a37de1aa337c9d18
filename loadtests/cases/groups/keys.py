"""Cold keys against warm ones, and many keys against few: one filling of a million keys serves both.

Each key is written for the first time once: in batches of a hundred, whose rate is a curve. At each of the numbers of
keys the filling pauses; memory and disk are looked at, and single requests are measured: puts of keys that nobody has
written before, of keys that are there, and gets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from loadtests.cases.bench import BOTH, Bench, Closed, Settings
from loadtests.cases.groups.group import CaseGroup, Plot
from loadtests.cases.load.filling import Filled, fill, thinned
from loadtests.cases.report.charts import line_legend, lines
from loadtests.cases.report.style import COLOURS, linear_y, log_bytes_y, places_x, short, size_text
from loadtests.cases.report.words import change, number, sentence
from loadtests.cases.results import ETCD, KVSTORE, Figure, Filling, Footprint, Group, Round
from loadtests.cases.sides.side import Side, addresses, disk_bytes, memory_bytes
from loadtests.latencies import Latencies

COLD_PUT, WARM_PUT, GET = "put, first ever", "put, key is there", "get"
FILL = "first writes, in batches of 100"
PREFIXES = ("ca1", "ca2", "ca3", "ca4", "ca5", "ca6")
"""Of keys for the cold puts at one number of keys."""
POINTS = 60
"""Of a filling's curve that are kept."""
SETTLE_S = 2.0


def measure(bench: Bench) -> None:
    """Both clusters grow side by side; at each mark both are measured."""
    marks = bench.scale.key_counts
    with bench.sides() as sides:
        extra = dict.fromkeys((side.name for side in sides), 0)
        done: dict[str, list[Filled]] = {side.name: [] for side in sides}
        _look(bench, sides, 0, extra)
        with bench.progress.long_work("first writes", marks[-1] * len(sides)) as step:
            for place, (first, end) in enumerate(pairwise((0, *marks))):
                for side in sides:
                    step.now(f"first writes up to {end:,}: {side.name}")
                    places = addresses(side.members)
                    filled = fill(side.name, places, first, end, bench.scale.value_bytes, step.advance)
                    done[side.name].append(filled)
                    if filled.refused:
                        bench.book.faults.append(f"{side.name}: {filled.refused} batches of first writes were refused")
                time.sleep(SETTLE_S)
                _look(bench, sides, end, extra)
                _probe(bench, sides, end, PREFIXES[place], extra)
        for side in sides:
            _keep(bench, side, done[side.name])


def _look(bench: Bench, sides: Sequence[Side], keys: int, extra: dict[str, int]) -> None:
    for side in sides:
        count = keys + extra[side.name]
        bench.book.footprints.append(Footprint(side.name, count, round(memory_bytes(side)), round(disk_bytes(side))))


def _probe(bench: Bench, sides: Sequence[Side], keys: int, prefix: str, extra: dict[str, int]) -> None:
    count, seconds = bench.scale.connections, bench.scale.probe_seconds
    cold: dict[str, Settings] = {side: {"COLD": 1, "PREFIX": prefix} for side in BOTH}
    warm: dict[str, Settings] = {side: {"KEYS": keys} for side in BOTH}
    cases = [
        Closed(COLD_PUT, "put", count, cold, keys, seconds=seconds),
        Closed(WARM_PUT, "put", count, warm, keys, seconds=seconds),
        Closed(GET, "get", count, warm, keys, seconds=seconds),
    ]
    bench.compare(sides, cases, rounds=1)
    for figure in bench.book.figures[-6:]:
        if figure.case == COLD_PUT and figure.at == keys:
            extra[figure.side] += figure.rounds[0].requests


def _keep(bench: Bench, side: Side, parts: list[Filled]) -> None:
    seconds, keys, latencies = [0.0], [0], Latencies()
    for part in parts:
        before_s, before = seconds[-1], keys[-1]
        for at_s, written in thinned(part.points, POINTS // len(parts)):
            seconds.append(round(before_s + at_s, 3))
            keys.append(before + written)
        latencies.take(part.latencies)
    bench.book.fillings.append(Filling(side.name, seconds, keys))
    found = Round(
        requests=len(latencies),
        seconds=seconds[-1],
        per_s=round(keys[-1] / seconds[-1], 1),
        p50_ms=round(latencies.percentile_ms(0.5), 3),
        p99_ms=round(latencies.percentile_ms(0.99), 3),
        p999_ms=round(latencies.percentile_ms(0.999), 3),
        max_ms=round(latencies.percentile_ms(1.0), 3),
        wrong=sum(part.refused for part in parts),
    )
    bench.book.figures.append(Figure(FILL, side.name, [found], unit="keys"))


def draw_cold(group: Group, canvas: Canvas) -> None:
    """The filling's rate on the left; single puts, cold and warm, on the right."""
    left, right = canvas.subplots(1, 2)
    for filling in group.fillings:
        steps = list(pairwise(zip(filling.seconds, filling.keys, strict=True)))
        rates = [(b[1] - a[1]) / max(1e-9, b[0] - a[0]) for a, b in steps]
        left.plot([b[1] for _, b in steps], rates, color=COLOURS[filling.side], label=filling.side)
    left.set_xlabel("keys that are there")
    left.set_ylabel("keys per second")
    left.set_title("each key's first write, 100 in a request")
    left.xaxis.set_major_formatter(lambda value, _: short(value))
    linear_y(left)
    left.legend(loc="best")
    lines(right, group, (COLD_PUT, WARM_PUT), lambda one: one.per_s, short)
    right.set_xlabel("keys that are there")
    right.set_ylabel("requests per second")
    right.set_title("single puts")
    linear_y(right)
    line_legend(right, group, (COLD_PUT, WARM_PUT))


def draw_counts(group: Group, canvas: Canvas) -> None:
    """Rates, memory, disk."""
    panels = canvas.subplots(1, 3)
    lines(panels[0], group, (WARM_PUT, GET), lambda one: one.per_s, short)
    panels[0].set_ylabel("requests per second")
    line_legend(panels[0], group, {WARM_PUT: "put", GET: "get"})
    linear_y(panels[0])
    _draw_footprints(panels[1], group, "resident memory of a member", lambda one: one.memory_bytes)
    _draw_footprints(panels[2], group, "disk of a member", lambda one: one.disk_bytes)
    for axes in panels:
        axes.set_xlabel("keys that are there")


def _draw_footprints(axes: Axes, group: Group, unit: str, value: Callable[[Footprint], float]) -> None:
    places = sorted({one.keys for one in group.footprints if one.keys})
    for side in (KVSTORE, ETCD):
        found = [one for one in group.footprints if one.side == side and one.keys]
        if not found:
            continue
        axes.plot([one.keys for one in found], [value(one) for one in found], "o-", color=COLOURS[side], label=side)
        for one in found[-1:]:
            axes.annotate(
                size_text(value(one)), (one.keys, value(one)), xytext=(2, 7), textcoords="offset points", ha="right"
            )
    marks = group.places(WARM_PUT) or [float(place) for place in places]
    places_x(axes, marks, [short(place) for place in marks])
    axes.set_ylabel(unit)
    log_bytes_y(axes)
    axes.legend(loc="best")


def per_key(group: Group, side: str, value: Callable[[Footprint], float]) -> float | None:
    """Bytes more than with no keys, per key, with the most keys; None where it was not looked at."""
    found = [one for one in group.footprints if one.side == side]
    if len(found) < 2 or not found[-1].keys:
        return None
    return (value(found[-1]) - value(found[0])) / found[-1].keys


def how_cold(group: Group) -> str:
    """What cold is."""
    size, count = (group.settings.get(name, 0.0) for name in ("value_bytes", "connections"))
    return (
        f"cold: nobody has written the key before; values of {size:.0f} bytes; single puts over {count:.0f} connections"
    )


def how_counts(group: Group) -> str:
    """What a key is."""
    size, count = (group.settings.get(name, 0.0) for name in ("value_bytes", "connections"))
    return (
        f"keys of 12 bytes, values of {size:.0f}, read and written at random over {count:.0f} connections, closed loop"
    )


def words_cold(group: Group) -> list[str]:
    """The filling, and single puts with the most keys."""
    said = []
    for filling in group.fillings:
        rate = filling.keys[-1] / filling.seconds[-1]
        said += sentence(
            f"{filling.side} takes {number(filling.seconds[-1])} s for the first writes of {filling.keys[-1]:,} keys, "
            f"{number(rate)} a second"
        )
    if places := group.places(COLD_PUT):
        for side in (KVSTORE, ETCD):
            moved = change(group.figure(WARM_PUT, side, places[-1]), group.figure(COLD_PUT, side, places[-1]))
            said += sentence(
                f"with {places[-1]:,.0f} keys there, {side}'s single puts go, when cold, {moved}" if moved else ""
            )
    return said


def words_counts(group: Group) -> list[str]:
    """From the fewest keys to the most, and what a key takes."""
    said = []
    places = group.places(GET)
    if len(places) > 1:
        for side in (KVSTORE, ETCD):
            moved = change(group.figure(GET, side, places[0]), group.figure(GET, side, places[-1]))
            said += sentence(
                f"gets with {places[-1]:,.0f} keys instead of {places[0]:,.0f}: {side} goes {moved}" if moved else ""
            )
    for side in (KVSTORE, ETCD):
        memory, disk = (
            per_key(group, side, value) for value in (lambda one: one.memory_bytes, lambda one: one.disk_bytes)
        )
        if memory is not None and disk is not None:
            said += sentence(
                f"with the most keys each takes {memory:,.0f} bytes of memory and {disk:,.0f} of disk at {side}"
            )
    return said


GROUP = CaseGroup(
    "keys",
    "Cold keys, and many keys",
    measure,
    (
        Plot("cold-keys", "Cold keys against warm ones: strong puts", draw_cold, how_cold, words_cold, (10.0, 4.0)),
        Plot(
            "key-counts", "Few keys and many: rates, memory, disk", draw_counts, how_counts, words_counts, (11.0, 4.0)
        ),
    ),
    at=lambda at: f"{at:,.0f} keys",
)
