"""Hash trees: what tells two equal replicas of a million keys apart from two unequal ones in a few hundred bytes.

Merkle, "A Digital Signature Based on a Conventional Encryption Function" (1987), as Dynamo uses it (DeCandia et al.,
2007, section 4.7): compare the root, descend where it differs. Here a tree has two levels, one root per partition and
LEAVES leaves, each the sum of the digests of its entries. A sum can be kept up with each write by one subtraction and
one addition; it goes to disk in the transaction of the rows that changed it, so no start ever scans.

An entry is (key, accepted ballot, fences): one ballot never bears two values, but may have been joined with other
fences on one replica than on another (protocol/acceptor.py). Promises are not compared.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from hashlib import blake2b

from storage.ballot import NONE
from storage.engine import Engine
from storage.fences import digest_of
from storage.keyspace import HASH_BITS, bounds_of, hash_of
from storage.record import Record

LEAVES = 256
"""Leaves per partition: a partition's row of sums is 2 KiB, and with 64 partitions a million keys are 61 a leaf."""
DIGEST_BYTES = 8
ROWS_PER_PAGE = 4_096
"""Rows that a rebuilding has in memory at a time."""
_MASK = (1 << 64) - 1
_empty = blake2b(digest_size=DIGEST_BYTES)
"""Copied, for that is quicker than to set one up anew."""


def digest_of_record(key: bytes, record: Record | None) -> int:
    """What stands for this record of the key; 0 for none."""
    if record is None:
        return 0
    if record.fences:
        return digest(key, record.ballot, digest_of(record.fences))
    # digest() without fences, written out: three times a put
    hashing = _empty.copy()
    hashing.update(record.ballot.to_bytes(8, "big") + key)
    return int.from_bytes(hashing.digest(), "big")


def digest(key: bytes, ballot: int, fences: int = 0) -> int:
    """64 bits that stand for this key's record under this ballot, with these fences (fences.digest_of, 0 for none)."""
    entry = ballot.to_bytes(8, "big") + key
    if fences:  # apart from the key, whose end could be taken for them
        hashed = blake2b(entry, digest_size=DIGEST_BYTES, salt=fences.to_bytes(8, "big"))
    else:
        hashed = blake2b(entry, digest_size=DIGEST_BYTES)
    return int.from_bytes(hashed.digest(), "big")


class HashTrees:
    """The trees of all partitions, in memory: 8 bytes a leaf."""

    def __init__(self, partitions: int, sums: Mapping[int, int]) -> None:
        """sums: those on disk, by leaf number 0..partitions*LEAVES-1; a leaf that is not there is empty."""
        self._partitions, self._leaves_in_all = partitions, partitions * LEAVES
        self._sums = array("Q", bytes(8 * self._leaves_in_all))
        self._roots: dict[int, int] = {}
        """Of the partitions of which nothing has changed since somebody asked."""
        for leaf, total in sums.items():
            self._sums[leaf] = total

    def leaf_of(self, key: bytes) -> int:
        """The number of the leaf that the key is in; its partition is leaf // LEAVES."""
        return hash_of(key) * self._leaves_in_all >> HASH_BITS

    def partition_of(self, key: bytes) -> int:
        """The partition that the key is in."""
        return hash_of(key) * self._partitions >> HASH_BITS

    def replace(
        self, key: bytes, before: int, after: int, fences_before: int = 0, fences_after: int = 0
    ) -> tuple[int, int]:
        """The key's accepted ballot changed, NONE for no record, or its fences; gives its leaf and that one's sum."""
        of_after = digest(key, after, fences_after) if after != NONE else 0
        return self.exchange(hash_of(key), digest(key, before, fences_before) if before != NONE else 0, of_after)

    def exchange(self, place: int, before: int, after: int) -> tuple[int, int]:
        """The same for a key that is at this place, from digest to digest; 0 is that of no record."""
        leaf = place * self._leaves_in_all >> HASH_BITS
        total = self._sums[leaf] = (self._sums[leaf] + after - before) & _MASK
        if self._roots:
            self._roots.pop(leaf // LEAVES, None)
        return leaf, total

    async def rebuild(self, engine: Engine) -> dict[int, int]:
        """Sums up all rows anew, for when the sums on disk are lost; gives those that are not 0, for the disk.

        Nothing may be written meanwhile, so it has its place before the node serves.
        """
        self._sums = array("Q", bytes(8 * self._leaves_in_all))
        self._roots.clear()
        after, is_complete = None, False
        while not is_complete:
            page = await engine.rows(0, 1 << HASH_BITS, after, ROWS_PER_PAGE)
            for row in page.rows:
                self.replace(row.key, NONE, row.ballot, 0, row.fences)
                after = (hash_of(row.key), row.key)
            is_complete = page.complete
        return {leaf: total for leaf, total in enumerate(self._sums) if total}

    def root(self, partition: int) -> int:
        """The sum over the whole partition: worked out when somebody compares, not with each write."""
        root = self._roots.get(partition)
        if root is None:
            root = sum(self._sums[partition * LEAVES : (partition + 1) * LEAVES]) & _MASK
            self._roots[partition] = root
        return root

    def sum_of(self, leaf: int) -> int:
        """The sum of one leaf."""
        return self._sums[leaf]

    def set_sum(self, leaf: int, total: int) -> tuple[int, int]:
        """Puts a leaf right that was summed up anew; gives it and its sum, for the disk."""
        self._sums[leaf] = total = total & _MASK
        self._roots.pop(leaf // LEAVES, None)
        return leaf, total

    def leaf_sums(self, partition: int) -> list[int]:
        """The sums of its leaves, in order."""
        return list(self._sums[partition * LEAVES : (partition + 1) * LEAVES])

    def leaves_of(self, partition: int) -> range:
        """The numbers of its leaves."""
        return range(partition * LEAVES, (partition + 1) * LEAVES)

    def places_of(self, partition: int) -> tuple[int, int]:
        """The range of the key space that a partition covers: its first place, and the first behind it."""
        return bounds_of(partition, self._partitions)

    def places(self, leaf: int) -> tuple[int, int]:
        """The range of the key space that a leaf covers: its first place, and the first behind it."""
        return bounds_of(leaf, self._leaves_in_all)


def pack(numbers: Iterable[int]) -> bytes:
    """64-bit numbers as one string of bytes."""
    return b"".join(number.to_bytes(DIGEST_BYTES, "big") for number in numbers)


def unpack(packed: bytes) -> list[int]:
    """The numbers of pack(). Raises ValueError for a length that no pack() has."""
    if len(packed) % DIGEST_BYTES:
        raise ValueError("sums and digests have 8 bytes each")
    return [int.from_bytes(packed[at : at + DIGEST_BYTES], "big") for at in range(0, len(packed), DIGEST_BYTES)]
