"""One key that everybody writes: strong writes of a key queue at its primary."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from loadtests.cases.bench import BOTH, Bench, Closed
from loadtests.cases.groups.group import CaseGroup, Plot, typical
from loadtests.cases.report.charts import latency_ranges, rate_bars
from loadtests.cases.report.words import change, sentence, versus
from loadtests.cases.results import ETCD, KVSTORE, Group

LABELS = {
    "put, one hot key": "put,\nhot key",
    "put, keys at random": "put,\nrandom",
    "get, one hot key": "get,\nhot key",
    "get, keys at random": "get,\nrandom",
}


def measure(bench: Bench) -> None:
    """64 clients at one key, and at 10,000 for comparison."""
    with bench.sides() as sides:
        bench.fill(sides)
        cases = []
        for case in LABELS:
            keys = 1 if "hot" in case else bench.scale.keys
            by_side = {side: {"KEYS": keys} for side in BOTH}
            cases.append(Closed(case, case[:3], bench.scale.hot_clients, by_side))
        bench.compare(sides, cases)


def draw(group: Group, canvas: Canvas) -> None:
    """Rates, and latencies beside them."""
    left, right = canvas.subplots(1, 2)
    rate_bars(left, group, LABELS)
    latency_ranges(right, group, LABELS)


def how(group: Group) -> str:
    """Against many keys."""
    return typical(group, "hot_clients")


def words(group: Group) -> list[str]:
    """The hot key against etcd, and against many keys."""
    clients = group.settings.get("hot_clients", 0.0)
    said = sentence(versus(group, "put, one hot key", f"one hot key written by {clients:.0f} clients"))
    for side in (KVSTORE, ETCD):
        moved = change(group.figure("put, keys at random", side), group.figure("put, one hot key", side))
        said += sentence(f"when all write one key, {side} goes {moved}" if moved else "")
    return said


GROUP = CaseGroup(
    "hot-key",
    "One hot key",
    measure,
    (Plot("hot-key", "One hot key: strong put and get", draw, how, words, (10.0, 4.0)),),
)
