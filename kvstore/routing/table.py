"""What nodes told of their cluster, and what follows from it for one client: which endpoint to ask about a key. Pure.

Only endpoints that the client was given are ever named: addresses that nodes tell may not be reached from where the
client is (containers, port mappings, loopback). Who stands behind an endpoint is what answered there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated

import msgspec

from cluster.membership.placement import partition_of, replica_set
from kvstore.routing.route import Route
from kvstore.settings import PARTITIONS_MAX
from storage.ballot import SLOTS_MAX

_FIT_STATES = frozenset({"self", "alive"})


class MemberTold(msgspec.Struct, frozen=True):
    """A member, as a node sees it."""

    name: str
    zone: str
    state: str
    unfit: tuple[str, ...] = ()

    @property
    def is_fit(self) -> bool:
        """Whether that node would let it be a primary."""
        return self.state in _FIT_STATES and not self.unfit


class Overview(msgspec.Struct, frozen=True):
    """GET /v1/cluster, as far as placement goes."""

    cluster_id: str
    node: str
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    n: Annotated[int, msgspec.Meta(ge=1, le=SLOTS_MAX)]
    partitions: Annotated[int, msgspec.Meta(ge=1, le=PARTITIONS_MAX)]
    members: Annotated[tuple[MemberTold, ...], msgspec.Meta(min_length=1, max_length=SLOTS_MAX)]


decode_overview = msgspec.json.Decoder(Overview).decode
"""Raises msgspec.MsgspecError for what no node would say."""


class RoutingTable:
    """Of one moment. `without()` makes the next."""

    def __init__(
        self,
        overview: Overview,
        endpoints: Mapping[str, str],
        fit: Collection[str],
        turn: int,
    ) -> None:
        """overview: of the newest topology; endpoints: by the name of the node; fit: the names of who may be asked.

        turn: any number. Which of its replicas a client asks about a key is always the same, and clients of different
        turns share the replicas among them.
        """
        self._overview, self._endpoints, self._fit, self._turn = overview, endpoints, frozenset(fit), turn
        self._zones = {member.name: member.zone for member in overview.members}
        self._replicas: dict[int, tuple[str, ...]] = {}
        self._chosen: dict[tuple[int, bool], str | None] = {}
        self.signatures = {
            endpoint: f'coordinator="{name}", epoch={overview.epoch},' for name, endpoint in endpoints.items()
        }
        """By endpoint: what a receipt has in it as long as this table is right."""

    @staticmethod
    def of(told: Mapping[str, Overview], turn: int) -> RoutingTable | None:
        """The table that follows from what was told, by endpoint; None where there is nothing to choose.

        Of several topologies the newest counts, of several clusters that of the first endpoint. A member is fit when
        more than half of those who speak of it say so: one that is cut off calls itself fit, and all the others not.
        """
        first = next(iter(told.values()), None)
        if first is None:
            return None
        epoch = max(one.epoch for one in told.values() if one.cluster_id == first.cluster_id)
        spoken = (first.cluster_id, epoch)
        voices = {endpoint: one for endpoint, one in told.items() if (one.cluster_id, one.epoch) == spoken}
        endpoints: dict[str, str] = {}
        for endpoint, one in voices.items():
            endpoints.setdefault(one.node, endpoint)
        if epoch < 1 or len(endpoints) < 2:
            return None
        called_fit = Counter(member.name for one in voices.values() for member in one.members if member.is_fit)
        fit = {name for name, count in called_fit.items() if 2 * count > len(voices)}
        return RoutingTable(next(iter(voices.values())), endpoints, fit, turn)

    @property
    def all_are_replicas(self) -> bool:
        """Whether every node holds every key."""
        return self._overview.n >= len(self._zones)

    def endpoint_for(self, route: Route) -> str | None:
        """Whom to ask first; None where that makes no difference, or nobody is known."""
        if self.all_are_replicas and not route.to_primary:
            return None
        choice = (partition_of(route.key, self._overview.partitions), route.to_primary)
        if choice not in self._chosen:
            self._chosen[choice] = self._choose(*choice)
        return self._chosen[choice]

    def replicas_of(self, partition: int) -> tuple[str, ...]:
        """The names of the nodes that hold the partition, in order of preference: the cluster's own rule."""
        found = self._replicas.get(partition)
        if found is None:
            found = self._replicas[partition] = replica_set(partition, self._zones, self._overview.n)
        return found

    def without(self, endpoint: str) -> RoutingTable:
        """The same, but that this endpoint is not asked first any more."""
        left = {name: one for name, one in self._endpoints.items() if one != endpoint}
        return RoutingTable(self._overview, left, self._fit, self._turn)

    def _choose(self, partition: int, to_primary: bool) -> str | None:
        """The primary is the first that is fit, for the cluster as for us."""
        names = self.replicas_of(partition)
        if not to_primary:
            cut = self._turn % len(names)
            names = names[cut:] + names[:cut]
        return next((self._endpoints[name] for name in names if name in self._fit and name in self._endpoints), None)
