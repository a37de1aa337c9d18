"""Where a key lies in the key space: a stable 32-bit hash, the same on every node, version and machine.

Partitions and the leaves of the hash trees are equal ranges of this hash, whatever their number, so a partition is a
range of rows and a leaf a smaller one.
"""

from __future__ import annotations

from zlib import crc32

HASH_BITS = 32
_KNUTH = 2_654_435_761
"""The prime nearest to 2^32 divided by the golden ratio."""


def hash_of(key: bytes) -> int:
    """The place of the key, 0 to 2^32 - 1.

    CRC-32 is not meant to spread, so its bits are mixed by Knuth's multiplication ("The Art of Computer Programming",
    volume 3, section 6.4); together they cost a tenth of a cryptographic hash, several times a request.
    """
    return crc32(key) * _KNUTH & 0xFFFF_FFFF


def slice_of(place: int, slices: int) -> int:
    """Which of so many equal slices of the key space this place is in."""
    return place * slices >> HASH_BITS


def bounds_of(number: int, slices: int) -> tuple[int, int]:
    """The first place of a slice, and the first behind it."""
    return -(-(number << HASH_BITS) // slices), -(-((number + 1) << HASH_BITS) // slices)
