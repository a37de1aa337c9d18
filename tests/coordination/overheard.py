"""What nodes say to one another, for tests that count it."""

from __future__ import annotations

from cluster.protocol.messages import Accept, Heartbeat, Request, Volley
from tests.coordination.three_nodes import Cluster, Rule

Said = list[tuple[int, Request]]
"""(target, request)"""


def watch(cluster: Cluster) -> Said:
    """What nodes ask of one another from now on: (target, request)."""
    said: Said = []
    rule_for = cluster.network.rule_for

    def noting(source: int, target: int, request: Request) -> Rule:
        if not isinstance(request, Heartbeat):
            said.append((target, request))
        return rule_for(source, target, request)

    cluster.network.rule_for = noting  # type: ignore[method-assign]
    return said


def accepts(said: Said) -> list[Accept]:
    """Those that went in volleys, to whichever replica."""
    return [accept for _, request in said if isinstance(request, Volley) for accept in request.accepts]
