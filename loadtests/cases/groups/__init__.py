"""The groups of cases: each module measures some, draws them, and says in words what is seen."""

from loadtests.cases.groups import (
    batch,
    compare_and_set,
    connections,
    fixed_rate,
    hot_key,
    keys,
    levels,
    members,
    outage,
    value_sizes,
)
from loadtests.cases.groups.group import CaseGroup

GROUPS: tuple[CaseGroup, ...] = (
    levels.GROUP,
    keys.GROUP,
    value_sizes.GROUP,
    connections.GROUP,
    hot_key.GROUP,
    compare_and_set.GROUP,
    members.GROUP,
    outage.GROUP,
    batch.GROUP,
    fixed_rate.GROUP,
)
"""In the order of the page."""
