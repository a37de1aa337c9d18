"""Whatever happened to a replica, the cluster brings it back to equal by itself; see convergence.py for the stories."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.convergence import away, partitioned
from tests.cluster.harness import ClusterHarness
from tests.cluster.links import Links

KEYS, CHANGES = 3_000, 1_000
LIMIT_S = 120.0
"""A bound on hanging, on a loaded machine; how quick it is, `make convergence` tells."""


@pytest.mark.timeout(400)
def test_a_node_that_was_away_becomes_equal_without_a_reader(tmp_path: Path) -> None:
    with ClusterHarness(tmp_path) as cluster:
        result = away(cluster, KEYS, CHANGES, seed=1, limit_s=LIMIT_S, say=print)
    assert result.keys == KEYS + CHANGES // 4
    assert 0 < result.live < result.keys, "deletions are there, and are not all there is"


@pytest.mark.timeout(400)
def test_two_sides_of_a_partition_become_equal_without_a_reader(tmp_path: Path) -> None:
    with Links(tmp_path) as cluster:
        result = partitioned(cluster, KEYS, CHANGES, seed=2, limit_s=LIMIT_S, say=print)
    assert result.keys == KEYS
    assert 0 < result.live < KEYS
