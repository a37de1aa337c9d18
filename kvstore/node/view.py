"""What a node shows of the cluster: members, placement, fitness, convergence. Nothing here waits, or decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.clock import Clock
from cluster.link.handshake import Identity
from cluster.link.transport import PeerTransport
from cluster.membership.fitness import WORDS, Bar
from cluster.membership.membership import Membership
from cluster.membership.placement import partition_of
from cluster.node import ClusterNode
from kvstore.config import NodeConfig
from kvstore.http.backend import ConvergenceView, MemberState, MemberView

MEETING_S = 1.5
"""How long a node that has just started waits for all its peers before it calls itself ready: nodes that see
different peers disagree on who is primary, and then strong writes of one key may duel instead of queueing."""


class NodeView:
    """A ClusterView (kvstore/http/backend.py) of one running node."""

    def __init__(
        self,
        config: NodeConfig,
        membership: Membership,
        cluster: ClusterNode,
        transport: PeerTransport,
        clock: Clock,
        identity: Callable[[], Identity],
        is_draining: Callable[[], bool],
    ) -> None:
        self._config, self._membership, self._cluster, self._transport = config, membership, cluster, transport
        self._clock, self._identity, self._is_draining = clock, identity, is_draining
        self.slot = cluster.slot
        self._met_by_s = float("inf")

    def has_started(self) -> None:
        """From now on the node meets its peers."""
        self._met_by_s = self._clock.monotonic_s() + MEETING_S

    @property
    def node_name(self) -> str:
        """See ClusterView."""
        return self._config.name

    @property
    def cluster_name(self) -> str:
        """See ClusterView."""
        return self._config.cluster_name

    @property
    def cluster_id(self) -> str:
        """See ClusterView."""
        return self._membership.topology.cluster_id

    @property
    def epoch(self) -> int:
        """See ClusterView."""
        return self._membership.topology.epoch

    @property
    def n(self) -> int:
        """See ClusterView."""
        return self._membership.topology.n

    @property
    def partitions(self) -> int:
        """See ClusterView."""
        return self._membership.topology.partitions

    @property
    def members(self) -> Sequence[MemberView]:
        """See ClusterView."""
        return [self._view(slot) for slot in sorted(self._membership.topology.by_slot)]

    def _view(self, slot: int) -> MemberView:
        member = self._membership.topology.by_slot[slot]
        identity = self._identity() if slot == self.slot else self._transport.identities.get(slot)
        peer = f"[{member.peer_host}]" if ":" in member.peer_host else member.peer_host
        return MemberView(
            name=member.name,
            slot=slot,
            http=identity.http if identity is not None else None,
            peer=f"{peer}:{member.peer_port}",
            zone=member.zone,
            state=self._state(slot),
            incarnation=identity.incarnation if identity is not None else None,
            unfit=self._unfit(slot),
        )

    def _state(self, slot: int) -> MemberState:
        if slot == self.slot:
            return "self"
        if self._transport.is_alive(slot):
            return "alive"
        return "suspect" if self._transport.is_connected(slot) else "down"

    def _unfit(self, slot: int) -> tuple[str, ...]:
        cluster = self._cluster
        if slot == self.slot:
            return tuple(cluster.fitness.reasons)
        seen = cluster.wall_watch.why_refuse(slot)
        said = cluster.roster.bars.get(slot, Bar(0)) & ~(Bar.BAD_CLOCK if seen else Bar(0))
        return (*(() if seen is None else (seen,)), *(WORDS[bar] for bar in said))

    @property
    def moving(self) -> Sequence[int]:
        """See ClusterView."""
        return ()

    def partition_of(self, key: bytes) -> int:
        """See ClusterView."""
        return partition_of(key, self.partitions)

    def replica_set(self, partition: int) -> tuple[str, ...]:
        """See ClusterView."""
        topology = self._membership.topology
        return tuple(topology.by_slot[slot].name for slot in topology.replica_slots[partition])

    def primary(self, partition: int) -> str:
        """See ClusterView."""
        topology = self._membership.topology
        slots = topology.replica_slots[partition]
        slot = self._cluster.handover.primary_of(slots)
        return topology.by_slot[slots[0] if slot is None else slot].name

    @property
    def convergence(self) -> ConvergenceView:
        """See ClusterView."""
        cluster, ledger = self._cluster, self._cluster.anti_entropy.ledger
        standing, last_s = ledger.standing(), ledger.last_round_s
        return ConvergenceView(
            unfit=tuple(cluster.fitness.reasons),
            hints=len(cluster.hints),
            hints_bytes=cluster.hints.size_bytes,
            hints_sole=cluster.hints.soles,
            kept_aside=len(cluster.merge_back),
            partitions_in_sync=standing.in_sync,
            partitions_differing=standing.differing,
            partitions_unchecked=standing.unchecked,
            anti_entropy_age_s=None if last_s is None else round(self._clock.monotonic_s() - last_s, 1),
            quarantined=len(cluster.replica.damaged),
            recovering_partitions=len(cluster.fitness.recovering),
            purge_held_back_by=tuple(sorted(set(cluster.floors.held_back_by.values()))),
        )

    def unready(self) -> Sequence[str]:
        """See ClusterView."""
        reasons = list(self._cluster.fitness.reasons)
        if self._is_draining():
            reasons.append("this node is stopping and finishes what it has begun")
        if not self._membership.is_formed:
            waiting = ", ".join(self._membership.unheard)
            reasons.append(f"the first topology waits to hear in which zone these members stand: {waiting}")
        missing = self._unmet()
        if missing and self._clock.monotonic_s() < self._met_by_s:
            reasons.append(f"this node has just started and meets its peers first: {', '.join(missing)}")
        if not self._cluster.is_majority_visible():
            reasons.append("no replica set has a majority that is alive as seen from this node")
        return reasons

    def _unmet(self) -> Sequence[str]:
        """The members without a connection."""
        members = self._membership.topology.members
        return [member.name for member in members if not self._transport.is_connected(member.slot)]
