"""The topology: members, replication factor, partitions, and the epoch that numbers it.

Everything that depends on who is a member is worked out once, here, when a topology is made. A request runs under
one topology from its beginning to its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from hashlib import sha256
from zlib import crc32

import msgspec

from cluster.levels import majority
from cluster.membership.placement import all_replica_sets, partition_of
from storage.ballot import SLOTS_MAX


class Member(msgspec.Struct, frozen=True):
    """One node of the cluster. The peer address is where other nodes reach it."""

    name: str
    slot: int
    peer_host: str
    peer_port: int
    zone: str = ""


class Topology(msgspec.Struct, frozen=True, dict=True):
    """Who is in the cluster and who holds what. Immutable; a change makes a new one with the next epoch."""

    cluster_id: str
    epoch: int
    members: tuple[Member, ...]
    replicas: int
    """The replication factor that was asked for; `n` is what the members allow."""
    partitions: int

    @cached_property
    def n(self) -> int:
        """Replicas of each key."""
        return min(self.replicas, len(self.members))

    @cached_property
    def majority(self) -> int:
        """Replicas of which any two groups share one."""
        return majority(self.n)

    @cached_property
    def by_slot(self) -> dict[int, Member]:
        """Members by slot."""
        return {member.slot: member for member in self.members}

    @cached_property
    def by_name(self) -> dict[str, Member]:
        """Members by name."""
        return {member.name: member for member in self.members}

    @cached_property
    def replica_slots(self) -> tuple[tuple[int, ...], ...]:
        """The slots that hold each partition, in order of preference."""
        zones = {member.name: member.zone for member in self.members}
        sets = all_replica_sets(self.partitions, zones, self.replicas)
        return tuple(tuple(self.by_name[name].slot for name in names) for names in sets)

    @cached_property
    def _voters(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(sorted(slots)) for slots in self.replica_slots)

    @cached_property
    def fingerprint(self) -> int:
        """32 bits that differ, all but surely, where anything in two topologies of one epoch differs."""
        return crc32(encode_topology(self))

    def names(self, slots: Iterable[int]) -> tuple[str, ...]:
        """The names of the members in these slots, in order."""
        return tuple(sorted(self.by_slot[slot].name for slot in slots))

    def replicas_of(self, key: bytes) -> tuple[int, ...]:
        """The slots that hold the key, in order of preference."""
        return self.replica_slots[partition_of(key, self.partitions)]

    def voters_of(self, key: bytes) -> tuple[int, ...]:
        """The same slots in ascending order: whom they prefer is one to those who vote."""
        return self._voters[partition_of(key, self.partitions)]


def form(
    cluster_name: str, addresses: dict[str, tuple[str, int]], zones: dict[str, str], replicas: int, partitions: int
) -> Topology:
    """The first topology, epoch 1, the same on every node that is given the same members.

    addresses: name -> peer host and port of every first member; zones: name -> zone. Slots follow the names'
    order. The cluster's id covers all that nodes must agree on before they may vote together.
    """
    if len(addresses) > SLOTS_MAX:
        raise ValueError(f"{len(addresses)} members, but slots end at {SLOTS_MAX - 1}")
    members = tuple(
        Member(name, slot, *addresses[name], zone=zones.get(name, "")) for slot, name in enumerate(sorted(addresses))
    )
    return Topology(cluster_id_of(cluster_name, addresses, replicas, partitions), 1, members, replicas, partitions)


def cluster_id_of(cluster_name: str, addresses: dict[str, tuple[str, int]], replicas: int, partitions: int) -> str:
    """32 hexadecimal digits that differ when name, members, replication factor or partitions differ."""
    listed = ",".join(f"{name}={host}:{port}" for name, (host, port) in sorted(addresses.items()))
    return sha256(f"{cluster_name}|{listed}|{replicas}|{partitions}".encode()).hexdigest()[:32]


encode_topology = msgspec.msgpack.Encoder().encode
decode_topology = msgspec.msgpack.Decoder(Topology).decode
