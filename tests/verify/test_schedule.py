"""The plan of faults: drawn from a seed and told before anything happens; what counts as having acted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvstore.verify.faults.cluster import LocalCluster
from kvstore.verify.faults.schedule import GROUPS, KINDS, Schedule, chosen_kinds
from kvstore.verify.history import Outcome
from kvstore.verify.workloads.worker import Effort


@pytest.fixture
def cluster(tmp_path: Path) -> LocalCluster:
    """One that is never started."""
    cluster = LocalCluster(tmp_path, 3, ["true"], dice=random.Random(1))
    cluster._claim.close()
    return cluster


def plan(cluster: LocalCluster, seed: int, faults: str = "all", time_s: float = 60.0) -> list[tuple[str, float, str]]:
    schedule = Schedule(cluster, chosen_kinds(faults), time_s, seed)
    return [(acting.name, acting.for_s, acting.fault.says) for acting in schedule.actings]


def test_a_seed_is_a_plan(cluster: LocalCluster) -> None:
    assert plan(cluster, 1) == plan(cluster, 1)
    assert plan(cluster, 1) != plan(cluster, 2)


def test_every_fault_comes_once_before_any_comes_again(cluster: LocalCluster) -> None:
    names = [name for name, _, _ in plan(cluster, 3, time_s=600)]
    assert set(names) == set(KINDS)
    kills, pauses = names.count("kill"), names.count("pause")
    assert abs(kills - pauses) <= 1
    assert kills > 1


@pytest.mark.parametrize("nodes", [3, 5])
def test_no_cut_takes_more_than_a_minority(tmp_path: Path, nodes: int) -> None:
    cluster = LocalCluster(tmp_path, nodes, ["true"], dice=random.Random(1))
    cluster._claim.close()
    for seed in range(20):
        for acting in Schedule(cluster, chosen_kinds("kill,pause,isolate,halves,one-way,wipe"), 30, seed).actings:
            assert 0 < len(acting.fault.victims) < nodes / 2


def test_names_and_groups() -> None:
    assert chosen_kinds("none") == []
    assert chosen_kinds("all") == list(KINDS)
    assert chosen_kinds("pause, kill") == ["kill", "pause"]
    assert set(chosen_kinds("partition,kill")) == {*GROUPS["partition"], "kill"}
    with pytest.raises(ValueError, match="fire"):
        chosen_kinds("kill,fire")


def test_what_calls_felt_is_counted_of_the_victims_own_clients(cluster: LocalCluster) -> None:
    schedule = Schedule(cluster, ["kill"], 5.0, 1)
    acting = schedule.actings[0]
    victim, other = acting.fault.victims[0], cluster.others(*acting.fault.victims)[0]
    acting.begin_s, acting.end_s = 10.0, 20.0
    usual = [Effort(1.0 + place / 100, 1.005 + place / 100, other, Outcome.OK, "register") for place in range(50)]
    schedule.count(
        [
            *usual,
            Effort(11.0, 11.1, victim, Outcome.FAIL, "register"),
            Effort(9.5, 11.5, victim, Outcome.UNKNOWN, "register"),
            Effort(12.0, 14.0, victim, Outcome.OK, "register"),
            Effort(12.0, 12.1, other, Outcome.FAIL, "register"),
            Effort(21.0, 22.0, victim, Outcome.FAIL, "register"),
        ]
    )
    assert (acting.failed, acting.slowed) == (2, 2)
    assert acting.has_acted


def test_what_nobody_saw_has_not_acted(cluster: LocalCluster) -> None:
    schedule = Schedule(cluster, ["kill", "slow"], 5.0, 1)
    for acting in schedule.actings:
        acting.begin_s, acting.end_s = 10.0, 20.0
    schedule.count([])
    assert schedule.missed() == ["kill", "slow"]
    for acting in schedule.actings:
        acting.seen = "something"
    assert schedule.missed() == []
    schedule.actings[0].why_not = "it could not begin"
    assert schedule.missed() == [schedule.actings[0].name]
