"""Which partition holds a key, and which nodes hold a partition.

Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998): rendezvous hashing. Each node has
a score for each partition; the highest N hold it, in that order. When a node comes or goes only the partitions
move that it gains or loses. Zones are kept apart: a second replica in a zone is taken only when every zone has one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from zlib import crc32

KNUTH = 2_654_435_761
"""The prime nearest to 2^32 divided by the golden ratio."""


def partition_of(key: bytes, partitions: int) -> int:
    """The partition, 0..partitions-1, of a key. The same on every node, version and machine.

    CRC-32 is not meant to spread, so its bits are mixed by Knuth's multiplication ("The Art of Computer Programming",
    volume 3, section 6.4); together they cost a tenth of a cryptographic hash, several times a request.
    """
    return ((crc32(key) * KNUTH & 0xFFFF_FFFF) >> 8) % partitions


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
