"""Which partition holds a key, and which nodes hold a partition.

Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998): rendezvous hashing. Each node has
a score for each partition; the highest N hold it, in that order. When a node comes or goes only the partitions
move that it gains or loses. Zones are kept apart: a second replica in a zone is taken only when every zone has one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from storage.keyspace import HASH_BITS, hash_of


def partition_of(key: bytes, partitions: int) -> int:
    """The partition, 0..partitions-1, of a key: an equal slice of the key space, the same on every node."""
    return hash_of(key) * partitions >> HASH_BITS


def _score(partition: int, name: str) -> bytes:
    return blake2b(f"{partition}/{name}".encode(), digest_size=8).digest()


def replica_set(partition: int, zones: Mapping[str, str], replicas: int) -> tuple[str, ...]:
    """The names of the nodes that hold the partition, in order of preference.

    zones: node name -> zone, for every member. Gives min(replicas, members) names.
    """
    by_score = sorted(zones, key=lambda name: (_score(partition, name), name), reverse=True)
    chosen: list[str] = []
    used: Counter[str] = Counter()
    while len(chosen) < min(replicas, len(by_score)):
        rest = [name for name in by_score if name not in chosen]
        fewest = min(used[zones[name]] for name in rest)
        name = next(name for name in rest if used[zones[name]] == fewest)
        chosen.append(name)
        used[zones[name]] += 1
    return tuple(chosen)


def all_replica_sets(partitions: int, zones: Mapping[str, str], replicas: int) -> Sequence[tuple[str, ...]]:
    """The replica set of each partition, by its number."""
    return [replica_set(partition, zones, replicas) for partition in range(partitions)]
