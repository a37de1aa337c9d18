"""Results as a run leaves them, made up: every group, both sides, figures that tell one another apart."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.cases.groups import (
    GROUPS,
    batch,
    compare_and_set,
    connections,
    fixed_rate,
    hot_key,
    keys,
    levels,
    outage,
    value_sizes,
)
from loadtests.cases.groups import members as members_group
from loadtests.cases.results import (
    ETCD,
    KVSTORE,
    Figure,
    Filling,
    Footprint,
    Group,
    Machine,
    Results,
    Round,
    Timeline,
)
from loadtests.cases.scales import FULL

DATE = "2031-02-03"
MACHINE = Machine("A Processor", 2, 24.0, "Linux 6.1", "3.11.7", "3.40.1", "3.4.23", "4.1.0")
BOTH_SIDES = (KVSTORE, ETCD)
PLACES: dict[str, tuple[Sequence[str], Sequence[float | None]]] = {
    "levels": (tuple(levels.LABELS), (None,)),
    "keys": ((keys.COLD_PUT, keys.WARM_PUT, keys.GET), FULL.key_counts),
    "value-sizes": (value_sizes.CASES, FULL.value_sizes),
    "connections": (connections.CASES, FULL.connection_counts),
    "hot-key": (tuple(hot_key.LABELS), (None,)),
    "compare-and-set": ((compare_and_set.CASE,), FULL.writers),
    "members": (members_group.CASES, FULL.member_counts),
    "outage": (tuple(outage.LABELS), (None,)),
    "batch": (
        [batch.case_of(*case) for case in ((o, w, c) for o in batch.OPERATIONS for w in (batch.BATCHED, batch.SINGLE)
                                           for c in (batch.MANY, batch.ONE))],
        (None,),
    ),
    "fixed-rate": (fixed_rate.OPERATIONS, FULL.put_rates),
}  # fmt: skip
"""Cases and places of each group."""


def figure(case: str, side: str, at: float | None, per_s: float) -> Figure:
    rounds = [
        Round(1_000, 2.0, per_s * share, 1.5, 20.0, 30.0, 50.0, idle_cores=0.01, client_cores=0.2)
        for share in (0.9, 1.0, 1.3)
    ]
    return Figure(case, side, rounds, at, more={"won_share": 0.25, "never_won": 3.0, "late_p99_ms": 0.2})


def group(name: str, sides: Sequence[str] = BOTH_SIDES, date: str = DATE, is_quick: bool = False) -> Group:
    cases, places = PLACES[name]
    figures = [
        figure(case, side, at, 1_000.0 * (number + 1) * (2 if side == KVSTORE else 1))
        for number, case in enumerate(cases)
        for at in places
        for side in sides
    ]
    is_keys, is_outage = name == "keys", name == "outage"
    return Group(
        name,
        date,
        "python -m loadtests.cases",
        "abc1234",
        is_quick,
        60.0,
        MACHINE,
        FULL.numbers(),
        figures,
        [timeline(side) for side in sides] if is_outage else [],
        [Filling(side, [0.0, 10.0, 25.0], [0, 500_000, 1_000_000]) for side in sides] if is_keys else [],
        [
            Footprint(side, count, 50e6 + 100 * count, 1e6 + 300 * count)
            for count in (0, 10_000, 1_000_000)
            for side in sides
        ]
        if is_keys
        else [],
    )


def timeline(side: str) -> Timeline:
    survivors, orphans = [66] * 40, [33] * 40
    survivors[20:32], orphans[20:32] = [0] * 12, [0] * 12
    failed = [0] * 40
    failed[25] = 70
    return Timeline(side, "n1", 0.1, -2.0, survivors, orphans, failed, [5.0] * 40)


def results(sides: Sequence[str] = BOTH_SIDES) -> Results:
    return Results({cases.name: group(cases.name, sides) for cases in GROUPS})
