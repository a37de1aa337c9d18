"""Parts: the node's parts that repair works on, under one name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.coordination.drive import Context
from cluster.membership.fitness import Fitness
from cluster.membership.topology import Topology
from cluster.repair.hash_trees import HashTrees
from cluster.replica.marks import PartitionMarks
from cluster.replica.replica import Replica
from cluster.tasks import Tasks
from storage.engine import Engine
from storage.group_commit import GroupCommit


@dataclass(frozen=True, slots=True)
class Parts:
    """One node's."""

    context: Context
    replica: Replica
    engine: Engine
    commits: GroupCommit
    marks: PartitionMarks
    trees: HashTrees
    fitness: Fitness
    tasks: Tasks
    topology: Callable[[], Topology]
    slot: int
