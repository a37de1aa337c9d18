"""Level by level: what strong, weak and eventual requests cost, beside what etcd has of them."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from loadtests.cases.bench import Bench, Closed, Settings
from loadtests.cases.groups.group import CaseGroup, Plot, typical
from loadtests.cases.report.charts import latency_ranges, rate_bars
from loadtests.cases.report.words import change, sentence, times, versus
from loadtests.cases.results import ETCD, KVSTORE, Group

LABELS = {
    "strong put": "strong\nput",
    "weak put": "weak\nput",
    "eventual put": "event.\nput",
    "weak put over strong": "weak over\nstrong put",
    "strong get": "strong\nget",
    "weak get": "weak\nget",
    "eventual get": "event.\nget",
}
PREFIXES = {"strong": "str", "weak": "wea", "eventual": "eve"}
"""Each level has keys of its own. Where levels meet on a key a weak write costs more: a case for itself."""
THEIRS: dict[str, Settings] = {"strong put": {}, "strong get": {}, "weak get": {"SERIALIZABLE": 1}}
"""etcd has no weak put; its serializable range is beside the weak get."""


def measure(bench: Bench) -> None:
    """Puts and gets at each level, of keys written at that level before; and weak puts of keys written strongly."""
    count = bench.scale.connections
    cases = []
    for case in LABELS:
        level, script = case.split()[:2]
        prefix = PREFIXES["strong" if "over" in case else level]
        by_side: dict[str, Settings] = {KVSTORE: {"QUERY": f"?consistency={level}", "PREFIX": prefix}}
        if case in THEIRS:
            by_side[ETCD] = {**THEIRS[case], "PREFIX": PREFIXES["strong"]}
        cases.append(Closed(case, script, count, by_side))
    cases.sort(key=lambda case: "over" in case.case)  # last, for it changes the strong keys
    with bench.sides() as sides:
        for level, prefix in PREFIXES.items():
            of_level = sides if level == "strong" else sides[:1]
            bench.fill(of_level, prefix=prefix, query=f"?consistency={level}")
        bench.compare(sides, cases)


def draw(group: Group, canvas: Canvas) -> None:
    """Rates, and latencies beside them."""
    left, right = canvas.subplots(1, 2)
    rate_bars(left, group, LABELS)
    latency_ranges(right, group, LABELS)


def words(group: Group) -> list[str]:
    """Against etcd, and the levels among themselves."""
    said = sentence(*(versus(group, case, case) for case in ("strong put", "strong get", "weak get")))
    strong, weak = group.figure("strong put", KVSTORE), group.figure("weak put", KVSTORE)
    if strong and weak and strong.per_s:
        said += sentence(f"weak puts come {times(weak.per_s / strong.per_s)} as often as strong ones")
    moved = change(weak, group.figure("weak put over strong", KVSTORE))
    return said + sentence(f"weak puts of keys that were last written strongly go {moved}" if moved else "")


GROUP = CaseGroup(
    "levels",
    "Level by level",
    measure,
    (Plot("levels", "Level by level", draw, typical, words, (11.0, 4.0)),),
)
